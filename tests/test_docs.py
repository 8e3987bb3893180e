"""What the documentation shows works: its Python, its commands, and the examples.

The blocks of a page are run in order, in one temporary directory. Python blocks share their names;
of ``bash`` blocks each line is run, of ``console`` blocks those after a ``$``. A comment above a
block, as in ``<!-- test: exit code 2 -->``, says what is different about it:

    exit code N       the commands end with that exit code instead of 0
    file PATH         the block is written to that file, for the blocks below
    skip, REASON      the block is not run
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "examples" / "own_project" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINKING_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

MAZE_RUN = (sys.executable, "-m", "maze.cli.maze_run")

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


class Block(NamedTuple):
    """A fenced block of a page."""

    place: str
    """Page and line, for messages."""
    language: str
    text: str
    exit_code: int
    path: str
    """Where to write the block instead of running it; empty to run it."""


def blocks(page: str, name: str) -> Iterator[Block]:
    """Yield the blocks of a page that are not skipped."""
    n_fences = len(re.findall(r"^```", page, re.M))
    found = list(_BLOCK.finditer(page))
    assert n_fences == 2 * len(found), f"{name} has a fence that is not closed"
    n_marks = page.count("<!-- test:")
    assert n_marks == sum(match["mark"] is not None for match in found), (
        f"{name} has a mark that is not directly above a block"
    )
    for match in found:
        line = page.count("\n", 0, match.start("text"))
        exit_code, path = 0, ""
        kind, _, rest = (match["mark"] or "").replace(",", "").partition(" ")
        if kind == "skip":
            assert rest, f"{name}:{line} is skipped without a reason"
            continue
        if kind == "file":
            path = rest
        elif kind == "exit":
            exit_code = int(rest.removeprefix("code "))
        else:
            assert not kind, f"{name}:{line} has an unknown mark: {match['mark']}"
        yield Block(f"{name}:{line}", match["language"], match["text"], exit_code, path)


def commands(block: Block) -> list[str]:
    """Return the commands of a block, all of which have to be ``maze-run``."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found = [line for line in lines if line.strip() and not line.startswith("#")]
    for line in found:
        assert line.startswith("maze-run "), f"{block.place} has '{line}': skip it with a reason"
    return found


def run(
    arguments: list[str], directory: Path, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, without a display, and check how it ends."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    finished = subprocess.run(
        arguments, cwd=directory, env=environment, capture_output=True, text=True, timeout=100
    )
    assert finished.returncode == exit_code, finished.stdout + finished.stderr
    return finished


def run_page(page: str, name: str, directory: Path) -> None:
    """Run the blocks of a page."""
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks(page, name):
        if block.path:
            path = directory / block.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec", dont_inherit=True), names)
        elif block.language in ("bash", "console"):
            for command in commands(block):
                arguments = shlex.split(command)[1:]
                try:
                    run([*MAZE_RUN, *arguments], directory, block.exit_code)
                except AssertionError as error:
                    error.add_note(f"{block.place}: {command}")
                    raise
        else:
            shown = [line for line in block.text.splitlines() if re.match(r"(\$ )?maze-run ", line)]
            assert not shown, f"{block.place} shows a command, and is not marked as bash or console"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_works(page, tmp_path, monkeypatch):
    directory = tmp_path / "here"
    if page.parent.name == "own_project":
        shutil.copytree(page.parent, directory)
    else:
        directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delenv("DISPLAY", raising=False)
    run_page(page.read_text(encoding="utf-8"), page.name, directory)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs(example, tmp_path):
    finished = run([sys.executable, str(example)], tmp_path)
    assert finished.stdout
    assert not finished.stderr
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind where it is run"


@pytest.mark.parametrize("page", LINKING_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name} links to {link}"


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("```python\nassert 1 == 2\n```\n", "Python that fails"),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "names are shared"),
        ("```bash\nmaze-run env=no_such_env\n```\n", "a command that fails"),
        ("```console\n$ maze-run env=no_such_env\n```\n", "a command with a prompt that fails"),
        ("```bash\nmake run\n```\n", "another command"),
        ("```\nmaze-run env=gym_env\n```\n", "a command in a block without a language"),
        ("<!-- test: exit code 2 -->\n```bash\nmaze-run --version\n```\n", "success is no failure"),
        ("<!-- test: skip -->\n```python\n```\n", "a block that is skipped without a reason"),
        ("<!-- test: ignore -->\n```python\n```\n", "a mark that does not exist"),
        ("<!-- test: exit code 1 -->\n\n```python\n```\n", "a mark that is not above its block"),
        ("```python\n", "a block that does not end"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(page, why, tmp_path):
    with pytest.raises(AssertionError):
        run_page(page, "page.md", tmp_path)
