"""What goes wrong in environments, policies and processes, and what is left of the run then.

The rule: a run ends by itself, within a bound, and tells the truth; every episode that was
finished is kept, those that are not to blame are as in an undisturbed run, and no process stays.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import maze
from maze.core.errors import ConfigError, ContractError, OutputError, RunStoppedError
from maze.core.rollout.result import RolloutResult
from maze.core.trajectory.trajectory import StepsStream
from tests.commands import wait_for
from tests.envs import (
    RESET,
    Divided,
    EventfulEnv,
    FailsToBuildEnv,
    FaultyEnv,
    NoSecondWorkerEnv,
    RegistersProcessEnv,
    TextRewardEnv,
    TwoStepEnv,
    WaitToBeKilled,
    WalkEnv,
    exit_process,
    exit_python,
    kill_process,
    raise_config_error,
    raise_error,
    raise_error_in_half_characters,
    raise_error_that_cannot_be_shown,
    raise_error_with_odd_constructor,
    raise_local_error,
    segfault,
)
from tests.policies import FailingPolicy, FailsThirdTime
from tests.runs import (
    EVERYWHERE,
    HERE,
    RUNNERS,
    WORKERS,
    WORKERS_LANES,
    Content,
    assert_equal,
    content,
    is_same,
    numbered,
    open_run,
    parallel,
    plain,
    sequential,
)

N = 12
everywhere = pytest.mark.parametrize("where", EVERYWHERE, ids=str)
in_both_runners = pytest.mark.parametrize("where", RUNNERS, ids=str)
in_workers = pytest.mark.parametrize("where", [WORKERS, WORKERS_LANES], ids=str)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    sequential(output_dir=directory).run_with(WalkEnv, seeding=numbered(N))
    return content(directory)


def assert_only_these_failed(result: RolloutResult, expected: Content, failed: set[int]) -> None:
    """All others have to be as they were in the undisturbed run."""
    assert result.output_directory is not None
    found = content(result.output_directory)
    assert [row["episode_index"] for row in found.rows] == list(range(N))
    assert {row["episode_index"] for row in found.rows if row["ending"] == "failed"} == failed
    for row, expected_row in zip(found.rows, expected.rows, strict=True):
        index = row["episode_index"]
        if index not in failed:
            assert row == expected_row
            assert is_same(found.trajectories[index], expected.trajectories[index])
    assert result.endings["failed"] == len(failed)
    assert result.request_met == (not failed)


# Exceptions.


@everywhere
@pytest.mark.parametrize(
    ("step", "error"),
    [
        (RESET, "reset: ValueError: the pole broke"),
        (0, "environment after 0 steps: ValueError: the pole broke"),
        (2, "environment after 2 steps: ValueError: the pole broke"),
        (4, "environment after 4 steps: ValueError: the pole broke"),  # the last one
    ],
    ids=["reset", "first", "middle", "last"],
)
def test_an_error_in_the_environment_fails_exactly_its_episodes(
    where, step, error, undisturbed, tmp_path
):
    env = partial(FaultyEnv, raise_error, {0, 5, 11}, step)
    result = where.runner(output_dir=tmp_path).run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {0, 5, 11})
    n_steps = max(step, 0)
    for row in result.failures:
        assert row.error == error
        assert row.n_steps == n_steps
        assert row.failure.traceback.endswith("ValueError: the pole broke\n")
        assert "raise_error" in row.failure.traceback


@everywhere
@pytest.mark.parametrize("step", [0, 3])
def test_the_steps_before_the_error_are_kept(where, step, undisturbed, tmp_path):
    env = partial(FaultyEnv, raise_error, {5}, step)
    result = where.runner(output_dir=tmp_path).run_with(env, seeding=numbered(N))
    kept, whole = (
        found[5][0] for found in (content(tmp_path).trajectories, undisturbed.trajectories)
    )
    (observations, actions, rewards, *_), (all_observations, all_actions, all_rewards, *_) = (
        kept,
        whole,
    )
    # The action that led to the error is kept too.
    assert is_same(observations["observation"], all_observations["observation"][: step + 1])
    assert is_same(actions["action"], all_actions["action"][: step + 1])
    assert is_same(rewards, all_rewards[:step])
    trajectory = open_run(result).trajectory(5)
    assert (trajectory.terminated, trajectory.truncated) == (False, False)


def test_an_episode_that_fails_in_reset_has_no_trajectory_and_that_is_said(tmp_path):
    env = partial(FaultyEnv, raise_error, {1}, RESET)
    result = sequential(n_episodes=3, output_dir=tmp_path).run_with(env, seeding=numbered(3))
    assert [trajectory.episode_index for trajectory in open_run(result)] == [0, 2]
    with pytest.raises(OutputError, match="it failed before its first observation"):
        open_run(result).trajectory(1)


@everywhere
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (exit_python, "environment after 2 steps: SystemExit: no licence"),
        (
            raise_error_with_odd_constructor,
            "environment after 2 steps: TakesTwoArgumentsError: one and two",
        ),
        (raise_local_error, "environment after 2 steps: LocalError: "),
        (raise_error_that_cannot_be_shown, "environment after 2 steps: SpeechlessError: "),
        (
            raise_error_in_half_characters,
            r"environment after 2 steps: ValueError: half a smile: \ud83d",
        ),
    ],
    ids=["SystemExit", "odd constructor", "not picklable", "no words", "half characters"],
)
def test_whatever_is_raised_is_told_as_text(where, fault, error, undisturbed, tmp_path):
    env = partial(FaultyEnv, fault, {5})
    result = where.runner(output_dir=tmp_path).run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    (row,) = result.failures
    assert row.error.startswith(error)
    assert fault.__name__ in row.failure.traceback


@everywhere
@pytest.mark.parametrize("when", [0, 2, 4])
def test_a_policy_that_fails_takes_no_other_episode_of_its_batch_with_it(
    where, when, undisturbed, tmp_path
):
    bad = {3, 4, 10}
    policy = FailingPolicy({float(WalkEnv().reset(seed=i)[0][0]) for i in bad}, when)
    result = where.runner(output_dir=tmp_path).run_with(WalkEnv, policy, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, bad)
    for row in result.failures:
        assert row.error == f"policy after {when} steps: ValueError: no idea what to do"
        assert row.n_steps == when
        assert "in act" in row.failure.traceback


@pytest.mark.parametrize("where", [HERE, WORKERS], ids=str)
def test_in_a_structured_episode_too_the_steps_before_the_error_are_kept(where, tmp_path):
    result = where.runner(n_episodes=4, output_dir=tmp_path).run_with(
        TwoStepEnv, FailsThirdTime(), seeding=numbered(4)
    )
    assert result.endings["failed"] == 4
    for row in result.episodes:
        assert row.error == "policy after 3 steps: RuntimeError: the third placement"
        assert row.n_steps == 1
        parts = open_run(result).trajectory(row.episode_index).by_step_key
        assert (len(parts["select"].observations["sizes"]), len(parts["select"].rewards)) == (2, 2)
        assert (len(parts["place"].observations["size"]), len(parts["place"].rewards)) == (2, 1)
    assert len(open_run(result).events("Placed")) == 4


@everywhere
@pytest.mark.parametrize("step", [RESET, 2])
def test_an_error_in_the_configuration_is_not_that_of_an_episode(where, step):
    runner = where.runner(record_trajectory=False, record_event_logs=False)
    with pytest.raises(ConfigError, match=r"^set the port$"):
        runner.run_with(partial(FaultyEnv, raise_config_error, {5}, step), seeding=numbered(N))


@everywhere
def test_a_statistic_that_cannot_be_measured_fails_its_episode(where, tmp_path):
    runner = where.runner(n_episodes=4, output_dir=tmp_path)
    result = runner.run_with(partial(EventfulEnv, Divided(0.0), 2), seeding=numbered(4))
    assert [row.ending == "failed" for row in result.episodes] == [False, False, True, False]
    (row,) = result.failures
    assert row.error == "environment after 6 steps: ZeroDivisionError: float division by zero"
    assert len(open_run(result).events("Divided")) == 3
    assert len(open_run(result).trajectory(2)) == 6


@everywhere
def test_what_is_no_event_is_refused(where):
    runner = where.runner(n_episodes=4, record_trajectory=False, record_event_logs=False)
    with pytest.raises(ContractError, match=r"episode 2 .*'boom' \(str\) .*expected an Event"):
        runner.run_with(partial(EventfulEnv, "boom", 2), seeding=numbered(4))


def test_a_structured_reward_that_is_none_cuts_the_episode_off(tmp_path):
    with pytest.raises(ContractError, match=r"after 3 steps: the reward is 'much' \(str\)"):
        sequential(n_episodes=1, output_dir=tmp_path).run_with(TextRewardEnv)
    run = maze.load(tmp_path)
    row = run.table.row(0)
    assert (row.ending, row.n_steps) == ("failed", 1)
    trajectory = run.trajectory(0)
    assert len(trajectory) == 3
    assert trajectory.rewards.sum() == row.episode_return
    assert len(run.events("Reward")) == 2  # the second step has its first sub-step


# Construction.


@pytest.mark.parametrize("fault", [raise_error, exit_python], ids=["error", "exit"])
@in_both_runners
def test_an_environment_that_cannot_be_built_is_told_before_anything_is_played(where, fault):
    def build():
        fault()

    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot be built: .*(pole broke|no licence)"):
        where.runner(record_trajectory=False, record_event_logs=False).run_with(build)
    assert time.monotonic() - started < 10


def test_so_is_one_that_kills_its_process():
    started = time.monotonic()
    with pytest.raises(RunStoppedError, match=r"workers died .*exited with code 3"):
        parallel(record_trajectory=False, record_event_logs=False).run_with(exit_process)
    assert time.monotonic() - started < 20


@in_both_runners
def test_an_environment_that_cannot_be_built_a_second_time_fails_one_more_episode(
    where, undisturbed, tmp_path
):
    # The broken environment is thrown away, making the next one fails once, then it works again.
    FailsToBuildEnv.n_built = 0
    runner = where.runner(output_dir=tmp_path, **({"n_processes": 1} if where != HERE else {}))
    result = runner.run_with(partial(FailsToBuildEnv, {4}), seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {4, 5})
    assert [row.error for row in result.failures] == [
        "environment after 0 steps: ValueError: connection lost",
        "construction: ValueError: the port is still taken",
    ]


# Processes that die.


@contextlib.contextmanager
def in_background(function: Callable[[], None]) -> Iterator[None]:
    """Run a function in a thread, and hand on what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(timeout=30)
    assert not errors
    assert not thread.is_alive()


