"""What takes long: many repetitions of what the other tests do a few times. `make test-slow`."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

import maze
from maze.core.errors import OutputError
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.rollout.verify import verify_run
from maze.core.seeding import Seeding
from tests.commands import (
    MAZE,
    MAZE_RUN,
    REPOSITORY,
    assert_none_stays,
    processes_below,
)
from tests.envs import FaultyEnv, raise_error
from tests.runs import assert_equal, content, is_same, numbered, plain, sequential

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


# Killed at moments by chance.


@dataclass(frozen=True)
class Run:
    """What ``maze-run`` is asked for; it takes a second or two."""

    env: str
    """The lines of its config file."""
    n_episodes: int
    options: Sequence[str] = ("runner.n_processes=2",)

    def command(self, directory: Path) -> list[str]:
        config = directory.parent / "configs" / "env" / "tested.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(self.env)
        options = [f"runner.n_episodes={self.n_episodes}", "runner.max_episode_steps=0"]
        options += ["seeding.env_base_seed=3", "seeding.agent_base_seed=4", *self.options]
        where = ["-cd", str(directory.parent / "configs"), f"hydra.run.dir={directory}"]
        return [*MAZE_RUN, *where, "env=tested", *options]


CARTPOLE = """\
_target_: maze.core.wrappers.maze_gym_env_wrapper.make_gym_maze_env
name: CartPole-v1
"""
RUNS = {
    "sequential": Run(CARTPOLE, 4000, ["runner=sequential"]),
    "two processes": Run(CARTPOLE, 4000),
    "lanes": Run(CARTPOLE, 4000, ["runner.n_processes=2", "runner.n_lanes=8"]),
    "failing": Run("_target_: tests.envs.FailsNowAndThenEnv\nevery: 100\n", 5000),
    "several step keys": Run("_target_: tests.envs.TwoStepEnv\nn_steps: 8\n", 3000),
    "long": Run("_target_: tests.envs.WalkEnv\nn_steps: 100000\n", 4),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_by_chance_and_resumed_equals_an_undisturbed_one(name, tmp_path):
    run = RUNS[name]
    chance = random.Random(name)
    undisturbed = tmp_path / "undisturbed"
    seconds = seconds_until_killed(run.command(undisturbed), after_s=60)
    assert seconds is not None
    expected = content(undisturbed)
    n_killed = n_killed_again = 0
    for moment in range(18):
        directory = tmp_path / str(moment)
        lasted = seconds_until_killed(run.command(directory), chance.uniform(0.2, 0.95) * seconds)
        if lasted is None:
            n_killed += 1
        else:
            seconds = min(seconds, lasted)  # The machine has less to do now.
        if not (directory / "journal.jsonl").exists():
            continue  # It had not begun.
        for trajectory in maze.load(directory):
            index = trajectory.episode_index
            assert is_same(plain(trajectory), expected.trajectories[index]), (moment, index)
        assert not maze.verify(directory).damage
        if chance.random() < 0.4:
            command = [*MAZE, "resume", str(directory), "--trust"]
            lasted = seconds_until_killed(command, chance.uniform(0.2, 0.95) * seconds)
            n_killed_again += lasted is None
        result = maze.resume(directory, trust=True)
        assert result.n_done == run.n_episodes
        assert_equal(content(directory), expected)
        assert maze.verify(directory).is_good
        shutil.rmtree(directory)
    assert n_killed >= 10
    assert n_killed_again >= 1


def seconds_until_killed(command: Sequence[str], after_s: float) -> float | None:
    """Start a command, and kill it; return how long it took if it had ended before that."""
    started = time.monotonic()
    process = psutil.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(after_s)
    seconds = time.monotonic() - started
    below = processes_below(process)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert_none_stays(below)
    assert errors == b""
    return None if process.returncode == -signal.SIGKILL else seconds


# Damaged at every byte.


def flip_a_bit(data: bytes, at: int) -> bytes:
    bit = 1 << random.Random(at).randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def truncate(data: bytes, at: int) -> bytes:
    return data[:at]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spoil", [flip_a_bit, truncate])
@pytest.mark.parametrize(
    "name",
    ["trajectory_data/steps_0.arrow", "event_logs/Reward.tsv", "journal.jsonl", "episodes.parquet"],
)
def test_damage_at_any_byte_is_named_and_costs_no_episode_but_those_that_it_is_in(
    name: str, spoil: Callable[[bytes, int], bytes], tmp_path
):
    env = partial(FaultyEnv, raise_error, {1})  # Two batches: one ends with the failed episode.
    sequential(n_episodes=4, output_dir=tmp_path).run_with(env, seeding=numbered(4))
    run = maze.load(tmp_path)
    trajectories = {t.episode_index: plain(t) for t in run}
    rows = list(run.table)
    ids = {row.episode_id: row.episode_index for row in rows}
    events = run.events("Reward").to_dict("records")
    path = tmp_path / name
    whole = path.read_bytes()
    last_line = whole.rstrip().rfind(b"\n") + 1
    for at in range(len(whole)):
        path.write_bytes(spoil(whole, at))
        verification = verify_run(tmp_path, show_progress=False)
        if name == "journal.jsonl" and at >= last_line and b"\n" not in path.read_bytes()[at:]:
            # A process that is killed while it writes that line leaves the same.
            assert not verification.damage
        else:
            assert any(one.file == name for one in verification.damage), at
        lost = {index for one in verification.damage for index in one.episode_indices}
        run = maze.load(tmp_path)
        assert list(run.table) == rows, at
        found = {t.episode_index: plain(t) for t in run}
        lost_steps = lost if name.startswith("trajectory_data") else set()
        # Of what shares a batch with the damage, some may be whole: their digests tell.
        assert trajectories.keys() >= found.keys() >= trajectories.keys() - lost_steps, at
        assert all(is_same(one, trajectories[index]) for index, one in found.items()), at
        if name.startswith("event_logs"):
            try:
                kept = run.events("Reward").to_dict("records")
            except OutputError:
                assert lost == set(range(4))
                kept = []
            assert kept == [event for event in events if ids[event["episode_id"]] not in lost], at
    path.write_bytes(whole)
    assert verify_run(tmp_path, show_progress=False).is_good


# Memory.

MILLION = """
import json, sys, threading, time
from functools import partial
import psutil
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.seeding import Seeding
from maze.core.sinks.sink import Sink
from tests.envs import CountingEnv

