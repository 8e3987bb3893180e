"""What becomes of a run whose main process is killed, asked to end, interrupted or left alone.

What was finished is kept and can be read, no process stays, and nothing is printed that is of use
to nobody. If it could still say something, it says how far it came.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import maze
from maze.core.seeding import Seeding
from tests.commands import (
    MAZE_RUN,
    REPOSITORY,
    RUNNER_OPTIONS,
    Terminal,
    assert_journal_and_trajectories_agree,
    assert_none_stays,
    has_episodes,
    long_run,
    maze_run,
    processes_below,
    send,
    started,
    wait_for,
)
from tests.runs import assert_equal, content

in_any_runner = pytest.mark.parametrize("options", RUNNER_OPTIONS.values(), ids=RUNNER_OPTIONS)

N = 4000
SEEDS = ["seeding.env_base_seed=1", "seeding.agent_base_seed=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    maze.rollout(
        "CartPole-v1",
        n_episodes=N,
        max_episode_steps=200,
        seed=Seeding(1, 2),
        output_dir=directory,
    )
    return content(directory)


def assert_was_interrupted(directory: Path, output: str, n_requested: int = 1_000_000) -> None:
    """What was finished is there, and was printed and written down."""
    rows = assert_journal_and_trajectories_agree(directory)
    assert "interrupted" in output
    assert f"{len(rows):,} of {n_requested:,} episodes" in output
    statistics = json.loads((directory / "statistics.json").read_text())
    assert statistics["n_episodes"] == len(rows)
    assert statistics["run"]["interrupted"] is True
    assert statistics["run"]["request_met"] is False


# Killed.


@in_any_runner
def test_a_killed_run_leaves_no_process_and_is_completed_as_if_nothing_had_happened(
    options, undisturbed, tmp_path
):
    directory = tmp_path / "run"
    with maze_run(directory, *options, *SEEDS, f"runner.n_episodes={N}") as process:
        below = processes_below(process)
        process.kill()
        process.wait(timeout=5)
        assert_none_stays(below)
    n_recorded = len(assert_journal_and_trajectories_agree(directory))
    assert n_recorded < N
    assert not (directory / "statistics.json").exists()
    result = maze.resume(directory)
    assert result.n_done == N
    assert result.request_met
    assert_equal(content(directory), undisturbed)
    assert maze.verify(directory).is_good


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_workers_that_hang_do_not_outlive_the_main_process(number, tmp_path):
    with stuck_run(tmp_path) as process:
        below = processes_below(process)
        assert len(below) >= 3  # The fork server and two workers.
        process.send_signal(number)
        process.wait(timeout=15)
        assert_none_stays(below)
    rows = assert_journal_and_trajectories_agree(tmp_path / "run")
    assert {row.episode_index for row in rows} <= set(range(20))


def stuck_run(tmp_path: Path, command: Sequence[str] = MAZE_RUN) -> Any:
    """Start a run of which both workers come to hang, and wait until they do."""
    config = tmp_path / "configs" / "env" / "stuck.yaml"
    config.parent.mkdir(parents=True)
    target = "_target_: tests.hanging_envs.StuckEnv"
    config.write_text(f"{target}\ndirectory: {tmp_path}\nseed: 20\n")
    options = ["-cd", str(tmp_path / "configs"), "env=stuck", f"hydra.run.dir={tmp_path}/run"]
    seeds = ",".join(map(str, range(40)))
    options += [f"seeding.explicit_env_seeds=[{seeds}]", "runner.n_episodes=40"]
    return started(
        [*command, *options, "runner.n_processes=2"],
        lambda _: len(list(tmp_path.glob("stuck_*"))) == 2 and has_episodes(tmp_path / "run"),
        cwd=REPOSITORY,
    )


# Interrupted by Ctrl-C.


@in_any_runner
def test_ctrl_c_ends_the_command_soon_with_all_that_was_finished(options, tmp_path):
    with maze_run(tmp_path / "run", *options) as process:
        below = processes_below(process)
        send(signal.SIGINT, [process, *below])
        output, errors = process.communicate(timeout=20)
        assert_none_stays(below)
    assert (process.returncode, errors) == (130, "")
    assert_was_interrupted(tmp_path / "run", output)


def test_ctrl_c_while_the_workers_start_is_as_quiet(tmp_path):
    def has_begun(process: psutil.Popen) -> bool:
        return bool(processes_below(process))

    with maze_run(tmp_path / "run", "runner.n_processes=2", has_begun=has_begun) as process:
        time.sleep(0.15)  # The fork server imports modules now.
        send(signal.SIGINT, [process, *processes_below(process)])
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")
    assert "0 of 1,000,000 episodes" in output


INTERRUPTED_WHILE_COMPOSING = """
import signal, sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from maze.cli import maze_run
load = ConfigLoaderImpl.load_configuration
def load_and_interrupt(*args, **options):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        config = None if sys.exc_info()[0] else load(*args, **options)
        return config.copy()  # What OmegaConf does when it is interrupted is much like this.