def process_waiting_in(directory: Path) -> int:
    file = directory / "waiting"
    return int(file.read_text() or 0) if file.exists() else 0


@in_workers
@pytest.mark.parametrize("step", [RESET, 2])
def test_the_episodes_of_a_killed_worker_are_played_again(where, step, undisturbed, tmp_path):
    env = partial(FaultyEnv, WaitToBeKilled(tmp_path), {5}, step)

    def kill():
        os.kill(wait_for(lambda: process_waiting_in(tmp_path)), signal.SIGKILL)

    with in_background(kill):
        runner = where.runner(output_dir=tmp_path / "run")
        result = runner.run_with(env, seeding=numbered(N))
    assert_equal(content(tmp_path / "run"), undisturbed)
    attempts = {row.episode_index: row.attempts for row in result.episodes}
    assert attempts[5] == 2
    assert set(attempts.values()) <= {1, 2}
    if where.n_lanes == 1:
        assert sum(attempts.values()) == N + 1
    assert result.request_met


@in_workers
def test_killing_all_workers_at_once_changes_nothing_either(where, undisturbed, tmp_path):
    env = partial(RegistersProcessEnv, tmp_path, {5})

    def kill():
        wait_for(lambda: process_waiting_in(tmp_path))
        for file in wait_for(lambda: len(found := list(tmp_path.glob("process_*"))) >= 2 and found):
            os.kill(int(file.name.removeprefix("process_")), signal.SIGKILL)

    with in_background(kill):
        runner = where.runner(output_dir=tmp_path / "run")
        result = runner.run_with(env, seeding=numbered(N))
    assert_equal(content(tmp_path / "run"), undisturbed)
    assert result.request_met


