"""The faults that a run has to survive.

The rule: a run ends by itself, within a bound, and tells the truth; every episode that was
finished is kept, those that are not to blame are as in an undisturbed run, and no process stays.

What holds it, for each kind of fault; tests without a module are in this one, and names may be
cut off (...):

    Workers
    killed in an episode            test_the_episodes_of_a_killed_worker_are_played_again
    killed by the same, each time   test_an_episode_that_kills_its_process_fails_alone
    all killed at once              test_killing_all_workers_at_once_changes_nothing_either
    killed again and again          test_deadlines: test_workers_that_die_again_and_again_...
    cannot be replaced              test_a_worker_that_cannot_be_replaced_ends_the_run_...
                                    test_deadlines: test_a_run_without_workers_ends_with_...
    one or many, killed or not      test_how_many_workers_there_are_and_which_die_does_not_show
                                    test_laws: test_the_same_seeds_give_the_same_files_...
    spawned, threads around         test_workers_can_be_spawned_where_there_is_no_fork_server
                                    test_workers_are_not_forked_from_a_process_with_threads_...

    The environment
    raises in reset, in a step      test_an_error_in_the_environment_fails_exactly_its_episodes
                                    test_the_steps_before_the_error_are_kept
    is broken after that            test_an_environment_that_cannot_be_built_a_second_time_...
    raises what is no Exception     test_whatever_is_raised_is_told_as_text
                                    test_deadlines: test_an_exception_of_any_kind_fails_...
                                    test_deadlines: test_an_interrupt_that_a_worker_raised_...
    exits, aborts, segfaults        test_an_episode_that_kills_its_process_fails_alone
                                    test_deadlines: test_a_crash_shows_where_and_prints_no_...
    cannot be built                 test_an_environment_that_cannot_be_built_is_told_before_...
                                    test_so_is_one_that_kills_its_process
    cannot be built at times        test_deadlines: test_a_worker_that_cannot_be_built_at_...
                                    test_deadlines: test_the_pool_shrinks_where_only_some_...
    hangs in Python, in C, locked   test_deadlines: test_a_step_that_hangs_fails_its_episode_...
                                    test_deadlines: test_a_hang_that_cannot_be_asked_where_...
    hangs in a constructor, close   test_deadlines: test_a_hang_in_the_construction_for_an_...
                                    test_deadlines: test_an_environment_that_hangs_when_it_...
    does not end                    test_runners: test_it_is_told_whose_limit_cut_an_episode_off
                                    test_deadlines: test_an_episode_that_moves_on_too_slowly_...
    violates its interface          test_runners: test_a_step_that_is_none_stops_the_run_and_...
                                    test_runners: test_flags_have_to_be_booleans
                                    test_runners: test_a_reset_that_is_none_stops_the_run_too
                                    test_runners: test_dictionary_observations_are_checked_...
                                    test_gym_env: test_four_values_are_answered_with_the_five_...
    returns NaN                     test_runners: test_by_default_a_nan_fails_its_episode
                                    test_runners: test_a_nan_can_be_counted_only
                                    test_long_episodes: test_so_it_is_for_any_nan
                                    test_statistics: test_nan_is_left_out_and_counted
                                    test_ledger: test_a_line_of_the_journal_is_json_and_says_...
    returns the same array again    test_laws: test_an_env_that_reuses_its_observation_buffer_...
    draws from global generators    test_laws: test_an_env_that_draws_from_global_generators_...
    leaks                           test_deadlines: test_a_worker_that_leaks_is_replaced_...
                                    test_deadlines: test_replacing_workers_changes_nothing
    has a lock, is a lambda         test_runners: test_elsewhere_it_is_refused_with_a_way_out
                                    test_runners: test_functions_of_one_line_can_be_env_and_policy
    is known to the caller only     test_runners: test_an_environment_registered_in_this_...
                                    test_runners: test_a_script_without_main_guard_plays_its_...
                                    test_cli: test_a_module_beside_the_command_can_be_named

    The policy
    raises                          test_a_policy_that_fails_takes_no_other_episode_of_its_...
    hangs                           test_deadlines: test_a_policy_that_hangs_is_blamed_itself
    acts out of its space           test_runners: test_an_action_that_is_none_stops_the_run_...
                                    test_runners: test_so_can_an_action_out_of_bounds
                                    test_runners: test_a_batch_with_too_few_actions_is_refused
    cannot be sent to workers       test_runners: test_a_policy_that_cannot_be_sent_to_workers_...

    Memory
    a million episodes              test_slow: test_a_million_episodes_leave_the_memory_of_the_...
    an episode of 200,000 steps     test_long_episodes: test_memory_does_not_grow_with_an_episode
    two megabytes of info a step    test_infos_are_not_kept
    a slow consumer                 test_deadlines: test_workers_wait_for_a_consumer_that_is_slow
                                    test_slow: test_a_slow_consumer_does_not_make_the_memory_grow

    The main process
    killed                          test_main_process: test_a_killed_run_leaves_no_process_...
                                    test_main_process: test_workers_that_hang_do_not_outlive_...
    killed at any moment            test_crashes: test_a_run_that_is_killed_at_some_moments_...
                                    test_slow: test_a_run_that_is_killed_by_chance_and_resumed_...
    killed while it is resumed      test_resume: test_an_interrupted_resumption_is_resumed
    Ctrl-C                          test_main_process: test_ctrl_c_ends_the_command_soon_with_...
                                    test_main_process: test_ctrl_c_while_the_workers_start_is_...
                                    test_main_process: test_ctrl_c_is_typed
    Ctrl-C again                    test_main_process: test_a_second_ctrl_c_does_not_wait_for_...
                                    test_main_process: test_after_any_number_of_ctrl_cs_all_...
    SIGTERM, SIGHUP                 test_main_process: test_being_asked_to_end_is_answered_...
                                    test_main_process: test_so_it_is_if_the_workers_are_asked_too
    timeout -k                      test_main_process: test_a_command_with_a_time_limit_ends_...
    the terminal is closed          test_main_process: test_a_run_whose_terminal_is_closed_...

    Files
    the disk is full                test_ledger: test_a_full_disk_stops_the_run_and_keeps_...
                                    test_ledger: test_a_disk_of_700_kilobytes_does_so_too
    other errors of the disk        test_an_error_of_the_disk_stops_the_run_and_keeps_what_was_...
    cannot be written               test_runners: test_a_directory_that_cannot_be_written_is_named
    cut off, changed, lost          test_ledger: test_damage_is_named_and_no_wrong_episode_is_...
                                    test_ledger: test_what_is_damaged_is_played_again
                                    test_verify: test_damaged_data_is_named_with_its_episodes
                                    test_slow: test_damage_at_any_byte_is_named_and_costs_no_...
    written by two at once          test_ledger: test_two_processes_cannot_write_into_one_...
    made to do harm                 test_hostile_files: test_what_lies_in_a_directory_from_...
                                    test_hostile_files: test_a_config_is_read_as_plain_values_...
                                    test_replay: test_the_commands_import_nothing_that_came_...
                                    test_verify: test_nothing_is_imported_without_trust

Not tested: file systems over a network, where a new name may show late (one process writes, under
a lock, and what it has not listed in the journal does not count), and stores of objects, which are
not written to. A GPU that runs out of memory, or was in use before workers were started: no policy
of Maze uses one yet, and workers come from a fork server, which has loaded no such library.
"""

