"""A run that is killed at any moment holds what counted, and is completed as if undisturbed.

Not at moments by chance, as in ``test_slow``, but before, in the middle of and after each write,
and before each change of a file name: of new runs, and of those that go on.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import maze
from tests.commands import REPOSITORY
from tests.crashing import BAD, SCENARIOS
from tests.runs import assert_equal, content, is_same, plain


@pytest.fixture(scope="module")
def crashing() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.crashing"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def is_killed(crashing: subprocess.Popen[str], *what: str | int) -> bool:
    """Play until the moment, and return whether there was such a moment."""
    assert crashing.stdin is not None
    assert crashing.stdout is not None
    crashing.stdin.write(json.dumps(what) + "\n")
    crashing.stdin.flush()
    answer = crashing.stdout.readline()
    assert answer in ("killed\n", "ended\n")
    return answer == "killed\n"


def assert_survives_crashes(
    name: str, every: int, crashing: subprocess.Popen[str], tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    goes_on = scenario.first is not None
    before: dict[int, Any] = {}
    if goes_on:
        scenario.prepare(tmp_path / "before")
        before = {t.episode_index: plain(t) for t in maze.load(tmp_path / "before")}
        shutil.copytree(tmp_path / "before", tmp_path / "expected")
    scenario.act(tmp_path / "expected")
    expected = content(tmp_path / "expected")
    to_keep = set(before) - (BAD if scenario.retry_failed else set())
    moment, n_recorded = 1, 0
    while True:
        directory = tmp_path / str(moment)
        if goes_on:
            shutil.copytree(tmp_path / "before", directory)
        if not is_killed(crashing, name, str(directory), moment):
            break
        if (directory / "journal.jsonl").exists():
            run = maze.load(directory)
            found = {t.episode_index: plain(t) for t in run}
            assert to_keep <= set(found), moment
            for index, trajectory in found.items():
                possible = [expected.trajectories[index], before.get(index)]
                assert any(is_same(trajectory, one) for one in possible), (moment, index)
            if not goes_on:  # The later it is killed, the more there is.
                assert len(run) >= n_recorded, moment
                n_recorded = len(run)
            if not scenario.is_damaged:
                assert maze.verify(directory).damage == (), moment
        scenario.complete(directory)
        assert_equal(content(directory), expected)
        assert maze.verify(directory).is_good, moment
        assert names_in(directory) <= names_in(tmp_path / "expected"), moment
        shutil.rmtree(directory)
        moment += every
    assert moment > 30


def names_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_that_is_killed_at_some_moments_is_completed(name, crashing, tmp_path):
    assert_survives_crashes(name, 7, crashing, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_that_is_killed_at_any_moment_is_completed(name, crashing, tmp_path):
    assert_survives_crashes(name, 1, crashing, tmp_path)
