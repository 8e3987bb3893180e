"""How fast rollouts are, compared with a bare Gymnasium loop in the same run.

Speeds differ from machine to machine and from minute to minute, ratios much less. So each figure
is a ratio of two workloads that are measured in turns, and the median of several turns.

    python benchmarks/rollout_benchmarks.py [--quick] [--only TEXT] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core import episode
from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.ledger import data_files, journal
from maze.core.ledger.journal import JournalWriter
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.rollout_runner import RolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.sinks.ledger_sink import LedgerSink
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze_envs.logistics.cutting_2d.env import cutting_2d_structured_masked
from maze_envs.logistics.cutting_2d.greedy_policy import GreedyPolicy

CARTPOLE = "CartPole-v1"
RANDOM_POLICY = {"_target_": "maze.core.agent.random_policy.RandomPolicy"}
MAX_EPISODE_STEPS = 200
N_PROCESSES = 2

MakeEnv: TypeAlias = Callable[[], gym.Env[Any, Any]]


class Measured(NamedTuple):
    """One run of a workload."""

    seconds: float
    n_steps: int


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: Literal["x", "s", "MB", "%", "µs"]
    budget: float | None
    """``None`` if the line is there for comparison only."""
    is_better: Literal["higher", "lower"]
    spread: tuple[float, float]
    """The lowest and the highest of the repeats."""
    detail: str
    """The speed in the best repeat, or what was compared."""

    @property
    def is_met(self) -> bool:
        """Whether the value keeps to the budget. Without budget, true."""
        if self.budget is None:
            return True
        return (
            self.value >= self.budget if self.is_better == "higher" else self.value <= self.budget
        )


# Workloads.


def play_bare(make_env: MakeEnv, n_episodes: int, first_seed: int = 0) -> Measured:
    """Play the loop that everybody writes first: nothing is kept, only steps are counted."""
    started = time.perf_counter()
    env = make_env()
    env.action_space.seed(first_seed)
    n_steps = 0
    for seed in range(first_seed, first_seed + n_episodes):
        env.reset(seed=seed)
        terminated = truncated = False
        length = 0
        while not (terminated or truncated) and length < MAX_EPISODE_STEPS:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            length += 1
        n_steps += length
    env.close()
    return Measured(time.perf_counter() - started, n_steps)


def make_cartpole() -> gym.Env[Any, Any]:
    """Make the environment as a user does, with Gymnasium's default wrappers."""
    return gym.make(CARTPOLE)


def play_bare_in_processes(n_episodes: int) -> Measured:
    """Play bare loops side by side, from the start of the processes to their end."""
    started = time.perf_counter()
    share = n_episodes // N_PROCESSES
    with fresh_processes(N_PROCESSES) as pool:
        parts = list(
            pool.map(
                play_bare,
                [make_cartpole] * N_PROCESSES,
                [share] * N_PROCESSES,
                [share * number for number in range(N_PROCESSES)],
            )
        )
    return Measured(time.perf_counter() - started, sum(part.n_steps for part in parts))


