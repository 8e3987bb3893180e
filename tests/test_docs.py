"""What the documentation shows works: its Python, its commands, and the examples.

The blocks of a page are run in order, in one temporary directory. Python blocks share their names;
of ``bash`` blocks each line is run, of ``console`` blocks those after a ``$``, and what is shown
after a ``(Pdb)`` is typed into the command above it. A comment above a block, as in ``<!-- test:
exit code 2 -->``, says what is different about it:

    exit code N       the commands end with that exit code instead of 0
    interrupted       they get a Ctrl-C as soon as the first episode is recorded
    file PATH         the block is written to that file, for the blocks below
    skip, REASON      the block is not run
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
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
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))

PROGRAMS = {"maze-run": "maze.cli.maze_run", "maze": "maze.cli.maze"}
"""The commands that can be shown, and their modules."""

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
    is_interrupted: bool


class Command(NamedTuple):
    """A command of a block."""

    text: str
    typed: str
    """Into its debugger."""

    def arguments(self) -> list[str]:
        """Return what to start."""
        program, *arguments = shlex.split(self.text)
        return [sys.executable, "-m", PROGRAMS[program], *arguments]


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
        exit_code, path, is_interrupted = 0, "", False
        kind, _, rest = (match["mark"] or "").replace(",", "").partition(" ")
        if kind == "skip":
            assert rest, f"{name}:{line} is skipped without a reason"
            continue
        if kind == "file":
            path = rest
        elif kind == "exit":
            exit_code = int(rest.removeprefix("code "))
        elif kind == "interrupted":
            exit_code, is_interrupted = 130, True
        else:
            assert not kind, f"{name}:{line} has an unknown mark: {match['mark']}"
        yield Block(
            f"{name}:{line}", match["language"], match["text"], exit_code, path, is_interrupted
        )


def commands(block: Block) -> list[Command]:
    """Return the commands of a block, all of which have to be ours."""
    found: list[Command] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console":
            if line.startswith("(Pdb) ") and found:
                found[-1] = found[-1]._replace(typed=f"{found[-1].typed}{line[6:]}\n")
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        if line.strip() and not line.startswith("#"):
            program = line.partition(" ")[0]
            assert program in PROGRAMS, f"{block.place} has '{line}': skip it with a reason"
            found.append(Command(line, ""))
    return found


def run(
    arguments: list[str],
    directory: Path,
    exit_code: int = 0,
    typed: str = "",
    is_interrupted: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, without a display, and check how it ends."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    runs_before = set(directory.rglob("journal.jsonl"))
    with subprocess.Popen(
        arguments,
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if is_interrupted:
                wait_for_an_episode(process, directory, runs_before)
                process.send_signal(signal.SIGINT)
            output, errors = process.communicate(typed, timeout=100)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == exit_code, output + errors
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def wait_for_an_episode(
    process: subprocess.Popen[str], directory: Path, runs_before: set[Path]
) -> None:
    """Wait until a new run has recorded an episode, or its process has ended."""
    while process.poll() is None:
        for journal in set(directory.rglob("journal.jsonl")) - runs_before:
            if b'"kind": "episodes"' in journal.read_bytes():
                return
        time.sleep(0.01)


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
                try:
                    run(
                        command.arguments(),
                        directory,
                        block.exit_code,
                        command.typed,
                        block.is_interrupted,
                    )
                except AssertionError as error:
                    error.add_note(f"{block.place}: {command.text}")
                    raise
        else:
            lines = block.text.splitlines()
            shown = [line for line in lines if re.match(r"(\$ )?maze(-run)? ", line)]
            assert not shown, f"{block.place} shows a command, and is not marked as bash or console"


@pytest.mark.timeout(300)
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
        ("```console\n$ maze verify nowhere\n```\n", "a command about a run that fails"),
        ("```bash\nmake run\n```\n", "another command"),
        ("```\nmaze-run env=gym_env\n```\n", "a command in a block without a language"),
        ("```\nmaze verify run\n```\n", "another one"),
        ("<!-- test: exit code 2 -->\n```bash\nmaze-run --version\n```\n", "success is no failure"),
        (
            "<!-- test: interrupted -->\n```bash\nmaze-run --version\n```\n",
            "it ended before it could be interrupted",
        ),
        ("<!-- test: skip -->\n```python\n```\n", "a block that is skipped without a reason"),
        ("<!-- test: ignore -->\n```python\n```\n", "a mark that does not exist"),
        ("<!-- test: exit code 1 -->\n\n```python\n```\n", "a mark that is not above its block"),
        ("```python\n", "a block that does not end"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(page, why, tmp_path):
    with pytest.raises(AssertionError):
        run_page(page, "page.md", tmp_path)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_the_first_cell_to_the_last(notebook, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(cells, timeout=120, resources=resources).execute()
    outputs = [output for cell in cells.cells for output in cell.get("outputs", ())]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("<iframe" in data.get("text/html", "") for data in shown) == 2
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) == 2
    assert sum("image/png" in data for data in shown) == 1
    assert not [output for output in outputs if output.get("name") == "stderr"]
