"""Rollouts in several processes on this machine.

The parent hands out specs in the order of the plan and a little ahead, and waits for data or for
the death of a process. Each worker has its own pipe. A worker that dies is replaced, and what it
had not handed over is played again from the same seeds; the episodes that it was playing are then
played one at a time, so that one that kills its process takes no other with it.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from maze.core import errors
from maze.core.episode import EpisodeBatch, EpisodeRow, EpisodeSpec, Failure
from maze.core.errors import MazeError, RunStoppedError
from maze.core.rollout.checks import OnNaN, OnOutOfSpace
from maze.core.rollout.interrupts import deaf_children, late_interrupts
from maze.core.rollout.job import Job, WrapperSource
from maze.core.rollout.play import episode_id
from maze.core.rollout.rollout_runner import Batches, OnError, RolloutRunner, check_count
from maze.core.rollout.worker import NOT_PLAYING, Broken, Done, Finish, Play, Ready, work

_USUALLY_NEEDED = ("maze.core.agent.random_policy", "maze.core.wrappers.maze_gym_env_wrapper")

# Work that a worker has in hand, in seconds: more than it takes until the parent hears of it.
_SECONDS_AHEAD = 0.75
# All that a worker has in hand fits the buffer of its pipe. So the parent never waits for a worker
# to listen, which may at that moment be waiting for the parent to take a batch.
_MAX_IN_HAND = 2000
_FINISH_SECONDS = 3.0
_MAX_FRUITLESS_DEATHS = 10
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


# A process is started with its environment changed for a moment; two threads that do so at the
# same time would put back each other's changes.
_STARTING = threading.Lock()


class ParallelRolloutRunner(RolloutRunner):
    """Plays episodes in several processes.

    Args:
        n_processes: workers. Each builds its own environment and policy.
        max_attempts: how often an episode is started before it is recorded as failed, if the
            worker dies each time.

    The other arguments are described at ``RolloutRunner``.
    """

    def __init__(
        self,
        n_processes: int = 5,
        n_episodes: int = 50,
        max_episode_steps: int | None = 200,
        record_trajectory: bool = True,
        record_event_logs: bool = True,
        *,
        deterministic: bool = True,
        n_lanes: int = 1,
        on_error: OnError = "record",
        on_nan: OnNaN = "fail",
        on_out_of_space: OnOutOfSpace = "stop",
        max_attempts: int = 3,
        wrappers: WrapperSource = None,
        output_dir: str | Path | None = None,
        show_progress: bool | None = None,
    ) -> None:
        super().__init__(
            n_episodes,
            max_episode_steps,
            record_trajectory,
            record_event_logs,
            deterministic=deterministic,
            n_lanes=n_lanes,
            on_error=on_error,
            on_nan=on_nan,
            on_out_of_space=on_out_of_space,
            wrappers=wrappers,
            output_dir=output_dir,
            show_progress=show_progress,
        )
        self.n_processes = check_count("n_processes", n_processes, 1)
        self.max_attempts = check_count("max_attempts", max_attempts, 1)

    def episodes(self, job: Job, specs: Sequence[EpisodeSpec]) -> Batches:
        """Play the specs in worker processes."""
        pool = _Pool(job, specs, min(self.n_processes, len(specs)), self.max_attempts)
        try:
            yield from pool.play()
        except KeyboardInterrupt:
            yield from pool.finish()
            raise
        finally:
            pool.kill()


@dataclass(eq=False)
class _Member:
    """A worker as the parent sees it."""

    process: BaseProcess
    connection: Connection
    playing: Any
    """Shared with the worker: indices of the episodes that it is playing."""
    in_hand: dict[int, EpisodeSpec] = field(default_factory=dict)
    """Handed out, and not back yet."""
    is_ready: bool = False
    is_done: bool = False


class _Pool:
    """The workers of one run."""

    def __init__(
        self, job: Job, specs: Sequence[EpisodeSpec], n_workers: int, max_attempts: int
    ) -> None:
        self._job = job.to_bytes()
        self._n_lanes = job.n_lanes
        self._fresh = iter(specs)
        self._n_fresh = len(specs)
        self._n_workers = n_workers
        self._max_attempts = max_attempts
        self._again: deque[EpisodeSpec] = deque()
        """Handed out before, to a worker that died before it started them."""
        self._suspects: deque[EpisodeSpec] = deque()
        """Were being played when their worker died; to be played alone."""
        self._deaths: dict[int, int] = {}
        """By episode index, how many workers died while they played it."""
        self._n_left = len(specs)
        self._fruitless_deaths = 0
        self._seconds_an_episode: float | None = None
        self._context = _context()
        self._members: list[_Member] = []
        self._inbox: deque[EpisodeBatch] = deque()
        """Received, and not yet handed on."""

    def play(self) -> Iterator[EpisodeBatch]:
        """Play everything."""
        self._members = [self._start() for _ in range(self._n_workers)]
        while self._n_left:
            with late_interrupts():
                for member in self._members:
                    self._hand_out(member)
            by_handle: dict[Any, _Member] = {}
            for member in self._members:
                by_handle[member.connection] = by_handle[member.process.sentinel] = member
            handles = wait(list(by_handle))
            with late_interrupts():
                for member in {by_handle[handle] for handle in handles}:
                    self._receive(member)
            while self._inbox:
                yield self._inbox.popleft()
        yield from self.finish()

    def finish(self) -> Iterator[EpisodeBatch]:
        """Have the workers hand over what is finished; those that do not are given up."""
        while self._inbox:
            yield self._inbox.popleft()
        for member in self._members:
            with contextlib.suppress(OSError):
                member.connection.send(Finish())
        deadline = perf_counter() + _FINISH_SECONDS
        while waiting := [m for m in self._members if m.is_ready and not m.is_done]:
            ready = wait([m.connection for m in waiting], max(0.0, deadline - perf_counter()))
            if not ready:
                return
            for member in waiting:
                if member.connection in ready:
                    try:
                        message = member.connection.recv()
                    except (EOFError, OSError):
                        message = Done()
                    if isinstance(message, EpisodeBatch):
                        yield message
                    elif isinstance(message, Done):
                        member.is_done = True

    def kill(self) -> None:
        """End all workers now."""
        for member in self._members:
            if member.is_done:
                member.process.join(_FINISH_SECONDS)
            if member.process.is_alive():
                member.process.kill()
            member.process.join()
            member.connection.close()
            member.process.close()
        self._members = []

    def _start(self) -> _Member:
        ours, theirs = self._context.Pipe()
        playing = self._context.RawArray("q", [NOT_PLAYING] * self._n_lanes)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=work, args=(theirs, self._job, playing), daemon=True, name="maze-worker"
        )
        with _STARTING, deaf_children(), _without_main_module(), _one_thread_a_process():
            process.start()
        theirs.close()
        return _Member(process, ours, playing)

    def _hand_out(self, member: _Member) -> None:
        """Give a worker what it should have in hand."""
        if not member.is_ready:
            return
        if self._suspects and not member.in_hand:
            self._send(member, [self._suspects.popleft()])
            return
        if self._deaths and any(index in self._deaths for index in member.in_hand):
            return  # It plays a suspect, alone.
        n_open = len(self._again) + self._n_fresh
        wanted = min(self._target(), max(self._n_lanes, n_open // (2 * self._n_workers)))
        # Topped up in portions: a message for each single episode would cost more than it.
        if not n_open or len(member.in_hand) > max(wanted // 2, self._n_lanes - 1):
            return
        portion: list[EpisodeSpec] = []
        while len(member.in_hand) + len(portion) < max(wanted, 1):
            if self._again:
                portion.append(self._again.popleft())
            else:
                wanted_more = wanted - len(member.in_hand) - len(portion)
                fresh = list(itertools.islice(self._fresh, max(wanted_more, 1)))
                self._n_fresh -= len(fresh)
                portion.extend(fresh)
                break
        if portion:
            self._send(member, portion)

    def _target(self) -> int:
        """Return how many episodes a worker should have in hand."""
        if self._seconds_an_episode is None:
            return self._n_lanes
        ahead = int(_SECONDS_AHEAD / max(self._seconds_an_episode, 1e-6))
        return min(max(ahead, self._n_lanes), _MAX_IN_HAND)

    def _send(self, member: _Member, specs: list[EpisodeSpec]) -> None:
        attempts = {
            spec.index: self._deaths[spec.index] + 1 for spec in specs if spec.index in self._deaths
        }
        member.in_hand.update((spec.index, spec) for spec in specs)
        # A worker that has died in the meantime is noticed, with all it had in hand, by _receive.
        with contextlib.suppress(OSError):
            member.connection.send(Play(tuple(specs), attempts))

    def _receive(self, member: _Member) -> None:
        """Take all that a worker has said, and replace it if it is dead."""
        try:
            while member.connection.poll():
                message = member.connection.recv()
                if isinstance(message, EpisodeBatch):
                    self._note(member, message)
                    self._inbox.append(message)
                elif isinstance(message, Ready):
                    member.is_ready = True
                elif isinstance(message, Broken):
                    _raise_broken(message)
            if member.process.is_alive():
                return
        except (EOFError, OSError):
            pass
        self._bury(member)

    def _note(self, member: _Member, batch: EpisodeBatch) -> None:
        if not batch.rows:
            return  # A part of an episode that goes on.
        self._fruitless_deaths = 0
        self._n_left -= len(batch.rows)
        for row in batch.rows:
            member.in_hand.pop(row.episode_index)
            self._deaths.pop(row.episode_index, None)
        seconds = sum(row.seconds for row in batch.rows) / len(batch.rows)
        known = self._seconds_an_episode
        self._seconds_an_episode = seconds if known is None else 0.7 * known + 0.3 * seconds

    def _bury(self, member: _Member) -> None:
        member.process.join()
        cause = _cause_of_death(member.process.exitcode)
        self._fruitless_deaths += 1
        if self._fruitless_deaths > max(
            _MAX_FRUITLESS_DEATHS, self._max_attempts * self._n_workers
        ):
            raise RunStoppedError(
                f"{self._fruitless_deaths} workers died one after the other without finishing an"
                f" episode (the last one {cause}). runner=sequential shows what happens"
            )
        playing = set(member.playing)
        for index, spec in member.in_hand.items():
            if index not in playing:
                self._again.append(spec)
                continue
            deaths = self._deaths[index] = self._deaths.get(index, 0) + 1
            if deaths < self._max_attempts:
                self._suspects.append(spec)
            else:
                self._n_left -= 1
                self._inbox.append(EpisodeBatch(rows=(_killed(spec, deaths, cause),)))
        self._again = deque(sorted(self._again))
        self._members.remove(member)
        member.connection.close()
        member.process.close()
        self._members.append(self._start())


def _context() -> BaseContext:
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, by the server, and not again by each worker.
    context.set_forkserver_preload([work.__module__, *_USUALLY_NEEDED])
    return context


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep workers from importing the user's main module.

    They do not need it: what is defined there is sent by value. Importing it would run a script
    without ``if __name__ == "__main__"`` again in each worker.
    """
    main = sys.modules.get("__main__")
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        if main is not None:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _one_thread_a_process() -> Iterator[None]:
    """Have numerical libraries start one thread in each worker, unless the user said otherwise."""
    ours = [name for name in _ONE_THREAD if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _raise_broken(message: Broken) -> None:
    kind = getattr(errors, message.error_type, None)
    if isinstance(kind, type) and issubclass(kind, MazeError):
        error: MazeError = MazeError.__new__(kind)
        error.args = (message.message,)
    else:
        error = RunStoppedError(f"a worker broke off: {message.message}\n{message.traceback}")
    raise error


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-exit_code).name}"
        return f"was killed by signal {-exit_code}"
    return f"exited with code {exit_code}"


def _killed(spec: EpisodeSpec, attempts: int, cause: str) -> EpisodeRow:
    times = "once" if attempts == 1 else f"{attempts} times"
    message = f"the process that played it {cause}; it was started {times}"
    failure = Failure("worker", 0, "WorkerDied", message, "")
    return EpisodeRow(
        episode_index=spec.index,
        episode_id=episode_id(spec),
        env_seed=spec.env_seed,
        agent_seed=spec.agent_seed,
        ending="failed",
        truncated_by="",
        episode_return=0.0,
        n_steps=0,
        seconds=0.0,
        attempts=attempts,
        digest="",
        n_nan=0,
        error=str(failure),
        failure=failure,
        statistics={},
    )