def fresh_processes(n_processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"))


def play_with(runner: RolloutRunner, make_env: Callable[[], GymMazeEnv]) -> Measured:
    """Run a runner, from the call of ``run_with`` until everything is on the disk."""
    with tempfile.TemporaryDirectory() as directory:
        is_recording = runner.record_trajectory or runner.record_event_logs
        started = time.perf_counter()
        result = runner.run_with(
            env=make_env(),
            agent=RANDOM_POLICY,
            output_dir=Path(directory) / "run" if is_recording else None,
        )
        seconds = time.perf_counter() - started
    if not result.request_met:
        raise RuntimeError(f"a benchmark did not play what it should:\n{result}")
    return Measured(seconds, result.n_steps)


def sequential(n_episodes: int, *, is_recording: bool) -> SequentialRolloutRunner:
    return SequentialRolloutRunner(
        n_episodes=n_episodes,
        max_episode_steps=MAX_EPISODE_STEPS,
        record_trajectory=is_recording,
        record_event_logs=is_recording,
        show_progress=False,
    )


def parallel(n_episodes: int, *, is_recording: bool) -> ParallelRolloutRunner:
    return ParallelRolloutRunner(
        n_processes=N_PROCESSES,
        n_episodes=n_episodes,
        max_episode_steps=MAX_EPISODE_STEPS,
        record_trajectory=is_recording,
        record_event_logs=is_recording,
        show_progress=False,
    )


class RobotEnv(gym.Env[dict[str, Any], dict[str, Any]]):
    """Observations and actions of several parts; the dynamics cost next to nothing.

    Ends after 50 steps.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "position": spaces.Box(-10, 10, (3,), np.float32),
                "velocity": spaces.Box(-10, 10, (3,), np.float32),
                "gripper": spaces.Dict(
                    {"is_closed": spaces.Discrete(2), "force": spaces.Box(0, 1, (1,), np.float32)}
                ),
            }
        )
        self.action_space = spaces.Dict(
            {"thrust": spaces.Box(-1, 1, (3,), np.float32), "grip": spaces.Discrete(2)}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._position = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        self._velocity = np.zeros(3, np.float32)
        self._is_closed = 0
        self._n_steps = 0
        return self._observation(), {}

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._velocity = self._velocity * np.float32(0.9) + action["thrust"] * np.float32(0.01)
        self._position = self._position + self._velocity
        self._is_closed = action["grip"]
        self._n_steps += 1
        reward = -float(np.abs(self._position).sum())
        return self._observation(), reward, self._n_steps == 50, False, {}

    def _observation(self) -> dict[str, Any]:
        force = np.full(1, self._is_closed, np.float32)
        return {
            "position": self._position,
            "velocity": self._velocity,
            "gripper": {"is_closed": self._is_closed, "force": force},
        }


class PixelEnv(gym.Env[NDArray[np.uint8], np.int64]):
    """Pictures as an Atari pipeline makes them: what changes from one to the next is small.

    Each step draws four frames of 210 by 160 with moving sprites, takes the maximum of the last
    two, scales it down to 84 by 84, and stacks the last four of these. Ends after 200 steps.
    """

    observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = spaces.Discrete(4)
    _SHAPE = (210, 160)
    _N_SPRITES = 12

    def __init__(self) -> None:
        rows = np.linspace(0, self._SHAPE[0] - 2, 84).astype(np.intp)
        columns = np.linspace(0, self._SHAPE[1] - 2, 84).astype(np.intp)
        corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
        self._taps = [
            ((rows + down)[:, None] * self._SHAPE[1] + columns + right).ravel()
            for down, right in corners
        ]
        # Bricks and a border, as a game's background is: not one colour, and not noise.
        bricks = np.indices(self._SHAPE).sum(axis=0) // 12 % 3 * 20
        self._background = np.where(np.arange(self._SHAPE[0])[:, None] < 60, bricks, 8).astype(
            np.uint8
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._places = self.np_random.integers(10, 140, (self._N_SPRITES, 2))
        self._speeds = self.np_random.integers(-3, 4, (self._N_SPRITES, 2))
        self._n_steps = 0
        self._stack = np.repeat(self._picture()[:, :, None], 4, axis=2)
        return self._stack.copy(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._speeds[0, 1] = (-2, 0, 0, 2)[int(action)]
        self._stack[:, :, :3] = self._stack[:, :, 1:]
        self._stack[:, :, 3] = self._picture()
        self._n_steps += 1
        return self._stack.copy(), 0.0, self._n_steps == 200, False, {}

    def _picture(self) -> NDArray[np.uint8]:
        frames = [self._frame() for _ in range(4)]
        brightest = np.maximum(frames[2], frames[3]).ravel()
        total = sum(brightest[tap].astype(np.uint16) for tap in self._taps)
        return (np.asarray(total) // 4).astype(np.uint8).reshape(84, 84)

    def _frame(self) -> NDArray[np.uint8]:
        self._places = (self._places + self._speeds - 5) % 140 + 5
        frame = self._background.copy()
        for number, (row, column) in enumerate(self._places.tolist()):
            frame[row : row + 8, column : column + 6] = 100 + 12 * number
        return frame


# Measuring.


def compare(
    name: str,
    baseline: Callable[[], Measured],
    subjects: Mapping[str, tuple[Callable[[], Measured], float | None]],
    n_repeats: int,
) -> Iterator[Figure]:
    """Measure the speeds of subjects as multiples of the baseline's, in turns.

    If there is more than one turn, there is another before them that does not count: it imports
    what is imported on first use.
    """
    speeds: dict[str, list[float]] = {key: [] for key in ["", *subjects]}
    for turn in range(n_repeats if n_repeats == 1 else n_repeats + 1):
        for key, play in [("", baseline), *((key, play) for key, (play, _) in subjects.items())]:
            measured = play()
            if turn > 0 or n_repeats == 1:
                speeds[key].append(measured.n_steps / measured.seconds)
    yield Figure(name, 1.0, "x", None, "higher", (1.0, 1.0), _microseconds_a_step(max(speeds[""])))
    for key, (_, budget) in subjects.items():
        ratios = [speed / base for speed, base in zip(speeds[key], speeds[""], strict=True)]
        spread = (min(ratios), max(ratios))
        detail = _microseconds_a_step(max(speeds[key]))
        yield Figure(key, statistics.median(ratios), "x", budget, "higher", spread, detail)


def measure_sequential(is_quick: bool) -> Iterator[Figure]:
    n_episodes, n_repeats = (1_500, 3) if is_quick else (5_000, 7)
    yield from compare(
        "bare loop, CartPole",
        lambda: play_bare(make_cartpole, n_episodes),
        {
            "sequential, all recorded": (
                lambda: play_with(
                    sequential(n_episodes, is_recording=True), lambda: GymMazeEnv(CARTPOLE)
                ),
                1.0,
            ),
            "sequential, not recorded": (
                lambda: play_with(
                    sequential(n_episodes, is_recording=False), lambda: GymMazeEnv(CARTPOLE)
                ),
                None,
            ),
        },
        n_repeats,
    )


def measure_parallel(is_quick: bool) -> Iterator[Figure]:
    n_episodes, n_repeats = (15_000, 1) if is_quick else (80_000, 3)
    yield from compare(
        "bare loops in 2 processes",
        lambda: play_bare_in_processes(n_episodes),
        {
            "2 processes, all recorded": (
                lambda: play_with(
                    parallel(n_episodes, is_recording=True), lambda: GymMazeEnv(CARTPOLE)
                ),
                0.9,
            ),
            "2 processes, not recorded": (
                lambda: play_with(
                    parallel(n_episodes, is_recording=False), lambda: GymMazeEnv(CARTPOLE)
                ),
                None,
            ),
        },
        n_repeats,
    )


def measure_dictionaries(is_quick: bool) -> Iterator[Figure]:
    n_episodes, n_repeats = (200, 3) if is_quick else (1_000, 5)
    yield from compare(
        "bare loop, dictionaries",
        lambda: play_bare(RobotEnv, n_episodes),
        {
            "dictionaries, all recorded": (
                lambda: play_with(
                    sequential(n_episodes, is_recording=True), lambda: GymMazeEnv(RobotEnv())
                ),
                None,
            ),
        },
        n_repeats,
    )


def measure_pixels(is_quick: bool) -> Iterator[Figure]:
    n_episodes, n_repeats = (10, 3) if is_quick else (40, 5)
    yield from compare(
        "pixels, not recorded",
        lambda: play_with(
            sequential(n_episodes, is_recording=False), lambda: GymMazeEnv(PixelEnv())
        ),
        {
            "pixels, all recorded": (
                lambda: play_with(
                    sequential(n_episodes, is_recording=True), lambda: GymMazeEnv(PixelEnv())
                ),
                1 / 1.2,
            ),
        },
        n_repeats,
    )


class ScriptedPolicy(StructuredPolicy):
    """Plays the same actions in each episode, in next to no time.

    Args:
        actions: of an episode.
    """

    def __init__(self, actions: Sequence[Action]) -> None:
        self.actions = actions

    def start_episode(self, seed: int) -> Iterator[Action]:
        return iter(self.actions)

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        action: Action = next(memory)
        return action


def make_cutting() -> StructuredEnv:
    """Make the cutting environment of the tutorial, in which each step has two sub-steps."""
    return cutting_2d_structured_masked(
        max_pieces_in_inventory=50,
        raw_piece_size=[4, 3],
        static_demand=[[1, 2], [1, 2], [1, 1], [2, 2], [1, 2], [1, 1]],
    )


def greedy_actions() -> list[Action]:
    """Return what the greedy policy does in an episode; all episodes are the same."""
    env = make_cutting()
    policies = {key: GreedyPolicy(space) for key, space in env.action_spaces.items()}
    observation, _ = env.reset(seed=0)
    actions, is_last = [], False
    while not is_last:
        actions.append(policies[env.actor_id().step_key].act(observation, None, True))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        is_last = terminated or truncated
    return actions


def play_cutting_env(actions: Sequence[Action], n_episodes: int) -> Measured:
    """Step the environment by hand."""
    env = make_cutting()
    started = time.perf_counter()
    for seed in range(n_episodes):
        env.reset(seed=seed)
        for action in actions:
            env.step(action)
        env.events.clear()
    return Measured(time.perf_counter() - started, n_episodes * len(actions))


def play_cutting_rules(actions: Sequence[Action], n_episodes: int) -> Measured:
    """Do what belongs to the environment itself: its rules, observations and actions."""
    env: Any = make_cutting().unwrapped
    rules, rng = env.core_env, np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(n_episodes):
        state = rules.reset(rng)
        for action in actions:
            actor = rules.actor_id()
            state, _, _ = rules.step(
                env.actions[actor.step_key].space_to_maze(action, state, actor)
            )
            actor = rules.actor_id()
            env.observations[actor.step_key].maze_to_space(state, actor)
        rules.events.clear()
    return Measured(time.perf_counter() - started, n_episodes * len(actions))


def measure_structured(is_quick: bool) -> Iterator[Figure]:
    """Measure sub-steps of the cutting environment, and what of them is the framework's doing."""
    n_episodes, n_repeats = (20, 3) if is_quick else (100, 7)
    actions = greedy_actions()

    def play() -> Measured:
        with tempfile.TemporaryDirectory() as directory:
            runner = SequentialRolloutRunner(n_episodes=n_episodes, max_episode_steps=0)
            started = time.perf_counter()
            runner.run_with(
                make_cutting, ScriptedPolicy(actions), output_dir=Path(directory) / "run"
            )
            return Measured(time.perf_counter() - started, n_episodes * len(actions))

    shares: list[float] = []

    def play_and_compare() -> Measured:
        rules, played = play_cutting_rules(actions, n_episodes), play()
        shares.append(1e6 * (played.seconds - rules.seconds) / played.n_steps)
        return played

    yield from compare(
        "cutting environment, stepped by hand",
        lambda: play_cutting_env(actions, n_episodes),
        {"cutting environment, all recorded": (play_and_compare, None)},
        n_repeats,
    )
    shares = shares[1:] or shares  # The first one imports.
    yield Figure(
        "sub-step, the framework's share",
        statistics.median(shares),
        "µs",
        15.0,
        "lower",
        (min(shares), max(shares)),
        "all but rules and conversions",
    )


def measure_ledger(is_quick: bool) -> Iterator[Figure]:
    """Measure which share of a recorded run goes into what makes it possible to trust it."""
    parts: dict[str, list[tuple[Any, str]]] = {
        "digests": [(episode, "digest_of")],
        "checksums": [(data_files, "checksum_of"), (journal, "checksum_of")],
        "journal, checksums included": [(JournalWriter, "write_batch")],
        "closing: sorting, table, fsync": [(LedgerSink, "close"), (LedgerSink, "finish")],
    }
    n_episodes, n_repeats = (3_000, 3) if is_quick else (10_000, 7)
    shares: dict[str, list[float]] = {name: [] for name in parts}
    seconds = dict.fromkeys(parts, 0.0)
    for _ in range(n_repeats):
        with contextlib.ExitStack() as stack:
            for name, functions in parts.items():
                for owner, function in functions:
                    stack.enter_context(timed(owner, function, seconds, name))
            seconds.update(dict.fromkeys(parts, 0.0))
            measured = play_with(
                sequential(n_episodes, is_recording=True), lambda: GymMazeEnv(CARTPOLE)
            )
        for name in parts:
            shares[name].append(100 * seconds[name] / measured.seconds)
    for name, values in shares.items():
        spread = (min(values), max(values))
        detail = f"of a sequential run of {n_episodes:,} episodes, all recorded"
        yield Figure(name, statistics.median(values), "%", None, "lower", spread, detail)


@contextlib.contextmanager
def timed(owner: Any, name: str, seconds: dict[str, float], key: str) -> Iterator[None]:
    """Add up the time that a function takes, wherever it is called from."""
    function = getattr(owner, name)
    clock = time.perf_counter

    def wrapper(*arguments: Any, **options: Any) -> Any:
        started = clock()
        try:
            return function(*arguments, **options)
        finally:
            seconds[key] += clock() - started

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, function)


