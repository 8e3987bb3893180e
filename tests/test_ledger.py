"""The output directory as a ledger: what counts is kept, whatever happens to process and files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import maze
from maze.core.errors import ConfigError, ContractError, OutputError
from maze.core.events.event import Event
from maze.core.ledger.check import REWRITING_FILE, Damage, find_damage
from maze.core.ledger.data_files import EventLayout
from maze.core.ledger.journal import Journal, encode_line, parse_line
from maze.core.ledger.lock import DirectoryLock
from maze.core.ledger.recovery import _Rewriting, recover
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.rollout_runner import Resume
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.wrapper import Wrapper
from tests.envs import FaultyEnv, TwoStepEnv, WalkEnv, raise_error
from tests.runs import (
    EVERYWHERE,
    HERE,
    RUNNERS,
    WORKERS,
    Where,
    assert_equal,
    content,
    is_same,
    numbered,
    plain,
    sequential,
)

N = 12
in_both_runners = pytest.mark.parametrize("where", RUNNERS, ids=str)


def damage(directory: Path) -> list[Damage]:
    return list(find_damage(directory, Journal(directory / "journal.jsonl")))


def play(
    directory: Path, n_episodes: int = N, env: Any = WalkEnv, where: Where = HERE, **options: Any
) -> RolloutResult:
    runner = where.runner(n_episodes=n_episodes, output_dir=directory, **options)
    return runner.run_with(env, seeding=numbered(100))


def go_on(
    directory: Path,
    n_episodes: int = N,
    env: Any = WalkEnv,
    where: Where = HERE,
    retry_failed: bool = False,
    **options: Any,
) -> RolloutResult:
    runner = where.runner(n_episodes=n_episodes, output_dir=directory, **options)
    return runner.run_with(env, seeding=numbered(100), resume=Resume(retry_failed))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    play(directory)
    return content(directory)


@pytest.fixture
def in_batches(tmp_path):
    """A run in several batches: one ends with each failed episode."""
    directory = tmp_path / "in_batches"
    play(directory, env=partial(FaultyEnv, raise_error, {2, 5, 8}))
    return directory


def cut_off_after(directory: Path, n_lines: int) -> None:
    """Leave behind what a process would that was killed after so many lines of its journal.

    The data files hold some more than what the journal says, as they do then.
    """
    lines = (directory / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "journal.jsonl").write_bytes(b"".join(lines[:n_lines]) + lines[n_lines][:40])
    for name in ("episodes.parquet", "statistics.json"):
        (directory / name).unlink()


# The journal.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), json_values))
def test_a_line_of_the_journal_is_json_and_says_what_was_put_in(fields):
    line = encode_line({"kind": "run", **fields})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found = json.loads(line)
    assert found.pop("checksum")
    assert found == parse_line(line)
    if not found.get("has_odd_numbers"):
        assert found == {"kind": "run", **fields}


@given(st.binary(min_size=1, max_size=3), st.data())
def test_a_changed_line_is_noticed(noise, data):
    line = encode_line({"kind": "episodes", "episode_index": [1, 2, 3], "return": [0.5, 1.5, 2.5]})
    at = data.draw(st.integers(0, len(line) - 2))
    changed = line[:at] + noise + line[at + len(noise) :]
    if changed != line:
        with pytest.raises(ValueError, match="checksum"):
            parse_line(changed)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=20),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=20),
)
def test_texts_are_found_where_they_are_also_after_sorting(before, after):
    texts = [(index, bytes([65 + n]) * size) for n, (index, size) in enumerate(before + after)]
    file = b"HEAD" + b"".join(text for _, text in texts[: len(before)])
    layout = EventLayout(4)
    for index, text in texts[: len(before)]:
        layout.add([index], [len(text)])
    file = file[:4] + b"".join(file[start:stop] for start, stop in layout.stretches())
    layout.sort()
    assert layout.is_sorted()
    file += b"".join(text for _, text in texts[len(before) :])
    for index, text in texts[len(before) :]:
        layout.add([index], [len(text)])
    assert layout.size == len(file)
    for (_, text), offset in zip(texts, layout.offsets(), strict=True):
        assert file[offset : offset + len(text)] == text
    in_order = file[:4] + b"".join(file[start:stop] for start, stop in layout.stretches())
    assert in_order == b"HEAD" + b"".join(t for _, t in sorted(texts, key=lambda it: it[0]))


# Going on.


@pytest.mark.parametrize("first", [HERE, WORKERS], ids=str)
@pytest.mark.parametrize("then", EVERYWHERE, ids=str)
def test_an_extended_run_is_equal_to_one_that_was_so_long_from_the_beginning(
    first, then, undisturbed, tmp_path
):
    play(tmp_path, n_episodes=5, where=first)
    result = go_on(tmp_path, where=then)
    assert_equal(content(tmp_path), undisturbed)
    assert damage(tmp_path) == []
    assert result.n_done == N
    assert result.request_met


@in_both_runners
@pytest.mark.parametrize("n_lines", [1, 2, 3, 4, 5, 6])
def test_a_run_that_was_cut_off_is_completed(where, n_lines, in_batches, tmp_path):
    whole = content(in_batches)
    cut_off_after(in_batches, n_lines)
    n_before = len(maze.load(in_batches))
    env = partial(FaultyEnv, raise_error, {2, 5, 8})
    result = go_on(in_batches, env=env, where=where)
    assert n_before == 3 * max(0, n_lines - 3)
    assert_equal(content(in_batches), whole)
    assert damage(in_batches) == []
    assert result.endings["failed"] == 3


def test_nothing_is_played_again_that_is_there(tmp_path):
    play(tmp_path)
    before = list(maze.load(tmp_path).table["seconds"])
    go_on(tmp_path)
    assert list(maze.load(tmp_path).table["seconds"]) == before


def test_a_structured_run_is_extended_too(tmp_path):
    play(tmp_path / "whole", env=TwoStepEnv)
    play(tmp_path / "run", 5, env=TwoStepEnv)
    go_on(tmp_path / "run", env=TwoStepEnv, where=WORKERS)
    assert_equal(content(tmp_path / "run"), content(tmp_path / "whole"))


@in_both_runners
def test_failed_episodes_can_be_played_again_and_what_was_said_of_them_is_kept(
    where, in_batches, undisturbed
):
    result = go_on(in_batches, where=where, retry_failed=True)
    assert_equal(content(in_batches), undisturbed)
    assert result.endings["failed"] == 0
    assert damage(in_batches) == []
    lines = (in_batches / "replaced.jsonl").read_bytes().splitlines(keepends=True)
    replaced = [parse_line(line) for line in lines]
    assert [line["episode_index"] for line in replaced] == [[2], [5], [8]]
    assert all("the pole broke" in line["failure"][0]["traceback"] for line in replaced)


def test_fewer_episodes_than_there_are_is_refused(tmp_path):
    play(tmp_path)
    with pytest.raises(ConfigError, match=r"'runner.n_episodes' has to be at least 12"):
        go_on(tmp_path, n_episodes=5)
    assert len(maze.load(tmp_path)) == N


def test_other_seeds_are_refused(tmp_path):
    play(tmp_path, n_episodes=3)
    with pytest.raises(ConfigError, match="episode 0 was recorded with other seeds"):
        sequential(output_dir=tmp_path).run_with(WalkEnv, resume=Resume())
    assert len(maze.load(tmp_path)) == 3


def test_a_run_is_not_gone_on_with_in_another_environment(tmp_path):
    play(tmp_path, n_episodes=3)
    with pytest.raises(ContractError, match=r"steps_0.arrow was recorded with other columns"):
        go_on(tmp_path, env=WiderEnv)
    assert_equal_again(tmp_path)


class WiderEnv(WalkEnv):
    observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation[:1], info

    def step(self, action):
        observation, *rest = super().step(action)
        return (observation[:1], *rest)


def assert_equal_again(directory: Path) -> None:
    """After an attempt that failed, the run can be gone on with as it should be."""
    assert len(maze.load(directory)) == 3
    go_on(directory)
    assert damage(directory) == []


def test_an_interrupted_rewriting_is_gone_on_with(in_batches, undisturbed, tmp_path):
    journal = Journal(in_batches / "journal.jsonl")
    rewriting = _Rewriting(in_batches, journal, frozenset({2, 5, 8}))
    rewriting.write()
    whole = {t.episode_index: plain(t) for t in maze.load(in_batches)}
    assert len(whole) == N  # Until the list is there, nothing has happened.
    (in_batches / REWRITING_FILE).write_text(json.dumps(rewriting.names))
    names = rewriting.names
    for n_renamed in range(len(names)):
        if n_renamed:
            name = names[n_renamed - 1]
            os.replace(in_batches / (name + ".rewritten"), in_batches / name)
        # A reader finds its way at each of these moments.
        found = {t.episode_index: plain(t) for t in maze.load(in_batches)}
        assert found.keys() == set(range(N)) - {2, 5, 8}
        assert all(is_same(trajectory, whole[index]) for index, trajectory in found.items())
    go_on(in_batches)
    assert_equal(content(in_batches), undisturbed)
    assert not list(in_batches.rglob("*.rewritten"))
    assert not (in_batches / REWRITING_FILE).exists()


# Damage.

DATA_FILES = ["trajectory_data/steps_0.arrow", "event_logs/Reward.tsv", "journal.jsonl"]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path, at: int) -> None:
    os.truncate(path, at)


def empty(path: Path, at: int) -> None:
    os.truncate(path, 0)


def delete(path: Path, at: int) -> None:
    path.unlink()


def overwrite(path: Path, at: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:at] + os.urandom(min(50, len(data) - at)) + data[at + 50 :])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DATA_FILES)
@pytest.mark.parametrize("spoil", [flip, truncate, empty, delete, overwrite])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_damage_is_named_and_no_wrong_episode_is_ever_read(spoil, name, where, in_batches):
    assert_damage_is_survived(in_batches, name, spoil, where)


def assert_damage_is_survived(
    directory: Path, name: str, spoil: Callable[[Path, int], None], where: float
) -> None:
    whole = {t.episode_index: plain(t) for t in maze.load(directory)}
    rows = {row.episode_index: row for row in maze.load(directory).table}
    events = maze.load(directory).events("Reward").to_dict("records")
    path = directory / name
    at = int(where * path.stat().st_size)
    spoil(path, at)
    run = maze.load(directory)
    # What is read is right, and only what shares a batch with the damage is missing.
    found = {t.episode_index: plain(t) for t in run}
    assert all(is_same(trajectory, whole[index]) for index, trajectory in found.items())
    found_rows = {row.episode_index: row for row in run.table}
    assert all(row == rows[index] for index, row in found_rows.items())
    is_one_batch = spoil in (flip, overwrite)
    if name.startswith("trajectory_data"):
        assert found_rows == rows
        lost = set(whole) - set(found)
        assert len(lost) <= 6 if is_one_batch else len(lost) <= N
    else:
        assert found.keys() == whole.keys()
    if name.startswith("event_logs"):
        try:
            kept = run.events("Reward").to_dict("records")
        except OutputError:
            assert not is_one_batch
            kept = []
        assert all(event in events for event in kept)
        if is_one_batch:
            assert len(kept) >= len(events) / 2
    # It is named.
    if (directory / "journal.jsonl").exists():
        files = {one.file for one in damage(directory)}
        assert name in files, files


def test_a_damaged_line_of_column_names_is_named_and_not_believed(in_batches):
    events = maze.load(in_batches).events("Reward")
    flip(in_batches / "event_logs" / "Reward.tsv", 0)
    (one,) = damage(in_batches)
    assert str(one) == (
        "event_logs/Reward.tsv: the first line, which names its columns, was changed"
    )
    assert maze.load(in_batches).events("Reward").equals(events)


def test_a_stream_that_ends_too_early_by_its_mark_only_is_named(in_batches):
    stream = in_batches / "trajectory_data" / "steps_0.arrow"
    os.truncate(stream, stream.stat().st_size - 8)
    (one,) = damage(in_batches)
    assert str(one) == "trajectory_data/steps_0.arrow: the mark at its end is missing"
    assert not one.is_unfinished
    assert len(list(maze.load(in_batches))) == N


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DATA_FILES[:2])
@pytest.mark.parametrize("spoil", [flip, truncate, empty, delete, overwrite])
def test_what_is_damaged_is_played_again(spoil, name, tmp_path):
    env = partial(FaultyEnv, raise_error, {2, 5, 8})
    play(tmp_path, env=env)
    whole = content(tmp_path)
    spoil(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    result = go_on(tmp_path, env=env, where=WORKERS)
    assert_equal(content(tmp_path), whole)
    assert damage(tmp_path) == []
    assert any(name in text for text in result.warnings)


def test_a_damaged_line_of_the_journal_is_played_again_too(in_batches):
    whole = content(in_batches)
    lines = (in_batches / "journal.jsonl").read_bytes().splitlines(keepends=True)
    flip(in_batches / "journal.jsonl", len(b"".join(lines[:4])) + 300)
    env = partial(FaultyEnv, raise_error, {2, 5, 8})
    go_on(in_batches, env=env)
    assert_equal(content(in_batches), whole)
    assert damage(in_batches) == []


def test_without_its_first_line_a_journal_cannot_be_gone_on_with(in_batches):
    flip(in_batches / "journal.jsonl", 100)
    with pytest.raises(OutputError, match=r"the first line of .*journal.jsonl is damaged"):
        go_on(in_batches)
    assert len(list(maze.load(in_batches))) == N


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "file", "file": "../../outside", "head": ""},
        {"kind": "file", "file": "trajectory_data/../../outside", "head": ""},
        {"kind": "file", "file": "/etc/passwd", "head": ""},
        {"kind": "episodes", "episode_index": [-1]},
        {"kind": "episodes", "episode_index": [[[0]]]},
        {"kind": "episodes", "episode_index": [0], "files": {"/etc/passwd": [0, 1, "x"]}},
        {"kind": "episodes", "episode_index": [0], "files": {"event_logs/a": [0, 1, "x", [5]]}},
        {"kind": "part", "part_of": [0]},
        {"kind": 7, "episode_index": {"all": 10**30}},
        {"no kind": 1},
    ],
    ids=str,
)
def test_a_journal_that_leads_elsewhere_or_makes_no_sense_is_damaged(line, tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(encode_line(line))
    journal = Journal(tmp_path / "journal.jsonl")
    assert not journal.heads
    assert [entry.kind for entry in journal.entries if entry.kind != "7"] in ([], ["damaged"])


def test_a_run_is_not_gone_on_with_through_a_link_to_elsewhere(in_batches, tmp_path):
    stream = in_batches / "trajectory_data" / "steps_0.arrow"
    outside = tmp_path / "outside"
    os.replace(stream, outside)
    stream.symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(OutputError, match="symbolic link"):
        go_on(in_batches)
    assert outside.read_bytes() == before


# One writer.


def test_two_processes_cannot_write_into_one_directory(tmp_path):
    play(tmp_path, n_episodes=3)
    code = f"""
