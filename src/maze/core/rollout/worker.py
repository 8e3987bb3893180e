"""The process of a parallel rollout that plays episodes.

The conversation with the parent goes through one pipe, so that a killed worker leaves no lock and
no other worker behind. What is said:

    parent: Play(specs, attempts)  ...  Finish()
    worker: Ready() | Broken(error)     EpisodeBatch  EpisodeBatch  ...  Done()

``Finish`` means to leave what has not been started, and to hand over what is finished.
"""

from __future__ import annotations

import contextlib
import ctypes
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from maze.core.episode import Episode, EpisodeSpec
from maze.core.errors import MazeError
from maze.core.rollout.job import Job
from maze.core.rollout.player import Player

NOT_PLAYING = -1
"""Stands in the shared array of a worker where a lane plays nothing."""

_LISTEN_SECONDS = 0.05


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


@dataclass(frozen=True)
class Broken:
    """Environment or policy cannot be built, or Maze has a fault: all workers would fare alike."""

    error_type: str
    """Name of a class in ``maze.core.errors``, or another."""
    message: str
    traceback: str


@dataclass(frozen=True)
class Done:
    """The last message of a worker that was told to finish."""


def work(connection: Connection, job: bytes, playing: Any) -> None:
    """Play what the parent says until it says ``Finish`` or is gone.

    Args:
        connection: to the parent.
        job: from ``Job.to_bytes``.
        playing: shared array of as many integers as there are lanes: the indices of the episodes
            that are being played, for the parent to look at if this process dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to deal with.
    _die_with_parent()
    # A parent that is gone, or does not want to hear any more: nothing left to do.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            _Worker(connection, playing).work(job)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except (Exception, SystemExit) as error:
            connection.send(_broken(error))


class _Worker:
    def __init__(self, connection: Connection, playing: Any) -> None:
        self._connection = connection
        self._playing = playing
        self._specs: deque[EpisodeSpec] = deque()
        self._attempts: dict[int, int] = {}
        self._is_finishing = False
        self._listen_at = 0.0
        self._player: Player | None = None

    def work(self, job_bytes: bytes) -> None:
        # The job comes from our own parent, through a pipe that nobody else can open.
        job: Job = pickle.loads(job_bytes)
        with Player(job) as player:
            self._player = player
            self._connection.send(Ready())
            for batch in player.play(self._next_spec, attempts=self._attempts, on_end=self._forget):
                self._connection.send(batch)
        self._connection.send(Done())

    def _next_spec(self, is_idle: bool) -> EpisodeSpec | None:
        if not self._specs and is_idle and not self._is_finishing:
            assert self._player is not None
            batch = self._player.flush()
            if batch is not None:
                self._connection.send(batch)
            while not self._specs and not self._is_finishing:
                self._listen()
        elif not self._specs or perf_counter() >= self._listen_at:
            while self._connection.poll():
                self._listen()
            self._listen_at = perf_counter() + _LISTEN_SECONDS
        if self._is_finishing or not self._specs:
            return None
        spec = self._specs.popleft()
        self._playing[list(self._playing).index(NOT_PLAYING)] = spec.index
        return spec

    def _listen(self) -> None:
        message = self._connection.recv()
        if isinstance(message, Play):
            self._specs.extend(message.specs)
            self._attempts.update(message.attempts)
        else:
            self._is_finishing = True

    def _forget(self, episode: Episode) -> None:
        self._playing[list(self._playing).index(episode.spec.index)] = NOT_PLAYING


def _broken(error: BaseException) -> Broken:
    is_ours = isinstance(error, MazeError)
    message = str(error) if is_ours else f"{type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    return Broken(type(error).__name__ if is_ours else "", message, text)


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent process ends. Only Linux can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            set_parent_death_signal = 1
            ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