def measure_start_up(is_quick: bool) -> Iterator[Figure]:
    command = Path(sys.executable).with_name("maze-run")
    options = ["env=gym_env", "runner=sequential", "runner.n_episodes=1"]
    imports = [sys.executable, "-c", "import gymnasium, hydra"]
    seconds: dict[str, list[float]] = {
        "maze-run, one episode": [],
        "importing Gymnasium, Hydra": [],
    }
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2 if is_quick else 5):
            for key, line in zip(seconds, ([str(command), *options], imports), strict=True):
                started = time.perf_counter()
                subprocess.run(line, cwd=directory, check=True, capture_output=True)
                seconds[key].append(time.perf_counter() - started)
    for key, times in seconds.items():
        budget = 1.0 if key.startswith("maze-run") else None
        spread = (min(times), max(times))
        yield Figure(key, min(times), "s", budget, "lower", spread, "from shell to prompt")


def measure_memory(is_quick: bool) -> Iterator[Figure]:
    n_episodes = 8_000 if is_quick else 40_000
    # Not from the resource module: there, a process inherits the peak of the one that started it.
    with fresh_processes(1) as pool:
        samples = pool.submit(_megabytes_during_a_run, n_episodes).result()
    # After the start, and before the episode table is made.
    early, late = (samples[int(share * len(samples))] for share in (0.25, 0.85))
    detail = f"{early:.0f} to {late:.0f} MB in the course of {n_episodes:,} episodes"
    growth, peak = late - early, max(samples)
    yield Figure("main process, growth", growth, "MB", 10.0, "lower", (growth, growth), detail)
    detail = "while the episode table is made and written"
    yield Figure("main process, at the end", peak, "MB", None, "lower", (peak, peak), detail)


