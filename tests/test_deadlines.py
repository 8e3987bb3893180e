"""What becomes of workers that hang, leak, cannot be built or print: the run goes on without them.

The rule is that of ``test_faults``: the run ends by itself, tells the truth, and the episodes that
are not to blame are as in an undisturbed run.
"""

import contextlib
import io
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import maze
from maze.core.episode import EpisodeRow, Failure
from maze.core.errors import ConfigError, RunStoppedError
from maze.core.rollout import worker_pool
from maze.core.rollout.heartbeat import Heartbeat, Phase
from tests.commands import has_lines, maze_run, processes_below, wait_for
from tests.envs import RESET, FaultyEnv, WalkEnv, exit_process, kill_process, raise_error
from tests.hanging_envs import (
    BigEnv,
    FailsToBuild,
    HangingPolicy,
    HangsToBuildAgainEnv,
    HangsToCloseEnv,
    LeakingEnv,
    SlowEnv,
    abort,
    hold_the_interpreter_lock,
    ignore_the_question,
    loop_in_python,
    panic,
    print_and_die,
    print_and_hang,
    print_and_raise,
    print_without_end_and_raise,
    raise_keyboard_interrupt,
    sleep_in_c,
    sleep_with_all_signals_blocked,
    wait_for_a_lock_that_it_holds,
)
from tests.runs import (
    HERE,
    WORKERS,
    WORKERS_LANES,
    Where,
    assert_equal,
    content,
    numbered,
    parallel,
    sequential,
)
from tests.test_faults import N, assert_only_these_failed

