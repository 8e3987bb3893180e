"""What is loaded when, and who may import whom: the picture in docs/architecture.md."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

import maze

PACKAGE = Path(maze.__file__).parent


def modules_below(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join([name, *parts]).removesuffix(".__init__"), path


MODULES = dict(modules_below(PACKAGE, "maze"))

# What is loaded.

HEAVY = "numpy gymnasium pyarrow torch pandas polars matplotlib hydra omegaconf ray rich av pygame"


def loaded_by(code: str, tmp_path: Path) -> tuple[set[str], str]:
    """Return which of the heavy packages are loaded after some code, and what it printed."""
    # After it, so that what the code prints comes first.
    tell = f"import sys, json; print(json.dumps(sorted(set({HEAVY.split()!r}) & set(sys.modules))))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *printed, names = done.stdout.splitlines()
    return set(json.loads(names)), "\n".join(printed) + done.stderr


def test_importing_the_package_loads_nothing_and_says_nothing(tmp_path):
    assert loaded_by("import maze; maze.__version__; dir(maze)", tmp_path) == (set(), "")


RUN = "from maze.core.rollout.{0}_rollout_runner import {1}RolloutRunner as Runner; Runner("
OPTIONS = "n_episodes=3, record_trajectory={0}, record_event_logs={0}).run_with('CartPole-v1')"


@pytest.mark.parametrize(
    ("code", "light"),
    [
        # ... loads nothing of
        ("import maze.api", "torch pandas polars matplotlib hydra omegaconf ray av pygame rich"),
        (
            RUN.format("sequential", "Sequential") + OPTIONS.format(False),
            "torch pandas polars matplotlib hydra omegaconf ray av pygame rich",
        ),
        (
            RUN.format("sequential", "Sequential") + OPTIONS.format(True),
            "torch pandas polars matplotlib hydra omegaconf ray av pygame rich",
        ),
        (
            RUN.format("parallel", "Parallel") + "n_processes=2, " + OPTIONS.format(True),
            "torch pandas polars matplotlib hydra omegaconf ray av pygame rich",
        ),
        (
            "import maze; print(str(maze.rollout('CartPole-v1', n_episodes=3))[:0], end='')",
            "torch pandas polars matplotlib hydra omegaconf ray av pygame",
        ),
    ],
    ids=["api", "sequential", "sequential, recorded", "parallel, recorded", "one line, printed"],
)
def test_a_rollout_loads_no_more_than_it_needs(code, light, tmp_path):
    loaded, printed = loaded_by(code, tmp_path)
    assert loaded & set(light.split()) == set()
    assert "numpy" in loaded
    assert printed == ""


def test_the_check_sees_what_is_loaded(tmp_path):
    assert loaded_by("import pandas; print('hello')", tmp_path) == (
        {"numpy", "pandas"} | (loaded_by("import pandas", tmp_path)[0]),
        "hello",
    )


IMPORT_EACH = """
import gymnasium, importlib, io, os, sys  # Gymnasium itself sets a variable.
cwd, environment, path = os.getcwd(), dict(os.environ), list(sys.path)
for name in {names!r}:
    module = importlib.import_module(name)
    assert os.getcwd() == cwd, name
    assert dict(os.environ) == environment, name
    assert sys.path == path, name