def _megabytes_during_a_run(n_episodes: int) -> list[float]:
    import psutil

    process, is_over, samples = psutil.Process(), threading.Event(), list[float]()

    def watch() -> None:
        while not is_over.wait(0.005):
            samples.append(process.memory_info().rss / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        play_with(parallel(n_episodes, is_recording=True), lambda: GymMazeEnv(CARTPOLE))
    finally:
        is_over.set()
        watcher.join()
    return samples


def _microseconds_a_step(steps_per_second: float) -> str:
    return f"{1e6 / steps_per_second:,.1f} µs/step, {steps_per_second:,.0f}/s"


# Reporting.


GROUPS: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "sequential": measure_sequential,
    "parallel": measure_parallel,
    "dictionaries": measure_dictionaries,
    "pixels": measure_pixels,
    "structured": measure_structured,
    "ledger": measure_ledger,
    "start-up": measure_start_up,
    "memory": measure_memory,
}


def describe_machine() -> dict[str, Any]:
    cpu_model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        models = [line for line in cpu_info.read_text().splitlines() if "model name" in line]
        cpu_model = models[0].split(":", 1)[1].strip() if models else cpu_model
    return {
        "cpu": cpu_model,
        "n_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("maze-rollouts", "gymnasium", "numpy", "pyarrow")},
    }


