"""The process of a parallel rollout that plays episodes.

The conversation with the parent goes through one pipe, so that a killed worker leaves no lock and
no other worker behind. What is said:

    parent: Play(specs, attempts)  ...  Finish()
    worker: Ready() | Broken(error)     EpisodeBatch  ...  [Retiring()  EpisodeBatch  ...]  Done()

``Finish`` means to leave what has not been started, and to hand over what is finished. ``Retiring``
says that the worker does so of its own accord. What it cannot say, because it hangs or is dead by
then, its parent finds in its heartbeat, its output and its stacks.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from time import perf_counter

from maze.core.env.structured_env import StructuredEnv
from maze.core.episode import Episode, EpisodeBatch, EpisodeSpec
from maze.core.errors import MazeError
from maze.core.rollout.heartbeat import Heartbeat, Phase
from maze.core.rollout.job import EnvRecipe, Job
from maze.core.rollout.player import Player
from maze.core.rollout.processes import become_a_worker
from maze.core.rollout.worker_traces import send_output_to, tell_stacks

_LISTEN_SECONDS = 0.05
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Play:
    """Specs to play next, in order."""

    specs: Sequence[EpisodeSpec]
    attempts: Mapping[int, int]
    """How often they were started with this time, by index, where that is not once."""


@dataclass(frozen=True)
class Finish:
    """No more specs; those not started are not to be played."""


@dataclass(frozen=True)
class Ready:
    """Environment and policy are built."""

    memory_mb: float
    """Held by then; 0 if there is no limit."""


@dataclass(frozen=True)
class Broken:
    """Environment or policy cannot be built, or Maze has a fault."""

    error_type: str
    """Name of a class in ``maze.core.errors``, or another."""
    message: str
    traceback: str


@dataclass(frozen=True)
class Retiring:
    """The worker has played enough. It only hands over what is finished, and leaves."""

    not_started: Sequence[int]
    """Indices of the episodes that it leaves to others."""


@dataclass(frozen=True)
class Done:
    """The last message. What was not handed over by now was not started."""


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is told about itself."""

    is_watched: bool = False
    """Whether there are deadlines, so that each call has to be noted in the heartbeat."""
    recycle_after_episodes: int | None = None
    """Episodes after which the worker retires."""
    max_memory_mb: float | None = None
    """Memory from which on it does."""


def work(
    connection: Connection,
    output: Connection,
    stacks: Connection,
    heartbeat: Heartbeat,
    job: bytes,
    options: WorkerOptions,
) -> None:
    """Play what the parent says until it says ``Finish`` or is gone.

    Args:
        connection: to the parent.
        output: a pipe that takes what is printed.
        stacks: a file for stacks.
        heartbeat: for the parent to look at.
        job: from ``Job.to_bytes``.
        options: about this worker.
    """
    become_a_worker()
    send_output_to(output)
    tell_stacks(stacks, when_asked=options.is_watched)
    # A parent that is gone, or does not want to hear any more: nothing left to do.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            _Worker(connection, heartbeat, options).work(job)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except BaseException as error:
            connection.send(_broken(error))


class _Worker:
    def __init__(
        self, connection: Connection, heartbeat: Heartbeat, options: WorkerOptions
    ) -> None:
        self._connection = connection
        self._heartbeat = heartbeat
        self._options = options
        self._specs: deque[EpisodeSpec] = deque()
        self._attempts: dict[int, int] = {}
        self._n_ended = 0
        self._is_finishing = False
        self._listen_at = 0.0
        self._player: Player | None = None

    def work(self, job_bytes: bytes) -> None:
        # The job comes from our own parent, through a pipe that nobody else can open.
        with self._make_player(pickle.loads(job_bytes)) as player:
            self._player = player
            limit = self._options.max_memory_mb
            self._connection.send(Ready(0.0 if limit is None else _memory_mb()))
            for batch in player.play(self._next_spec, attempts=self._attempts, on_end=self._end):
                self._hand_over(batch)
            # Before the environments are closed, which may take its time or hang.
            self._connection.send(Done())

    def _make_player(self, job: Job) -> Player:
        if not self._options.is_watched:
            return Player(job)
        recipe, heartbeat = job.env, self._heartbeat

        def build() -> StructuredEnv:
            with heartbeat.apart(Phase.CONSTRUCTION):
                return recipe.build()

        return Player(
            replace(job, env=EnvRecipe(build)),
            after_step=heartbeat.after_step,
            wrap_policy=heartbeat.watched,
        )

    def _hand_over(self, batch: EpisodeBatch) -> None:
        # The parent takes what was printed before it takes the batch.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        # A parent that is slow has us wait here.
        with self._heartbeat.apart(Phase.AWAY):
            self._connection.send(batch)

    def _next_spec(self, is_idle: bool) -> EpisodeSpec | None:
        if not self._specs and is_idle and not self._is_finishing:
            assert self._player is not None
            batch = self._player.flush()
            if batch is not None:
                self._hand_over(batch)
            while not self._specs and not self._is_finishing:
                self._listen()
        elif not self._specs or perf_counter() >= self._listen_at:
            while self._connection.poll():
                self._listen()
            self._listen_at = perf_counter() + _LISTEN_SECONDS
        if self._is_finishing or not self._specs:
            return None
        spec = self._specs.popleft()
        self._heartbeat.begin(spec.index)
        return spec

    def _listen(self) -> None:
        message = self._connection.recv()
        if isinstance(message, Play):
            self._specs.extend(message.specs)
            self._attempts.update(message.attempts)
        else:
            self._is_finishing = True

    def _end(self, episode: Episode) -> None:
        self._heartbeat.end(episode.spec.index)
        self._n_ended += 1
        options = self._options
        if self._is_finishing:
            return
        if (
            options.recycle_after_episodes is not None
            and self._n_ended >= options.recycle_after_episodes
        ) or (options.max_memory_mb is not None and _memory_mb() > options.max_memory_mb):
            self._is_finishing = True
            with self._heartbeat.apart(Phase.AWAY):
                self._connection.send(Retiring(tuple(spec.index for spec in self._specs)))
            self._specs.clear()


def _memory_mb() -> float:
    """Return how much memory this process holds, where only that is known: has held at most."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (_MEGABYTE if sys.platform == "darwin" else 1024)


def _broken(error: BaseException) -> Broken:
    is_ours = isinstance(error, MazeError)
    try:
        message = str(error) if is_ours else f"{type(error).__name__}: {error}"
    except Exception:
        message = type(error).__name__
    text = "".join(traceback.format_exception(error))
    return Broken(type(error).__name__ if is_ours else "", message, text)
