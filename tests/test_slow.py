"""What takes long: many repetitions of what the other tests do a few times. `make test-slow`."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import maze
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "maze.cli.maze_run", "env=gym_env", "runner.n_episodes=100000"]


@pytest.mark.parametrize("moment", range(20))
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("runner", ["sequential", "parallel"])
def test_a_run_that_is_stopped_at_any_moment_holds_every_episode_of_its_journal(
    tmp_path, runner, how, moment
):
    options = [f"runner={runner}", "seeding.env_base_seed=1", "seeding.agent_base_seed=2"]
    directory = tmp_path / "run"
    run = subprocess.Popen(
        [*COMMAND, *options, f"hydra.run.dir={directory}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.0 + 1.5 * random.Random(moment).random())
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(how)
    _, errors = run.communicate(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert "Traceback" not in errors
    if not (directory / "journal.jsonl").exists():
        return  # It had not begun.
    recorded = maze.load(directory)
    table = recorded.table
    indices = table.episode_indices.tolist()
    assert indices == sorted(set(indices))
    for index in indices[:: max(1, len(table) // 200)]:
        assert len(recorded[index]) == table.row(index).n_steps
        assert recorded[index].rewards.sum() == table.row(index).episode_return


def test_fifty_thousand_episodes_are_the_same_in_any_number_of_lanes(tmp_path):
    seeding = Seeding(3, 4)
    results = [
        SequentialRolloutRunner(
            n_episodes=50_000,
            n_lanes=n_lanes,
            output_dir=tmp_path / str(n_lanes),
            record_event_logs=False,
        ).run_with("CartPole-v1", seeding=seeding)
        for n_lanes in (1, 7)
    ]
    assert results[0].episodes.has_equal_episodes(results[1].episodes)
    assert np.isfinite(results[0].returns).all()