@in_workers
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (exit_process, "exited with code 3"),
        (kill_process, "was killed by SIGKILL"),
        (segfault, "was killed by SIGSEGV"),
    ],
    ids=["exit", "kill", "segfault"],
)
def test_an_episode_that_kills_its_process_fails_alone(where, fault, cause, undisturbed, tmp_path):
    env = partial(FaultyEnv, fault, {0, 5})
    runner = where.runner(max_attempts=2, output_dir=tmp_path)
    result = runner.run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {0, 5})
    for row in result.failures:
        assert row.error == (
            f"worker: WorkerDied: the process that played it {cause}; it was started 2 times"
        )
        assert row.attempts == 2


def test_a_worker_that_cannot_be_replaced_ends_the_run_and_keeps_what_was_finished(tmp_path):
    env = partial(NoSecondWorkerEnv, tmp_path)
    with pytest.raises((ConfigError, RunStoppedError), match="only one may run"):
        parallel(n_processes=1, output_dir=tmp_path / "run").run_with(env, seeding=numbered(N))
    run = maze.load(tmp_path / "run")
    assert [row.ending for row in run.table] == len(run) * ["terminated"]


# Files that were not finished.


@pytest.fixture(scope="module")
def in_batches(tmp_path_factory):
    """A run in several batches: one ends with each failed episode."""
    directory = tmp_path_factory.mktemp("in_batches") / "run"
    env = partial(FaultyEnv, raise_error, {2, 5, 8})
    sequential(output_dir=directory).run_with(env, seeding=numbered(N))
    return directory


