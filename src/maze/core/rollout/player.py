"""Plays specs of a job in this process. Runners differ only in where players live."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from maze.core.agent.policy import StructuredPolicy
from maze.core.episode import Episode, EpisodeBatch, EpisodePart, EpisodeSpec
from maze.core.errors import ConfigError, MazeError
from maze.core.rollout.checks import EpisodeChecks
from maze.core.rollout.encoding import BatchEncoder
from maze.core.rollout.interrupts import held_interrupts, is_from_outside
from maze.core.rollout.job import Job, build_policy
from maze.core.rollout.play import AfterStep, Lane, drive, seed_global_generators

# A batch is handed over when it is worth encoding, and soon enough that little is lost if the
# process dies and that progress can be seen.
BATCH_STEPS = 8192
BATCH_BYTES = 4 * 2**20
BATCH_SECONDS = 0.25


class Player:
    """Environments, policy and encoder of one process. Use it as a context manager.

    It puts the global random generators back to what they were before.
    """

    def __init__(
        self,
        job: Job,
        *,
        after_step: AfterStep | None = None,
        render_mode: str | None = None,
        seeds_always: bool = False,
        wrap_policy: Callable[[StructuredPolicy], StructuredPolicy] = lambda policy: policy,
    ) -> None:
        """Prepare a player.

        Args:
            job: what to play.
            after_step: see ``Lane``.
            render_mode: made environments get it, if they have none of their own.
            seeds_always: see ``Lane``.
            wrap_policy: called with the policy, returns what to ask in its place.
        """
        self._job = job
        self._after_step = after_step
        self._seeds_always = seeds_always
        self._wrap_policy = wrap_policy
        self._recipe = job.env if render_mode is None else job.env.rendering(render_mode)
        self._told: dict[str, bool] = {}
        """Warnings, and whether they were handed over."""
        self._is_interrupted = False

    def __enter__(self) -> Player:
        """Build everything. Whatever goes wrong here is about the configuration."""
        with contextlib.ExitStack() as stack:
            GENERATORS.borrow()
            stack.callback(GENERATORS.give_back)
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        exception_traceback: TracebackType | None,
    ) -> None:
        """Close the environments."""
        self._stack.close()

    def _build(self, stack: contextlib.ExitStack) -> None:
        job = self._job
        self._lanes = [
            Lane(
                self._recipe.build,
                job.play,
                shares_process=job.n_lanes > 1,
                after_step=self._after_step,
                given=self._recipe.take_given() if i == 0 else None,
                seeds_always=self._seeds_always,
            )
            for i in range(job.n_lanes)
        ]
        for lane in self._lanes:
            stack.callback(lane.close)
        try:
            env = self._lanes[0].open()
        except MazeError:
            raise
        except BaseException as error:
            if is_from_outside(error):
                raise
            raise ConfigError(
                f"the environment cannot be built: {type(error).__name__}: {error}"
            ) from error
        try:
            self._policy = self._wrap_policy(build_policy(job.policy, env))
        except MazeError:
            raise
        except BaseException as error:
            if is_from_outside(error):
                raise
            raise ConfigError(
                f"the policy cannot be built: {type(error).__name__}: {error}"
            ) from error
        self._checks = EpisodeChecks(env.observation_spaces, env.action_spaces, job.checks)
        for lane in self._lanes:
            lane.check_part = self._checks.check_part
        self._encoder = BatchEncoder(env, job.encoder, self._lanes[0].part_steps, job.metadata)
        self._ended: list[Episode] = []
        self._attempts: Mapping[int, int] = {}
        if job.n_lanes > 1:
            seed_global_generators(0)
            self._untouched = _global_states()

    def play(
        self,
        next_spec: Callable[[bool], EpisodeSpec | None],
        *,
        attempts: Mapping[int, int] | None = None,
        on_end: Callable[[Episode], None] | None = None,
        on_part: Callable[[EpisodePart], None] | None = None,
    ) -> Iterator[EpisodeBatch]:
        """Play specs until there are no more, see ``drive``, and yield them in batches.

        Parts of long episodes come as they are ready, each in a batch of its own.

        Args:
            next_spec: see ``drive``.
            attempts: how often an episode was started, if not once, by its index.
            on_end: called with each episode when it has ended.
            on_part: called with each part of a long one before that.
        """
        self._attempts = {} if attempts is None else attempts  # It fills while we play.
        n_steps = n_bytes = 0
        deadline = perf_counter() + BATCH_SECONDS
        for played in drive(
            self._lanes, self._policy, next_spec, self._job.deterministic, self._warn
        ):
            has_failed = False
            if isinstance(played, EpisodePart):
                if on_part is not None:
                    on_part(played)
                yield self._encode_part(played)
                if self._is_interrupted:
                    raise KeyboardInterrupt
            else:
                self._ended.append(played)
                if on_end is not None:
                    on_end(played)
                n_steps += len(played.rewards)
                n_bytes += played.n_bytes()
                has_failed = played.failure is not None
            if (
                n_steps >= BATCH_STEPS
                or n_bytes >= BATCH_BYTES
                or perf_counter() >= deadline
                or has_failed
            ):
                batch = self.flush()
                if batch is not None:
                    yield batch
                if self._is_interrupted:
                    raise KeyboardInterrupt
                n_steps = n_bytes = 0
                deadline = perf_counter() + BATCH_SECONDS
        batch = self.flush()
        if batch is not None:
            yield batch

    def flush(self) -> EpisodeBatch | None:
        """Return the episodes that have ended and were not handed over yet, if any."""
        if not self._ended:
            return None
        with held_interrupts() as interrupts:
            started = perf_counter()
            ended, self._ended = self._ended, []
            for episode in self._checks.check(ended):
                self._encoder.add(episode, self._attempts.get(episode.spec.index, 1))
            batch = replace(
                self._encoder.flush(),
                warnings=self._warnings(),
                encoding_seconds=perf_counter() - started,
                timings=tuple(episode.timing for episode in ended if episode.timing is not None),
            )
        self._is_interrupted = self._is_interrupted or bool(interrupts)
        return batch

    def _encode_part(self, part: EpisodePart) -> EpisodeBatch:
        with held_interrupts() as interrupts:
            started = perf_counter()
            batch = self._encoder.encode_part(part)
            batch = replace(batch, encoding_seconds=perf_counter() - started)
        self._is_interrupted = self._is_interrupted or bool(interrupts)
        return batch

    def _warnings(self) -> tuple[str, ...]:
        """Return what there is to be told that was not told yet."""
        if self._job.n_lanes > 1 and not _same(_global_states(), self._untouched):
            self._warn(
                "The environment or the policy draws from a global random generator (random,"
                " numpy.random or torch). With several lanes in a process such episodes cannot be"
                " reproduced: use runner.n_lanes=1."
            )
        untold = tuple(text for text, is_told in self._told.items() if not is_told)
        self._told.update(dict.fromkeys(untold, True))
        return untold

    def _warn(self, text: str) -> None:
        self._told.setdefault(text, False)


class _BorrowedGenerators:
    """The states of the global random generators from before the first of several players."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_borrowers = 0
        self._states: tuple[Any, ...] = ()

    def borrow(self) -> None:
        with self._lock:
            if self._n_borrowers == 0:
                self._states = _global_states()
            self._n_borrowers += 1

    def give_back(self) -> None:
        with self._lock:
            self._n_borrowers -= 1
            if self._n_borrowers == 0:
                _restore_global_states(self._states)


# Of the process, as the generators are: players in two threads share them.
GENERATORS = _BorrowedGenerators()


def _global_states() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    return (
        random.getstate(),
        np.random.get_state(),
        None if torch is None else torch.get_rng_state(),
    )


def _restore_global_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    if states[2] is not None:
        sys.modules["torch"].set_rng_state(states[2])


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    same_numpy = a[1][2] == b[1][2] and np.array_equal(a[1][1], b[1][1])
    same_torch = a[2] is None or b[2] is None or bool((a[2] == b[2]).all())
    return bool(a[0] == b[0] and same_numpy and same_torch)