import contextlib
import errno
import multiprocessing
import os
import re
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

import maze
from maze.core.errors import ConfigError, ContractError, OutputError, RunStoppedError
from maze.core.ledger import data_files, journal
from maze.core.rollout import worker_pool
from maze.core.rollout.result import RolloutResult
from maze.core.trajectory.trajectory import StepsStream
from tests.commands import wait_for
from tests.envs import (
    RESET,
    Divided,
    EventfulEnv,
    FailsToBuildEnv,
    FaultyEnv,
    KilledOnceEnv,
    NoSecondWorkerEnv,
    RegistersProcessEnv,
    TellsMuchEnv,
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
    Where,
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


def test_the_tests_of_the_table_exist():
    assert __doc__ is not None
    lines = re.findall(r"(?: {4}|  )(?:(test_\w+): )?(test_\w+?)(\.\.\.)?$", __doc__, re.MULTILINE)
    assert len(lines) > 70
    for module, name, is_cut_off in lines:
        path = Path(__file__).with_name(f"{module}.py") if module else Path(__file__)
        end = r"\w*\(" if is_cut_off else r"\("
        found = re.findall(rf"^def {name}{end}", path.read_text(), re.MULTILINE)
        assert len(found) == 1, (module, name)


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


@pytest.mark.parametrize("where", [Where(1), Where(7), Where(7, 8), Where(32)], ids=str)
def test_how_many_workers_there_are_and_which_die_does_not_show(where, undisturbed, tmp_path):
    # Seven and more are a load that a small machine does not bear well.
    env = partial(KilledOnceEnv, tmp_path, {0, 3, 7})
    result = where.runner(output_dir=tmp_path / "run").run_with(env, seeding=numbered(N))
    assert len(list(tmp_path.glob("killed_in_*"))) == 3
    assert_equal(content(tmp_path / "run"), undisturbed)
    assert result.request_met


def test_workers_can_be_spawned_where_there_is_no_fork_server(undisturbed, monkeypatch, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(worker_pool, "process_context", lambda needs_torch: spawn)
    env = partial(KilledOnceEnv, tmp_path, {3})
    result = parallel(output_dir=tmp_path / "run").run_with(env, seeding=numbered(N))
    assert_equal(content(tmp_path / "run"), undisturbed)
    assert result.request_met


def test_workers_are_not_forked_from_a_process_with_threads_that_hold_locks(undisturbed, tmp_path):
    # A process that was forked at this moment would wait for the lock for ever.
    lock, is_over = threading.Lock(), threading.Event()

    def hold() -> None:
        with lock:
            is_over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        env = partial(FaultyEnv, partial(assert_is_fresh, os.getpid()), {5})
        result = parallel(output_dir=tmp_path).run_with(env, seeding=numbered(N))
    finally:
        is_over.set()
        thread.join()
    assert result.request_met
    assert_equal(content(tmp_path), undisturbed)


def assert_is_fresh(main_process: int) -> None:
    assert main_process not in (os.getpid(), os.getppid())
    assert threading.active_count() <= 2


def test_infos_are_not_kept():
    tracemalloc.start()
    try:
        runner = sequential(n_episodes=2, record_trajectory=False, record_event_logs=False)
        result = runner.run_with(partial(TellsMuchEnv, 100))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.n_steps == 200
    assert most < 20 * 2**20


# Disks.


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize("module", [journal, data_files], ids=["journal", "data"])
@pytest.mark.parametrize("n_before", [4, 5])
def test_an_error_of_the_disk_stops_the_run_and_keeps_what_was_written(
    code, module, n_before, undisturbed, monkeypatch, tmp_path
):
    # Full disks are filled in test_ledger. Others cannot be had for the asking.
    n_written = 0

    def fail_later(file: BinaryIO, data: bytes) -> None:
        nonlocal n_written
        n_written += 1
        if n_written > n_before:
            file.write(data[:10])
            raise OSError(code, os.strerror(code))
        write_all(file, data)

    write_all = journal.write_all
    env = partial(FaultyEnv, raise_error, {2, 5, 8})
    monkeypatch.setattr(module, "write_all", fail_later)
    with pytest.raises(OutputError) as caught:
        sequential(output_dir=tmp_path).run_with(env, seeding=numbered(N))
    monkeypatch.undo()
    assert os.strerror(code) in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    recorded = {t.episode_index: plain(t) for t in maze.load(tmp_path)}
    assert 0 < len(recorded) < N
    assert not any("is missing" in str(one) for one in maze.verify(tmp_path).damage)
    result = maze.resume(tmp_path, env=WalkEnv, retry_failed=True)
    assert result.request_met
    assert_equal(content(tmp_path), undisturbed)


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
