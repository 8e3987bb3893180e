"""Environments that hang, leak, print and die, to be told by the seed of the episode.

They are apart from the tests, so that a worker that plays them need not import those.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from maze.core.agent.policy import StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from tests.envs import FaultyEnv, WalkEnv, kill_process

# Ways of hanging.


def loop_in_python() -> None:
    while True:
        pass


def sleep_with_all_signals_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    time.sleep(600)


def sleep_in_c() -> None:
    ctypes.CDLL(None).sleep(600)


def hold_the_interpreter_lock() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    ctypes.PyDLL(None).sleep(600)  # Unlike CDLL, it lets no other thread run.


def wait_for_a_lock_that_it_holds() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def ignore_the_question() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    loop_in_python()


# Other faults.


class PanicError(BaseException):
    """Not below ``Exception``, as the panics of extensions written in Rust are not."""


def panic() -> None:
    raise PanicError("index out of bounds")


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def abort() -> None:
    os.abort()


def exit_from_python() -> None:
    sys.exit("a last word")


def print_and_raise() -> None:
    print("connecting to the simulator")
    print("no answer", file=sys.stderr)
    print("giving up", end="")  # without the end of a line
    raise ValueError("the pole broke")


def print_and_die() -> None:
    print("connecting to the simulator")
    os.write(2, b"in C: giving up\n")
    kill_process()


def print_and_hang() -> None:
    print("connecting to the simulator")
    time.sleep(600)


def print_without_end_and_raise() -> None:
    for _ in range(2000):
        os.write(1, b"x" * 5000 + b"\n")
    print("the end of ten megabytes")
    raise ValueError("the pole broke")


class HangingPolicy(StructuredPolicy):
    """Plays random actions, and hangs in the episodes that start with some number."""

    def __init__(self, first_numbers: Collection[float], when: int) -> None:
        self.first_numbers, self.when = first_numbers, when
        self.policy = RandomPolicy(GymMazeEnv(WalkEnv()).action_spaces)

    def start_episode(self, seed):
        return {"actions": self.policy.start_episode(seed), "seen": []}

    def act(self, observation, actor, memory, deterministic):
        seen = memory["seen"]
        seen.append(float(observation["observation"][0]))
        if len(seen) == self.when + 1 and seen[0] in self.first_numbers:
            loop_in_python()
        return self.policy.act(observation, actor, memory["actions"], deterministic)


class SlowEnv(WalkEnv):
    """Takes its time for each step in the episodes with some env seeds."""

    def __init__(self, seconds: float, seeds: Collection[int], n_steps: int = 5) -> None:
        super().__init__(n_steps)
        self.seconds, self.seeds = seconds, seeds

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.seed in self.seeds:
            time.sleep(self.seconds)
        return super().step(action)


class LeakingEnv(WalkEnv):
    """Leaks with each episode, and says which process played it."""

    kept: list[Any] = []  # noqa: RUF012

    def __init__(self, megabytes: int, directory: Path) -> None:
        super().__init__()
        self.megabytes, self.directory = megabytes, directory

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.kept.append(np.ones(self.megabytes * 2**17))
        with (self.directory / "processes").open("a") as file:
            file.write(f"{os.getpid()} {seed} {_resident_megabytes():.0f}\n")
        return super().reset(seed=seed)


def _resident_megabytes() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


class BigEnv(WalkEnv):
    """Says which episode it has begun. An observation is larger than what fits a pipe."""

    def __init__(self, directory: Path, n_steps: Sequence[int], seconds: float = 0.0) -> None:
        super().__init__()
        self.directory, self.n_steps_of, self.seconds = directory, n_steps, seconds
        self.observation_space = spaces.Box(0.0, 1.0, (200_000,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        (self.directory / f"began_{seed}").touch()
        self.n_steps = self.n_steps_of[seed]
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        time.sleep(self.seconds)
        _, reward, terminated, truncated, info = super().step(action)
        return self._observe(), reward, terminated, truncated, info

    def _observe(self) -> Any:
        return self.np_random.random(200_000, dtype=np.float32)


@dataclass(frozen=True)
class FailsToBuild:
    """Makes environments, but in processes that come as ``which`` to a directory."""

    directory: Path
    fault: Callable[[], None]
    which: Collection[int]
    env: Callable[[], Any] = WalkEnv

    def __call__(self) -> Any:
        for number in range(1000):
            try:
                (self.directory / f"process_{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            if number in self.which:
                # The others are there first, so that it does not depend on who is quicker.
                time.sleep(0.2)
                self.fault()
            return self.env()
        raise AssertionError


class HangsToBuildAgainEnv(FaultyEnv):
    """Breaks in an episode; then its process cannot build another one, without an end."""

    n_built = 0

    def __init__(self, fault: Callable[[], None], seeds: Collection[int]) -> None:
        super().__init__(fault, seeds)
        type(self).n_built += 1
        if self.n_built > 1:
            loop_in_python()


class HangsToCloseEnv(WalkEnv):
    def close(self) -> None:
        time.sleep(600)


class StuckEnv(WalkEnv):
    """Hangs in its third step in the episodes with env seeds from ``seed`` on.

    Leaves a file named after its process in a directory then.
    """

    def __init__(self, directory: str, seed: int) -> None:
        super().__init__()
        self.directory, self.stuck_from = Path(directory), seed

    def step(self, action: Any) -> Any:
        assert self.seed is not None
        if self.seed >= self.stuck_from and self.count == 2:
            (self.directory / f"stuck_{os.getpid()}").touch()
            sleep_in_c()
        return super().step(action)