assert not os.listdir("."), os.listdir(".")
"""


def test_importing_any_module_has_no_effect_and_no_output(tmp_path):
    _, printed = loaded_by(IMPORT_EACH.format(names=list(MODULES)), tmp_path)
    assert printed == ""


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("maze.core")])
def test_every_module_says_why_it_exists(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or not text.strip(), name


# Who may import whom.

VALUES = (
    "maze.core.env.structured_env",
    "maze.core.agent.policy",
    "maze.core.events",
    "maze.core.statistics",
    "maze.core.trajectory",
    "maze.core.ledger",
    "maze.core.episode",
    "maze.core.episode_table",
    "maze.core.seeding",
    "maze.core.errors",
    "maze.core.factory",
    "maze.core.output_directory",
)
"""Interfaces and values, at the bottom."""

PARTS = ("maze.core.wrappers", "maze.core.agent", "maze.core.sinks", "maze.core.env")
"""What a rollout is made of; ``maze.core.env`` holds ``maze_env``."""

ABOVE_CORE = (
    *("maze.api", "maze.cli", "maze.conf", "maze.datasets", "maze.deployment"),
    *("maze.train", "maze.viewer", "maze_envs"),
)
HYDRA = ("hydra", "omegaconf")

Packages: TypeAlias = tuple[str, ...]

FORBIDDEN: list[tuple[Packages, Packages, Packages]] = [
    # who | imports nothing of | of that, these are allowed all the same
    (("maze.core",), (*ABOVE_CORE, *HYDRA, "torch", "ray"), ()),
    (
        ("maze.datasets",),
        ("maze.api", "maze.cli", "maze.conf", "maze.train", "maze.viewer", *HYDRA, "torch"),
        (),
    ),
    (("maze.train",), ("maze.api", "maze.cli", "maze.conf", "maze.viewer", *HYDRA), ()),
    (("maze.viewer",), ("maze.api", "maze.cli", "maze.conf", "maze.train", *HYDRA), ()),
    (("maze.api",), ("maze.cli", "maze.conf", "maze.train", "maze.viewer", *HYDRA), ()),
    (PARTS, ("maze.core.rollout",), ()),
    (VALUES, ("maze.core.rollout", *PARTS), VALUES),
    (("maze.core.errors", "maze.core.events"), ("maze", "numpy", "gymnasium", "pyarrow"), ()),
    (("maze", "maze_envs"), ("tests", "benchmarks", "examples", "pytest", "gym"), ()),
]

ONLY_WHEN_NEEDED = (
    *("pandas", "polars", "rich", "av", "yaml", "torch", "ray"),
    *("matplotlib", "pygame", "PIL", "pettingzoo"),
)
"""Nothing of core, api or the bundled environments imports these at the top of a module."""


class Import(NamedTuple):
    who: str
    what: str
    is_at_top: bool


def imports_of(name: str, text: str) -> list[Import]:
    """All imports of a module, also those within functions; not those for type checkers only."""
    found: list[Import] = []

    def visit(node: ast.AST, is_at_top: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend(Import(name, alias.name, is_at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write the whole path of what is imported"
            # What is imported may be a module itself, or a name in one.
            found.extend(
                Import(name, f"{node.module}.{alias.name}", is_at_top) for alias in node.names
            )
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, is_at_top and not is_function)

    visit(ast.parse(text), True)
    return found


IMPORTS = [
    found
    for name, path in [
        *MODULES.items(),
        *modules_below(PACKAGE.with_name("maze_envs"), "maze_envs"),
    ]
    for found in imports_of(name, path.read_text(encoding="utf-8"))
]


def is_below(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(
    imports: Iterable[Import], who: Packages, what: Packages, allowed: Packages
) -> list[str]:
    return [
        f"{found.who} imports {found.what}"
        for found in imports
        if is_below(found.who, who)
        and is_below(found.what, what)
        and not is_below(found.what, allowed)
    ]


@pytest.mark.parametrize(
    ("who", "what", "allowed"), FORBIDDEN, ids=[" ".join(row[0]) for row in FORBIDDEN]
)
def test_imports_point_downwards_only(who, what, allowed):
    assert offences(IMPORTS, who, what, allowed) == []


def test_big_libraries_are_imported_where_they_are_needed():
    at_top = [found for found in IMPORTS if found.is_at_top]
    # Whoever imports one of these wants networks.
    of_networks = [
        found
        for found in at_top
        if is_below(found.who, ("maze.train",)) or found.who.endswith(".models")
    ]
    # It is imported where a widget is wanted.
    of_widgets = [found for found in at_top if found.who == "maze.viewer.widgets"]
    others = [found for found in at_top if found not in [*of_networks, *of_widgets]]
    assert offences(others, ("maze", "maze_envs"), ONLY_WHEN_NEEDED, ()) == []
    assert offences(of_networks, ("maze", "maze_envs"), ONLY_WHEN_NEEDED, ("torch",)) == []
    for_widgets = ("pandas", "matplotlib")
    assert offences(of_widgets, ("maze",), ONLY_WHEN_NEEDED, for_widgets) == []


def test_environments_know_of_training_only_where_they_have_networks():
    of_envs = [found for found in IMPORTS if not found.who.endswith(".models")]
    assert offences(of_envs, ("maze_envs",), ("maze.train",), ()) == []


@pytest.mark.parametrize("names", [VALUES, PARTS], ids=["values", "parts"])
def test_the_picture_is_about_modules_that_exist(names):
    assert [name for name in names if name not in MODULES] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import maze.cli.messages", 1),
        ("import os, hydra.utils as u", 1),
        ("from maze import cli", 1),
        ("def f():\n    from omegaconf import DictConfig", 1),
        ("if TYPE_CHECKING:\n    from maze.cli import messages", 0),
        ("import hydration\nfrom maze.client import x", 0),
    ],
)
def test_the_picture_sees_every_kind_of_import(text, expected):
    found = imports_of("maze.core.seeding", text)
    assert len(offences(found, *FORBIDDEN[0])) == expected