import sys
from pathlib import Path
from maze.core.ledger.lock import DirectoryLock
lock = DirectoryLock(Path({str(tmp_path)!r}))
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match=f"is being written to by process {other.pid} on"):
            go_on(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    go_on(tmp_path)
    assert len(maze.load(tmp_path)) == N


def test_nor_can_two_runs_of_one_process(tmp_path):
    lock = DirectoryLock(tmp_path)
    with pytest.raises(OutputError, match="is being written to"):
        DirectoryLock(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []
    DirectoryLock(tmp_path).release()


def test_of_many_that_want_to_write_at_once_one_can(tmp_path):
    locks: list[DirectoryLock] = []
    errors: list[OutputError] = []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        try:
            locks.append(DirectoryLock(tmp_path))
        except OutputError as error:
            errors.append(error)

    for _ in range(30):
        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(locks), len(errors)) == (1, 7)
        locks.pop().release()
        errors.clear()


def test_a_new_run_in_the_directory_of_another_is_refused_with_the_way_to_go_on(tmp_path):
    play(tmp_path)
    with pytest.raises(OutputError, match=r"holds a run already. `maze resume .*` completes it"):
        play(tmp_path)
    assert len(maze.load(tmp_path)) == N


# A full disk.

FILLS_UP = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
import maze
try:
    maze.rollout("CartPole-v1", n_episodes=100_000, seed=1, output_dir={directory!r})
except maze.core.errors.OutputError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("limit", [100_000, 1_000_003, 2_345_678])
def test_a_full_disk_stops_the_run_and_keeps_what_counts(limit, tmp_path):
    directory = tmp_path / "run"
    code = FILLS_UP.format(limit=limit, directory=str(directory))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr
    assert "File too large. What the journal lists is kept" in done.stdout
    assert_recorded_as_undisturbed(directory, tmp_path)


ON_SMALL_DISK = """
mount -t tmpfs -o size=700k tmpfs {folder} && {python} -c '
import maze, sys
try:
    maze.rollout("CartPole-v1", n_episodes=100_000, seed=1, output_dir="{folder}/run")
except maze.core.errors.OutputError as error:
    print(error)
'; cp -r {folder}/run {target}
"""


def test_a_disk_of_700_kilobytes_does_so_too(tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    folder, target = tmp_path / "disk", tmp_path / "copy"
    folder.mkdir()
    script = ON_SMALL_DISK.format(folder=folder, target=target, python=sys.executable)
    command = ["unshare", "-rm", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "permission denied" in done.stderr.lower():
        pytest.skip("a file system cannot be mounted here")
    assert "No space left on device. What the journal lists is kept" in done.stdout, done.stderr
    assert_recorded_as_undisturbed(target, tmp_path)


def assert_recorded_as_undisturbed(directory: Path, tmp_path: Path) -> None:
    """Compare a run of CartPole that broke off with one that did not, and go on with it."""
    n_recorded = len(maze.load(directory))
    recover(directory)
    n_episodes = n_recorded + 30
    maze.rollout("CartPole-v1", n_episodes=n_episodes, seed=1, output_dir=tmp_path / "whole")
    sequential(n_episodes=n_episodes, max_episode_steps=None, output_dir=directory).run_with(
        "CartPole-v1", seeding=maze.core.seeding.Seeding(1, 1), resume=Resume()
    )
    assert_equal(content(directory), content(tmp_path / "whole"))
    assert damage(directory) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="it is a file"):
        play(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("env", [WalkEnv, TwoStepEnv])
def test_of_a_batch_with_a_changed_bit_no_wrong_episode_is_read(env, tmp_path):
    play(tmp_path, env=env)
    whole = {t.episode_index: plain(t) for t in maze.load(tmp_path)}
    (path,) = sorted((tmp_path / "trajectory_data").glob("*.arrow"))[:1]
    data = path.read_bytes()
    n_saved = 0
    for at in range(len(data) - 1, len(data) - 1600, -7):
        flip(path, at)
        found = {t.episode_index: plain(t) for t in maze.load(tmp_path)}
        assert all(is_same(trajectory, whole[index]) for index, trajectory in found.items())
        n_saved += 0 < len(found) < N
        path.write_bytes(data)
    assert n_saved > 0 or env is TwoStepEnv


def test_a_table_of_episodes_that_was_changed_is_not_believed(tmp_path):
    runner = SequentialRolloutRunner(n_episodes=4, output_dir=tmp_path / "run")
    runner.run_with(lambda: GymMazeEnv(WalkEnv(5)), seeding=Seeding(1, 2))
    other = SequentialRolloutRunner(n_episodes=4, output_dir=tmp_path / "other")
    other.run_with(lambda: GymMazeEnv(WalkEnv(7)), seeding=Seeding(1, 2))
    # A sound file, of the same episodes, that somebody has put in the place of the right one.
    shutil.copy(tmp_path / "other" / "episodes.parquet", tmp_path / "run" / "episodes.parquet")
    with pytest.warns(UserWarning, match="does not fit its checksum"):
        table = maze.load(tmp_path / "run").table
    assert [row.n_steps for row in table] == [5] * 4


@dataclass(frozen=True)
class Said(Event):
    text: str


TEXTS = ("a\tb", "line\nbreak", "back\\slash", "\t", "a\\n", "plain")


class TellsWrapper(Wrapper):
    """Says something in each step."""

    def step(self, action: Any) -> Any:
        stepped = self._inner_step(action)
        self.events.append(Said(TEXTS[int(self._n % len(TEXTS))]))
        self._n += 1
        return stepped

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._n = 0
        return self._inner_reset(seed=seed, options=options)


def test_text_of_events_comes_back_as_it_was(tmp_path):
    pytest.importorskip("pandas")
    runner = SequentialRolloutRunner(n_episodes=1, output_dir=tmp_path)
    runner.run_with(lambda: TellsWrapper(GymMazeEnv(WalkEnv(6))), seeding=Seeding(1, 2))
    assert maze.load(tmp_path).events("Said")["text"].tolist() == list(TEXTS)