def print_table(figures: Sequence[Figure], machine: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("workload")
    for column in ("figure", "spread", "budget"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("best, or what was compared")
    for figure in figures:
        table.add_row(
            figure.name,
            _with_unit(figure.value, figure.unit),
            "" if figure.spread[0] == figure.spread[1] else "{:.2f}-{:.2f}".format(*figure.spread),
            _budget(figure),
            _verdict(figure),
            figure.detail,
            style="" if figure.budget is not None else "dim",
        )
    console.print(f"[bold]{machine['cpu']}[/], {machine['n_cores']} cores, {machine['system']}")
    console.print(
        ", ".join(f"{name} {machine[name]}" for name in ("python", "gymnasium", "numpy", "pyarrow"))
    )
    console.print()
    console.print(table)


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}"


def _budget(figure: Figure) -> str:
    if figure.budget is None:
        return ""
    sign = ">=" if figure.is_better == "higher" else "<="
    return f"{sign} {_with_unit(figure.budget, figure.unit)}"


def _verdict(figure: Figure) -> str:
    if figure.budget is None:
        return ""
    if figure.is_met:
        return "[green]ok[/]"
    return f"[red]off by {_with_unit(abs(figure.value - figure.budget), figure.unit)}[/]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="shorter and less exact")
    parser.add_argument("--only", choices=GROUPS, help="measure one group of lines")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for name, measure in GROUPS.items():
        if arguments.only in (None, name):
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures.extend(measure(arguments.quick))
    machine = describe_machine()
    print_table(figures, machine)
    if arguments.json:
        lines = [asdict(figure) | {"is_met": figure.is_met} for figure in figures]
        content = {"machine": machine, "is_quick": arguments.quick, "figures": lines}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