ConfigLoaderImpl.load_configuration = load_and_interrupt
sys.exit(maze_run.main())
"""


def test_ctrl_c_while_the_config_is_composed_waits_for_the_config(tmp_path):
    arguments = ["env=gym_env", "runner=sequential", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_COMPOSING, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not (tmp_path / "run" / "journal.jsonl").exists()


WAITS_LONG = """
import sys
from maze.cli import maze_run
from maze.core.rollout import worker_pool
worker_pool._FINISH_SECONDS = 60.0
sys.exit(maze_run.main())
"""


def test_a_second_ctrl_c_does_not_wait_for_workers_that_hang(tmp_path):
    with stuck_run(tmp_path, [sys.executable, "-c", WAITS_LONG]) as process:
        below = processes_below(process)
        send(signal.SIGINT, [process, *below])
        with pytest.raises(psutil.TimeoutExpired):  # It waits for what workers have finished.
            process.wait(timeout=0.7)
        started = time.monotonic()
        send(signal.SIGINT, [process, *below])
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - started < 5
        assert_none_stays(below)
    assert process.returncode == 130
    assert errors in ("", "interrupted\n")
    assert_journal_and_trajectories_agree(tmp_path / "run")


@pytest.mark.parametrize("pause", [0.0, 0.03, 0.1])
def test_after_any_number_of_ctrl_cs_all_that_the_journal_lists_is_there(pause, tmp_path):
    with maze_run(tmp_path / "run", "runner.n_processes=2") as process:
        below = processes_below(process)
        while process.poll() is None:
            send(signal.SIGINT, [process, *below])
            time.sleep(pause)
        _, errors = process.communicate(timeout=20)
        assert_none_stays(below)
    # One that comes when all is over ends Python itself.
    assert process.returncode in (130, -signal.SIGINT)
    assert "worker" not in errors
    assert_journal_and_trajectories_agree(tmp_path / "run")


# Asked to end.


@in_any_runner
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["SIGTERM", "SIGHUP"]
)
def test_being_asked_to_end_is_answered_like_ctrl_c(number, code, options, tmp_path):
    with maze_run(tmp_path / "run", *options) as process:
        below = processes_below(process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert_none_stays(below)
    assert (process.returncode, errors) == (code, "")
    assert_was_interrupted(tmp_path / "run", output)


def test_so_it_is_if_the_workers_are_asked_too(tmp_path):
    # As service managers do.
    with maze_run(tmp_path / "run", "runner.n_processes=2") as process:
        below = processes_below(process)
        send(signal.SIGTERM, [process, *below])
        output, errors = process.communicate(timeout=20)
        assert_none_stays(below)
    assert (process.returncode, errors) == (143, "")
    assert_was_interrupted(tmp_path / "run", output)


@pytest.mark.skipif(shutil.which("timeout") is None, reason="there is no such command")
@pytest.mark.parametrize("options", [["runner=sequential"], ["runner.n_processes=2"]], ids=str)
def test_a_command_with_a_time_limit_ends_in_time_to_tell(options, tmp_path):
    directory = tmp_path / "run"
    command = ["timeout", "-k", "20", "1000", *long_run(directory), *options]
    with started(command, lambda _: has_episodes(directory), cwd=REPOSITORY) as process:
        below = processes_below(process)
        process.send_signal(signal.SIGALRM)  # Time is up.
        output, errors = process.communicate(timeout=30)
        assert_none_stays(below)
    # 137 would say that it had to be killed.
    assert (process.returncode, errors) == (124, "")
    assert_was_interrupted(directory, output)


@pytest.mark.skipif(shutil.which("nohup") is None, reason="there is no such command")
def test_with_nohup_a_run_goes_on_without_its_terminal(tmp_path):
    directory = tmp_path / "run"
    command = ["nohup", *long_run(directory), "runner.n_processes=2"]
    with started(
        command, lambda _: has_episodes(directory), cwd=REPOSITORY, stdin=subprocess.DEVNULL
    ) as process:
        send(signal.SIGHUP, [process, *processes_below(process)])
        size = (directory / "journal.jsonl").stat().st_size
        wait_for(lambda: (directory / "journal.jsonl").stat().st_size > size + 100_000)


# In a terminal.


@in_any_runner
def test_a_run_whose_terminal_is_closed_keeps_all_that_was_finished(options, tmp_path):
    directory = tmp_path / "run"
    terminal = Terminal()
    command = [*long_run(directory), *options]
    with terminal.running(command, lambda _: has_episodes(directory)) as process:
        below = processes_below(process)
        terminal.close()
        assert process.wait(timeout=20) == 129
        assert_none_stays(below)
    rows = assert_journal_and_trajectories_agree(directory)
    statistics = json.loads((directory / "statistics.json").read_text())
    assert statistics["n_episodes"] == len(rows)
    assert statistics["run"]["interrupted"] is True
    assert "Traceback" not in terminal.shown


def test_ctrl_c_is_typed(tmp_path):
    directory = tmp_path / "run"
    terminal = Terminal()
    command = [*long_run(directory), "runner.n_processes=2"]
    with terminal.running(command, lambda _: has_episodes(directory)) as process:
        below = processes_below(process)
        terminal.type("\x03")
        assert process.wait(timeout=20) == 130
        assert_none_stays(below)
        wait_for(lambda: "interrupted" in terminal.shown)
    assert "Traceback" not in terminal.shown
    assert_was_interrupted(directory, terminal.shown)


# Read meanwhile.


def test_a_directory_is_readable_while_the_run_goes_on(tmp_path):
    with maze_run(tmp_path / "run", "runner.n_processes=2"):
        first = assert_journal_and_trajectories_agree(tmp_path / "run")
        assert maze.verify(tmp_path / "run").is_good
        wait_for(lambda: len(maze.load(tmp_path / "run")) > len(first))