class Sampler(Sink):
    def __init__(self):
        self.n_episodes, self.samples = 0, []
    def open(self):
        pass
    def write(self, batch):
        before, self.n_episodes = self.n_episodes, self.n_episodes + len(batch.rows)
        if before // 100_000 != self.n_episodes // 100_000:
            self.samples.append(resident_mb())
    def close(self):
        pass

class Sampled(ParallelRolloutRunner):
    def _sinks(self, directory):
        self.sampler = Sampler()
        return [self.sampler]

def resident_mb():
    return psutil.Process().memory_info().rss / 2**20

def watch():
    global most
    while not is_over.wait(0.05):
        most = max(most, resident_mb())

most, is_over = 0.0, threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
runner = Sampled(2, 1_000_000, max_episode_steps=0)
result = runner.run_with(partial(CountingEnv, 2), seeding=Seeding(1, 2), output_dir=sys.argv[1])
is_over.set()
watcher.join()
told = {"n_done": result.n_done, "samples": runner.sampler.samples, "most": most}
print(json.dumps({**told, "mean": result.statistics["return"].mean}))
"""


@pytest.mark.timeout(1500)
def test_a_million_episodes_leave_the_memory_of_the_main_process_flat(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path / "run")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["n_done"], told["mean"]) == (1_000_000, 3.0)
    samples = told["samples"]
    assert len(samples) == 10
    # Some dozen bytes an episode: where its data is, and its numbers for the statistics.
    assert samples[-1] - samples[1] < 80, samples
    assert told["most"] < samples[1] + 300, told


SLOW_CONSUMER = """
import json, sys, time
from functools import partial
import psutil
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.seeding import Seeding
from tests.envs import CountingEnv

runner = ParallelRolloutRunner(2, 1_000_000, max_episode_steps=0)
job = runner._job(partial(CountingEnv, 2), None, None, {}, None)
batches = runner.episodes(job, Seeding(1, 2).plan(1_000_000))
for _ in range(20):
    next(batches)
before, most, n_taken = psutil.Process().memory_info().rss, 0, 0
for batch in batches:
    n_taken += len(batch.rows)
    time.sleep(0.2)
    most = max(most, psutil.Process().memory_info().rss)
    if n_taken > 100_000:
        break
batches.close()
print(json.dumps({"growth": (most - before) / 2**20, "n_taken": n_taken}))
"""


def test_a_slow_consumer_does_not_make_the_memory_grow():
    done = subprocess.run(
        [sys.executable, "-c", SLOW_CONSUMER], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["n_taken"] > 100_000
    assert told["growth"] < 20, told