def test_a_trajectory_file_that_was_cut_off_gives_all_whole_batches(in_batches, tmp_path):
    whole = (in_batches / "trajectory_data" / "steps_0.arrow").read_bytes()
    expected = {t.episode_index: plain(t) for t in maze.load(in_batches)}
    path = tmp_path / "steps_0.arrow"
    found_sets: list[set[int]] = []
    for size in [*range(0, len(whole), 97), len(whole)]:
        path.write_bytes(whole[:size])
        try:
            stream = StepsStream(path)
        except OutputError:
            found_sets.append(set())
            continue
        found = stream.episode_indices()
        found_sets.append(set(found))
        for index in found:
            steps, key = stream.steps(index), stream.step_key
            assert steps is not None
            assert is_same(
                [steps.observations, steps.actions, steps.rewards], expected[index][key][:3]
            )
    batches: list[set[int]] = [set(), set(range(3)), set(range(6)), set(range(9)), set(range(N))]
    assert sorted({frozenset(found) for found in found_sets}, key=len) == batches
    assert found_sets == sorted(found_sets, key=len)


def test_a_journal_with_half_a_line_gives_the_lines_before_it(in_batches, tmp_path):
    whole = (in_batches / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 8  # the run, two files, four batches, the end
    for n_whole_lines, half in (
        (6, lines[6][:50]),
        (6, lines[6][:-1]),
        (3, lines[3][:10]),
        (0, lines[0][:10]),
        (5, b""),
    ):
        directory = tmp_path / f"{n_whole_lines}_{len(half)}"
        directory.mkdir()
        (directory / "journal.jsonl").write_bytes(b"".join(lines[:n_whole_lines]) + half)
        run = maze.load(directory)
        assert [row.episode_index for row in run.table] == list(
            range(3 * max(n_whole_lines - 3, 0))
        )
        assert run.statistics == {}