# Long enough for a machine on which much else goes on, since a step takes microseconds.
STEP_S = 0.8
UNRECORDED: dict[str, Any] = {"record_trajectory": False, "record_event_logs": False}
FEW_LANES = Where(2, 3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    sequential(output_dir=directory).run_with(WalkEnv, seeding=numbered(N))
    return content(directory)


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    before = set(workers())
    yield
    assert set(workers()) <= before


def workers() -> list[psutil.Process]:
    """Return the processes below the fork server, which itself stays for the next run."""
    return [
        process
        for server in psutil.Process().children()
        for process in with_those_below(server)
        if process.status() != psutil.STATUS_ZOMBIE
    ]


def with_those_below(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def first_number(seed: int) -> float:
    return float(WalkEnv().reset(seed=seed)[0][0])


def failure_of(row: EpisodeRow) -> Failure:
    assert row.failure is not None
    return row.failure


# Deadlines.


@pytest.mark.parametrize(
    "hang",
    [
        loop_in_python,
        sleep_in_c,
        sleep_with_all_signals_blocked,
        hold_the_interpreter_lock,
        wait_for_a_lock_that_it_holds,
    ],
    ids=lambda hang: hang.__name__,
)
def test_a_step_that_hangs_fails_its_episode_and_shows_where(hang, undisturbed, tmp_path):
    runner = parallel(step_timeout_s=STEP_S, output_dir=tmp_path)
    result = runner.run_with(partial(FaultyEnv, hang, {0, 5}), seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {0, 5})
    for row in result.failures:
        assert row.error == (
            "environment after 2 steps: DeadlineExceeded: the step did not end within 0.8 s"
            " (runner.step_timeout_s)"
        )
        assert row.attempts == 1
        assert row.seconds >= STEP_S
        assert f" in {hang.__name__}\n" in failure_of(row).traceback
        assert "_wait_for_signals" not in failure_of(row).traceback
    assert all(row.attempts == 1 for row in result.episodes)
    # The report is there for those who come later.
    stored = maze.load(tmp_path).table.row(5).failure
    assert stored == result.failures[1].failure


def test_a_hang_that_cannot_be_asked_where_it_is_ends_too(undisturbed, tmp_path):
    runner = parallel(step_timeout_s=STEP_S, output_dir=tmp_path)
    result = runner.run_with(partial(FaultyEnv, ignore_the_question, {5}), seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    assert failure_of(result.failures[0]).traceback == ""


def test_so_does_a_hang_in_the_reset(undisturbed, tmp_path):
    runner = parallel(step_timeout_s=STEP_S, output_dir=tmp_path)
    env = partial(FaultyEnv, loop_in_python, {5}, RESET)
    result = runner.run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    (row,) = result.failures
    assert row.error == (
        "reset: DeadlineExceeded: the reset did not end within 0.8 s (runner.step_timeout_s)"
    )


@pytest.mark.parametrize("where", [WORKERS, FEW_LANES], ids=str)
def test_a_policy_that_hangs_is_blamed_itself(where, undisturbed, tmp_path):
    runner = where.runner(step_timeout_s=STEP_S, output_dir=tmp_path)
    policy = HangingPolicy({first_number(5)}, when=3)
    result = runner.run_with(WalkEnv, policy, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    (row,) = result.failures
    assert row.error == (
        "policy after 3 steps: DeadlineExceeded: the policy's decision did not end within 0.8 s"
        " (runner.step_timeout_s)"
    )
    assert " in loop_in_python\n" in failure_of(row).traceback


@pytest.mark.parametrize("option", ["step_timeout_s", "episode_timeout_s"])
def test_of_several_lanes_only_the_one_that_hangs_fails(option, undisturbed, tmp_path):
    # Not even max_attempts=1 makes those beside it fail.
    runner = FEW_LANES.runner(max_attempts=1, output_dir=tmp_path, **{option: STEP_S})
    env = partial(FaultyEnv, wait_for_a_lock_that_it_holds, {5})
    result = runner.run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    (row,) = result.failures
    assert row.error.startswith("environment after 2 steps: DeadlineExceeded: the ")
    assert row.attempts == 2
    assert " in wait_for_a_lock_that_it_holds\n" in failure_of(row).traceback


def test_an_episode_that_moves_on_too_slowly_ends_at_its_deadline(undisturbed, tmp_path):
    runner = parallel(episode_timeout_s=1.0, step_timeout_s=30, output_dir=tmp_path)
    result = runner.run_with(partial(SlowEnv, 0.5, {4, 5}), seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {4, 5})
    for row in result.failures:
        assert row.error.endswith(
            "DeadlineExceeded: the episode did not end within 1 s (runner.episode_timeout_s)"
        )
        assert 1 <= failure_of(row).step <= 3
        assert row.seconds >= 1.0


@pytest.mark.parametrize("where", [WORKERS, FEW_LANES], ids=str)
def test_a_deadline_for_steps_does_not_end_a_long_episode(where, undisturbed, tmp_path):
    runner = where.runner(step_timeout_s=STEP_S, output_dir=tmp_path)
    result = runner.run_with(partial(SlowEnv, STEP_S / 4, {4, 5}), seeding=numbered(N))
    assert_equal(content(tmp_path), undisturbed)
    assert {row.attempts for row in result.episodes} == {1}


def test_a_machine_that_slept_is_no_fault_of_an_episode_either(tmp_path):
    options = ("runner.n_processes=2", "runner.step_timeout_s=1")
    with maze_run(tmp_path / "run", *options) as process:
        everyone = [process, *processes_below(process)]
        for one in everyone:
            one.suspend()
        time.sleep(1.5)
        journal = tmp_path / "run" / "journal.jsonl"
        n_lines = journal.read_bytes().count(b"\n")
        for one in everyone:
            one.resume()
        wait_for(lambda: has_lines(journal, n_lines + 5))
        rows = list(maze.load(tmp_path / "run").table)
    assert {(row.ending, row.attempts) for row in rows} == {("terminated", 1)}


def test_a_consumer_that_takes_its_time_is_no_fault_of_an_episode(tmp_path):
    # While nobody takes episode 3, which does not fit the pipe, its worker cannot go on with 4.
    runner = parallel(
        n_processes=1, n_episodes=16, n_lanes=2, step_timeout_s=2, episode_timeout_s=2
    )
    env = partial(BigEnv, tmp_path, n_steps=(5, 6, 5, 8, 20, *[1] * 11), seconds=0.03)
    job = runner._job(env, None, None, {}, tmp_path / "run")
    rows: list[EpisodeRow] = []
    for batch in runner.episodes(job, numbered(16).resolved().plan(16)):
        rows += batch.rows
        if len(rows) == 3:
            assert [row.episode_index for row in rows] == [0, 1, 2]
            time.sleep(2.5)
    assert [row.ending for row in rows] == ["terminated"] * 16
    assert {row.attempts for row in rows} == {1}


def test_an_environment_that_hangs_in_its_constructor_is_told_before_anything_is_played(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(worker_pool, "_CONSTRUCTION_SECONDS", 1.5)
    with pytest.raises(
        ConfigError,
        match=r"cannot be built: building did not end within 1.5 s(?s:.)* in loop_in_python\n",
    ):
        parallel(step_timeout_s=0.5, **UNRECORDED).run_with(
            FailsToBuild(tmp_path, loop_in_python, range(1000))
        )


def test_a_hang_in_the_construction_for_an_episode_is_that_of_the_episode(
    monkeypatch, undisturbed, tmp_path
):
    monkeypatch.setattr(worker_pool, "_CONSTRUCTION_SECONDS", 1.5)
    runner = parallel(step_timeout_s=0.5, n_processes=1, output_dir=tmp_path)
    env = partial(HangsToBuildAgainEnv, raise_error, {4})
    result = runner.run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {4, 5})
    assert result.failures[1].error.startswith(
        "construction: DeadlineExceeded: building did not end within 1.5 s"
    )


def test_a_construction_that_takes_longer_than_an_episode_may_is_fine(tmp_path):
    class SlowToBuildEnv(FaultyEnv):
        def __init__(self):
            super().__init__(raise_error, {4})
            time.sleep(1.0)

    result = parallel(
        n_processes=1, step_timeout_s=0.5, episode_timeout_s=0.5, **UNRECORDED
    ).run_with(SlowToBuildEnv, seeding=numbered(N))
    assert [row.episode_index for row in result.failures] == [4]


def test_an_environment_that_hangs_when_it_is_closed_ends_with_the_run(undisturbed, tmp_path):
    started = time.monotonic()
    parallel(output_dir=tmp_path).run_with(HangsToCloseEnv, seeding=numbered(N))
    assert time.monotonic() - started < 15
    assert_equal(content(tmp_path), undisturbed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("step_timeout_s", 0, "expected more than 0 seconds, or null"),
        ("episode_timeout_s", "1s", r"'1s' \(str\), expected a number of seconds, or null"),
        ("step_timeout_s", True, "expected a number of seconds"),
        ("max_worker_memory_mb", -1, "expected more than 0 megabytes, or null"),
        ("recycle_after_episodes", 0, "expected at least 1"),
        ("recycle_after_episodes", 2.5, "expected a whole number"),
    ],
)
def test_limits_that_are_none_are_refused(name, value, message):
    with pytest.raises(ConfigError, match=rf"'runner.{name}' is .*{message}"):
        parallel(**{name: value})


# Workers that are replaced.


def processes_of(directory: Path) -> Counter[int]:
    lines = (directory / "processes").read_text().splitlines()
    return Counter(int(line.split()[0]) for line in lines)


@pytest.mark.parametrize("where", [Where(1), WORKERS, FEW_LANES], ids=str)
def test_replacing_workers_changes_nothing(where, undisturbed, tmp_path):
    runner = where.runner(recycle_after_episodes=3, output_dir=tmp_path / "run")
    result = runner.run_with(partial(LeakingEnv, 0, tmp_path), seeding=numbered(N))
    assert_equal(content(tmp_path / "run"), undisturbed)
    episodes = processes_of(tmp_path)
    # With several lanes, those that play beside the third one play to their end.
    assert max(episodes.values()) <= 3 + where.n_lanes - 1
    assert sum(episodes.values()) == N
    assert {row.attempts for row in result.episodes} == {1}
    assert result.warnings == ()


def test_a_worker_that_leaks_is_replaced_before_it_holds_too_much(undisturbed, tmp_path):
    seen: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            for process in workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    seen.append(process.memory_info().rss / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        runner = parallel(max_worker_memory_mb=250, output_dir=tmp_path / "run")
        result = runner.run_with(partial(LeakingEnv, 50, tmp_path), seeding=numbered(N))
    finally:
        is_over.set()
        watcher.join()
    assert_equal(content(tmp_path / "run"), undisturbed)
    assert len(processes_of(tmp_path)) > 2
    # The episode that takes it over the limit is played to its end.
    assert 150 < max(seen) < 250 + 50 + 40
    assert {row.attempts for row in result.episodes} == {1}


def test_a_limit_below_what_a_worker_needs_is_told(undisturbed, tmp_path):
    runner = parallel(max_worker_memory_mb=1, n_episodes=4, output_dir=tmp_path / "run")
    result = runner.run_with(partial(LeakingEnv, 0, tmp_path), seeding=numbered(4))
    assert result.endings["terminated"] == 4
    assert set(processes_of(tmp_path).values()) == {1}
    (warning,) = result.warnings
    assert "MB before its first episode, more than runner.max_worker_memory_mb=1" in warning


# Construction.


def test_a_worker_that_cannot_be_built_at_first_is_tried_again(undisturbed, tmp_path):
    runner = parallel(output_dir=tmp_path / "run")
    env = FailsToBuild(tmp_path, raise_error, {0}, partial(SlowEnv, 0.05, range(N)))
    result = runner.run_with(env, seeding=numbered(N))
    assert_equal(content(tmp_path / "run"), undisturbed)
    assert len(list(tmp_path.glob("process_*"))) == 3
    assert result.warnings == ()


@pytest.mark.parametrize("fault", [raise_error, exit_process], ids=["error", "death"])
def test_the_pool_shrinks_where_only_some_workers_can_be_built(
    fault, undisturbed, monkeypatch, tmp_path
):
    monkeypatch.setattr(worker_pool, "_BUILD_AGAIN_SECONDS", (0.05, 0.1, 0.2))
    runner = parallel(output_dir=tmp_path / "run")
    env = FailsToBuild(tmp_path, fault, range(1, 1000), partial(SlowEnv, 0.06, range(N)))
    result = runner.run_with(env, seeding=numbered(N))
    assert_equal(content(tmp_path / "run"), undisturbed)
    (warning,) = result.warnings
    assert "A worker could not be built 4 times: " in warning
    assert ("the pole broke" if fault is raise_error else "exited with code 3") in warning
    assert warning.endswith("The run went on with 1 of 2.")


def test_a_run_without_workers_ends_with_the_error_and_all_that_was_finished(monkeypatch, tmp_path):
    monkeypatch.setattr(worker_pool, "_BUILD_AGAIN_SECONDS", (0.05, 0.1, 0.2))
    with pytest.raises(RunStoppedError, match=r"no worker is left, .*the pole broke"):
        parallel(n_processes=1, recycle_after_episodes=2, output_dir=tmp_path / "run").run_with(
            FailsToBuild(tmp_path, raise_error, range(1, 1000)), seeding=numbered(N)
        )
    assert [row.ending for row in maze.load(tmp_path / "run").table] == ["terminated"] * 2


def test_workers_that_die_again_and_again_end_the_run_and_keep_what_was_finished(tmp_path):
    env = partial(FaultyEnv, kill_process, range(4, 100), RESET)
    started = time.monotonic()
    with pytest.raises(RunStoppedError, match=r"workers died .*SIGKILL.* runner=sequential"):
        parallel(n_episodes=40, max_attempts=2, n_lanes=1, output_dir=tmp_path).run_with(
            env, seeding=numbered(40)
        )
    assert time.monotonic() - started < 25
    rows = list(maze.load(tmp_path).table)
    finished = {row.episode_index for row in rows if row.ending == "terminated"}
    assert finished
    assert finished <= {0, 1, 2, 3}
    assert all("SIGKILL" in row.error for row in rows if row.ending == "failed")


# What is printed.


@pytest.mark.parametrize("where", [WORKERS, WORKERS_LANES], ids=str)
def test_what_a_worker_printed_is_shown_and_told_with_the_failure(where, tmp_path, capsys):
    runner = where.runner(output_dir=tmp_path)
    result = runner.run_with(partial(FaultyEnv, print_and_raise, {5}), seeding=numbered(N))
    (row,) = result.failures
    expected = "connecting to the simulator\nno answer\ngiving up"
    assert failure_of(row).output == expected
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == expected
    assert maze.load(tmp_path).table.row(5).failure == row.failure


def test_so_is_what_was_printed_before_a_death(tmp_path, capsys):
    runner = parallel(max_attempts=2, **UNRECORDED)
    result = runner.run_with(partial(FaultyEnv, print_and_die, {5}), seeding=numbered(N))
    (row,) = result.failures
    assert row.error.startswith("worker: WorkerDied: the process that played it was killed by SIG")
    assert failure_of(row).output == "connecting to the simulator\nin C: giving up\n"
    assert "Traceback" not in capsys.readouterr().err


def test_so_is_what_was_printed_before_a_deadline():
    runner = parallel(episode_timeout_s=STEP_S, **UNRECORDED)
    result = runner.run_with(partial(FaultyEnv, print_and_hang, {5}), seeding=numbered(N))
    (row,) = result.failures
    assert failure_of(row).output == "connecting to the simulator\n"


def test_a_flood_of_output_passes_and_only_its_end_is_kept(capsys):
    result = parallel(**UNRECORDED).run_with(
        partial(FaultyEnv, print_without_end_and_raise, {4, 5}), seeding=numbered(N)
    )
    for row in result.failures:
        assert failure_of(row).output.endswith("x\nthe end of ten megabytes\n")
        assert len(failure_of(row).output) <= 4096
    shown = capsys.readouterr().err
    assert shown.count("x" * 5000 + "\n") == 4000
    assert shown.count("the end of ten megabytes\n") == 2


def test_a_run_does_not_end_because_nobody_can_read_what_is_printed(monkeypatch):
    gone = io.StringIO()
    gone.close()
    for stderr in (gone, None):
        monkeypatch.setattr("sys.stderr", stderr)
        result = parallel(**UNRECORDED, show_progress=False).run_with(
            partial(FaultyEnv, print_and_raise, {5}), seeding=numbered(N)
        )
        assert failure_of(result.failures[0]).output.endswith("giving up")


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (abort, "the process that played it was killed by SIGABRT", " in abort\n"),
        (partial(os._exit, 7), "the process that played it exited with code 7", ""),
    ],
    ids=["abort", "exit"],
)
def test_a_crash_shows_where_and_prints_no_traceback(
    fault, error, text, undisturbed, capsys, tmp_path
):
    runner = parallel(max_attempts=1, output_dir=tmp_path)
    result = runner.run_with(partial(FaultyEnv, fault, {5}), seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    (row,) = result.failures
    assert error in row.error
    assert text in failure_of(row).traceback
    assert bool(text) == bool(failure_of(row).traceback)
    assert capsys.readouterr().err == ""


# Exceptions that are not below ``Exception``.


@pytest.mark.parametrize("where", [HERE, WORKERS, WORKERS_LANES], ids=str)
@pytest.mark.parametrize("step", [RESET, 2])
def test_an_exception_of_any_kind_fails_its_episode(where, step, undisturbed, tmp_path, capsys):
    runner = where.runner(output_dir=tmp_path)
    result = runner.run_with(partial(FaultyEnv, panic, {5}, step), seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    (row,) = result.failures
    assert row.error.endswith(": PanicError: index out of bounds")
    assert capsys.readouterr().err == ""


def test_an_interrupt_that_a_worker_raised_itself_is_no_ctrl_c(undisturbed, tmp_path, capsys):
    runner = parallel(output_dir=tmp_path)
    env = partial(FaultyEnv, raise_keyboard_interrupt, {5})
    result = runner.run_with(env, seeding=numbered(N))
    assert_only_these_failed(result, undisturbed, {5})
    assert not result.interrupted
    assert result.failures[0].error.startswith("environment after 2 steps: KeyboardInterrupt:")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("where", [HERE, WORKERS], ids=str)
def test_an_exception_of_any_kind_in_the_constructor_is_told(where, tmp_path):
    env = FailsToBuild(tmp_path, panic, range(1000))
    with pytest.raises(ConfigError, match="cannot be built: PanicError: index out of bounds"):
        where.runner(**UNRECORDED).run_with(env)


# Memory of the parent.


def test_workers_wait_for_a_consumer_that_is_slow(tmp_path):
    runner = parallel(n_episodes=100)
    job = runner._job(partial(BigEnv, tmp_path, (5,) * 100), None, None, {}, tmp_path / "run")
    batches = runner.episodes(job, numbered(100).resolved().plan(100))
    n_taken = sum(len(next(batches).rows) for _ in range(2))

    def n_begun() -> int:
        return len(list(tmp_path.glob("began_*")))

    before = -1
    while n_begun() != before:  # They play until all that may be underway is.
        before = n_begun()
        time.sleep(0.5)
    # An episode has 5 MB, a batch about one of them: a few batches, and not what the pipes of a
    # parent that reads on would let pass.
    assert before - n_taken <= 8
    n_taken += sum(len(batch.rows) for batch in batches)
    assert n_taken == 100


def test_what_a_worker_has_in_hand_fits_its_pipe():
    # The parent hands it out without waiting for the worker, which may wait for the parent.
    from multiprocessing.reduction import ForkingPickler

    from maze.core.episode import EpisodeSpec
    from maze.core.rollout.worker import Play

    n = worker_pool._MAX_IN_HAND
    specs = tuple(EpisodeSpec(10**9 + i, 2**63 + i, 2**63 + n + i) for i in range(n))
    assert len(ForkingPickler.dumps(Play(specs, {}))) < worker_pool._PIPE_BYTES


def test_a_heartbeat_leaves_out_the_time_away():
    import multiprocessing

    heartbeat = Heartbeat(multiprocessing.get_context("spawn"), n_lanes=2)
    assert heartbeat.read().playing == ()
    heartbeat.begin(7)
    heartbeat.begin(3)
    (first, second) = heartbeat.read().playing
    assert (first.episode_index, second.episode_index) == (7, 3)
    with heartbeat.apart(Phase.AWAY):
        assert heartbeat.read().phase is Phase.AWAY
        time.sleep(0.05)
    assert heartbeat.read().playing[0].started >= first.started + 0.05
    assert heartbeat.read().phase is Phase.RESET
    heartbeat.end(7)
    assert [playing.episode_index for playing in heartbeat.read().playing] == [3]
