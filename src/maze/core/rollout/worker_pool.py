"""The worker processes of a parallel rollout, as their parent sees them.

The parent hands out specs in the order of the plan and a little ahead, and waits for data, for the
death of a process or for a deadline. Each worker has its own pipe. A worker that dies is replaced,
and what it had not handed over is played again from the same seeds; the episodes that it was
playing are then played one at a time, so that one that kills its process takes no other with it.

A worker that does not end a call in time is killed and replaced. If it played one episode, that has
failed; of several, each is played alone, and the one that is to blame is found then.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any, NamedTuple

from maze.core import errors
from maze.core.episode import EpisodeBatch, EpisodeRow, EpisodeSpec, Failure, FailurePlace
from maze.core.errors import ConfigError, MazeError, RunStoppedError
from maze.core.rollout.heartbeat import Doing, Heartbeat, Phase
from maze.core.rollout.interrupts import late_interrupts
from maze.core.rollout.job import Job
from maze.core.rollout.play import episode_id
from maze.core.rollout.processes import cause_of_death, process_context, starting_a_process
from maze.core.rollout.worker import (
    Broken,
    Done,
    Finish,
    Play,
    Ready,
    Retiring,
    WorkerOptions,
    work,
)
from maze.core.rollout.worker_traces import StackFile, WorkerOutput

# Work that a worker has in hand, in seconds: more than it takes until the parent hears of it.
_SECONDS_AHEAD = 0.75
# All that a worker has in hand fits the buffer of its pipe. So the parent never waits for a worker
# to listen, which may at that moment be waiting for the parent to take a batch.
_MAX_IN_HAND = 2000
_PIPE_BYTES = 2**17
# A message that has begun goes on coming, unless its sender was stopped or hangs.
_MESSAGE_SECONDS = 30
_FINISH_SECONDS = 3.0
# Killed processes end at once, but for those that the kernel itself is waiting in.
_KILL_SECONDS = 5.0
_REPRIEVE_SECONDS = 0.2
_MAX_FRUITLESS_DEATHS = 10
_MAX_PAUSE_SECONDS = 2.0
# Pauses before a worker that could not be built is tried again.
_BUILD_AGAIN_SECONDS = (0.1, 0.4, 1.6)
# Models are loaded and simulators started then, so a deadline for steps would be too short.
_CONSTRUCTION_SECONDS = 60.0


class Deadline(NamedTuple):
    """When a worker is killed if it still does what it does."""

    at: float
    """By ``perf_counter``."""
    failure: tuple[FailurePlace, str]
    """Where it is, and what to say."""


@dataclass(frozen=True)
class Deadlines:
    """How long things may take, in seconds; ``None`` for as long as they like."""

    step_s: float | None = None
    """A step or reset of the environment, or a decision of the policy."""
    episode_s: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is any."""
        return self.shortest() < math.inf

    def shortest(self) -> float:
        """Return the shorter one."""
        return min(self.step_s or math.inf, self.episode_s or math.inf)

    def of_construction(self, began: float) -> Deadline:
        """Return the one of a worker that builds environment and policy."""
        if not self.are_set:
            return _NEVER
        seconds = max(_CONSTRUCTION_SECONDS, self.step_s or 0.0, self.episode_s or 0.0)
        message = (
            f"building did not end within {seconds:g} s (the longest of {_CONSTRUCTION_SECONDS:g}"
            " s, runner.step_timeout_s and runner.episode_timeout_s)"
        )
        return Deadline(began + seconds, ("construction", message))

    def of_play(self, doing: Doing) -> Deadline:
        """Return the next one of a worker that is ready."""
        if not doing.playing or doing.phase is Phase.AWAY:
            return _NEVER
        if doing.phase is Phase.CONSTRUCTION:
            return self.of_construction(doing.since)
        place, call = _CALLS[doing.phase]
        nearest = _NEVER
        if self.episode_s is not None:
            message = (
                f"the episode did not end within {self.episode_s:g} s (runner.episode_timeout_s)"
            )
            began = min(playing.started for playing in doing.playing)
            nearest = Deadline(began + self.episode_s, (place, message))
        if self.step_s is not None and doing.since + self.step_s < nearest.at:
            message = f"{call} did not end within {self.step_s:g} s (runner.step_timeout_s)"
            nearest = Deadline(doing.since + self.step_s, (place, message))
        return nearest


_NEVER = Deadline(math.inf, ("worker", ""))
_CALLS: dict[Phase, tuple[FailurePlace, str]] = {
    Phase.RESET: ("reset", "the reset"),
    Phase.STEP: ("step", "the step"),
    Phase.POLICY: ("policy", "the policy's decision"),
}


@dataclass(eq=False)
class _Seat:
    """Where a worker is, or is to be."""

    member: _Member | None = None
    start_at: float = 0.0
    """By ``perf_counter``, if there is none."""
    n_not_built: int = 0
    """How many workers in a row could not be built here."""
    has_error: bool = False
    """Whether the last of them could say why."""


@dataclass(eq=False)
class _Member:
    """A worker."""

    process: BaseProcess
    connection: Connection
    heartbeat: Heartbeat
    output: WorkerOutput
    stacks: StackFile
    started: float
    seat: _Seat | None
    """``None`` if it is leaving, and has been or will be replaced."""
    in_hand: dict[int, EpisodeSpec] = field(default_factory=dict)
    """Handed out, and not back yet."""
    is_ready: bool = False
    done_at: float | None = None
    """When it had said all; its process is about to end then."""
    overdue: float | None = None
    """A deadline that it has missed."""
    reprieved_until: float = 0.0
    """When it is killed if that is still its deadline."""


class WorkerPool:
    """The workers of one run."""

    def __init__(
        self,
        job: Job,
        specs: Sequence[EpisodeSpec],
        n_workers: int,
        max_attempts: int,
        deadlines: Deadlines,
        options: WorkerOptions,
    ) -> None:
        self._job = job.to_bytes()
        self._n_lanes = job.n_lanes
        self._fresh = iter(specs)
        self._n_fresh = len(specs)
        self._n_workers = n_workers
        self._max_attempts = max_attempts
        self._deadlines = deadlines
        self._options = options
        self._again: deque[EpisodeSpec] = deque()
        """Handed out before, to a worker that left or died before it started them."""
        self._suspects: deque[EpisodeSpec] = deque()
        """Were being played when their worker died; to be played alone."""
        self._deaths: dict[int, int] = {}
        """By episode index, how many workers died while they played it."""
        self._n_left = len(specs)
        self._fruitless_deaths = 0
        self._seconds_an_episode: float | None = None
        self._context = process_context(job.needs_torch())
        self._seats = [_Seat() for _ in range(n_workers)]
        self._members: list[_Member] = []
        self._was_ready = False
        """Whether any worker could be built so far."""
        self._warned_of_memory = False
        self._error: MazeError | None = None
        """Why the run cannot go on."""
        self._build_error: MazeError | None = None
        """Why a worker could not be built: the first one that could say so, else the last one."""
        self._inbox: deque[EpisodeBatch] = deque()
        """Received, and not yet handed on: at most what came in a single round."""

    def play(self) -> Iterator[EpisodeBatch]:
        """Play everything."""
        while self._n_left and self._error is None:
            with late_interrupts():
                self._fill_seats()
                for member in self._members:
                    self._hand_out(member)
            by_handle: dict[Any, _Member] = {}
            for member in self._members:
                by_handle[member.connection] = by_handle[member.process.sentinel] = member
                if not member.output.is_closed:
                    by_handle[member.output.pipe] = member
            handles = set(wait(list(by_handle), self._seconds_to_wait()))
            with late_interrupts():
                for member in {by_handle[handle] for handle in handles}:
                    self._attend_to(member, handles)
                self._enforce_deadlines()
            # Before more is received, so that workers wait if these are not taken.
            while self._inbox:
                yield self._inbox.popleft()
        if self._error is None or isinstance(self._error, RunStoppedError):
            yield from self.finish()
        if self._error is not None:
            raise self._error

    def finish(self) -> Iterator[EpisodeBatch]:
        """Have the workers hand over what is finished; those that do not are given up."""
        while self._inbox:
            yield self._inbox.popleft()
        for member in self._members:
            with contextlib.suppress(OSError):
                member.connection.send(Finish())
        deadline = perf_counter() + _FINISH_SECONDS
        while waiting := [m for m in self._members if m.is_ready and m.done_at is None]:
            handles: list[Any] = [member.connection for member in waiting]
            handles += [m.output.pipe for m in waiting if not m.output.is_closed]
            ready = wait(handles, max(0.0, deadline - perf_counter()))
            for member in waiting:
                member.output.forward()
                if member.connection in ready:
                    try:
                        message = member.connection.recv()
                    except (EOFError, OSError):
                        message = Done()
                    if isinstance(message, EpisodeBatch):
                        yield _with_output(message, member)
                    elif isinstance(message, Done):
                        member.done_at = perf_counter()
            if perf_counter() >= deadline:
                return

    def kill(self) -> None:
        """End all workers now."""
        deadline = perf_counter() + _FINISH_SECONDS
        for member in self._members:
            if member.done_at is None and member.process.is_alive():
                member.process.kill()
        for member in self._members:
            member.process.join(max(0.0, deadline - perf_counter()))
            self._discard(member)
        self._members = []

    # Starting and ending processes.

    def _fill_seats(self) -> None:
        """Start workers where there are none, if there is something to do for them."""
        now = perf_counter()
        for seat in self._seats:
            if self._is_wanted(seat) and seat.start_at <= now:
                seat.member = self._start(seat)
                self._members.append(seat.member)

    def _is_wanted(self, seat: _Seat) -> bool:
        # An error may be that of all workers. That has to be known before the next try.
        has_to_wait = seat.has_error and not self._was_ready
        return seat.member is None and self._n_open() > 0 and not has_to_wait

    def _start(self, seat: _Seat) -> _Member:
        ours, theirs = self._context.Pipe()
        _widen(ours, theirs)
        output, their_output = self._context.Pipe(duplex=False)
        stacks = StackFile()
        their_stacks = stacks.writer()
        heartbeat = Heartbeat(self._context, self._n_lanes)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=work,
            args=(theirs, their_output, their_stacks, heartbeat, self._job, self._options),
            daemon=True,
            name="maze-worker",
        )
        with starting_a_process():
            process.start()
        for connection in (theirs, their_output, their_stacks):
            connection.close()
        started = perf_counter()
        return _Member(process, ours, heartbeat, WorkerOutput(output), stacks, started, seat)

    def _discard(self, member: _Member) -> int | None:
        """End a worker's process, if it has not ended; return its exit code."""
        process = member.process
        if process.is_alive():
            process.kill()
        process.join(_KILL_SECONDS)
        exit_code = process.exitcode
        member.output.close()
        member.stacks.close()
        member.connection.close()
        if exit_code is not None:
            process.close()
        return exit_code

    def _leave_seat(self, member: _Member, pause: float = 0.0) -> None:
        """Make room for another worker."""
        if member.seat is not None:
            member.seat.member, member.seat.start_at = None, perf_counter() + pause
            member.seat = None

    # Handing out.

    def _n_open(self) -> int:
        """Return how many episodes nobody has in hand."""
        return len(self._again) + len(self._suspects) + self._n_fresh

    def _hand_out(self, member: _Member) -> None:
        """Give a worker what it should have in hand."""
        if not member.is_ready or member.seat is None:
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
        # A worker that has died in the meantime is noticed, with all it had in hand, later on.
        with contextlib.suppress(OSError):
            member.connection.send(Play(tuple(specs), attempts))

    def _take_back(self, specs: Sequence[EpisodeSpec]) -> None:
        """Leave episodes that were not started to others."""
        for spec in specs:
            (self._suspects if spec.index in self._deaths else self._again).append(spec)
        self._again = deque(sorted(self._again))

    # Listening.

    def _attend_to(self, member: _Member, handles: set[Any]) -> None:
        """Take what a worker has printed and the next thing it has said, or bury it."""
        member.output.forward()
        if member.connection in handles:
            try:
                self._hear(member, member.connection.recv())
            except BlockingIOError:
                self._bury(member, f"sent half a message, and no more in {_MESSAGE_SECONDS} s")
            except (EOFError, OSError):
                self._bury(member)
        elif member.process.sentinel in handles:
            self._bury(member)

    def _hear(self, member: _Member, message: object) -> None:
        if isinstance(message, EpisodeBatch):
            self._note(member, message)
            self._inbox.append(_with_output(message, member))
        elif isinstance(message, Ready):
            member.is_ready = self._was_ready = True
            if member.seat is not None:
                member.seat.n_not_built, member.seat.has_error = 0, False
            self._check_memory(message)
        elif isinstance(message, Retiring):
            self._take_back([member.in_hand.pop(index) for index in message.not_started])
            self._leave_seat(member)
        elif isinstance(message, Done):
            member.done_at = perf_counter()
            # Handed out while it was retiring.
            self._take_back(list(member.in_hand.values()))
            member.in_hand.clear()
            self._leave_seat(member)
        elif isinstance(message, Broken):
            if member.is_ready:
                self._error = _error_of(message)
            else:
                self._not_built(member, _error_of(message), has_error=True)

    def _note(self, member: _Member, batch: EpisodeBatch) -> None:
        if not batch.rows:
            return
        self._fruitless_deaths = 0
        self._n_left -= len(batch.rows)
        for row in batch.rows:
            member.in_hand.pop(row.episode_index)
            self._deaths.pop(row.episode_index, None)
        seconds = sum(row.seconds for row in batch.rows) / len(batch.rows)
        known = self._seconds_an_episode
        self._seconds_an_episode = seconds if known is None else 0.7 * known + 0.3 * seconds

    def _check_memory(self, message: Ready) -> None:
        limit = self._options.max_memory_mb
        if limit is not None and message.memory_mb > limit and not self._warned_of_memory:
            self._warned_of_memory = True
            self._warn(
                f"A worker holds {message.memory_mb:.0f} MB before its first episode, more than"
                f" runner.max_worker_memory_mb={limit:g}, so each is replaced after every episode."
            )

    def _warn(self, text: str) -> None:
        self._inbox.append(EpisodeBatch(rows=(), warnings=(text,)))

    # Deadlines.

    def _deadline(self, member: _Member) -> Deadline:
        if member.done_at is not None:
            return Deadline(member.done_at + _FINISH_SECONDS, ("worker", ""))
        if not member.is_ready:
            return self._deadlines.of_construction(member.started)
        if not self._deadlines.are_set:
            return _NEVER
        return self._deadlines.of_play(member.heartbeat.read())

    def _seconds_to_wait(self) -> float | None:
        """Return how long nothing but a message can call for attention; ``None`` for ever."""
        now = perf_counter()
        moments = []
        for member in self._members:
            at = self._deadline(member).at
            moments.append(member.reprieved_until if at == member.overdue else at)
        moments += [seat.start_at for seat in self._seats if self._is_wanted(seat)]
        # What begins only now is not due before that.
        moments.append(now + self._deadlines.shortest())
        nearest = min(moments)
        return None if nearest == math.inf else max(nearest - now, 0.0)

    def _enforce_deadlines(self) -> None:
        for member in list(self._members):
            now = perf_counter()
            at = self._deadline(member).at
            if at > now:
                continue
            if member.overdue != at:
                # Perhaps it is only slow to get going again: the machine was busy, or asleep.
                member.overdue, member.reprieved_until = at, now + _REPRIEVE_SECONDS
            elif member.reprieved_until <= now:
                self._expire(member)

    def _expire(self, member: _Member) -> None:
        """End a worker that has missed its deadline."""
        is_alive = self._take_all(member)
        if member not in self._members:
            return
        deadline, doing = self._deadline(member), member.heartbeat.read()
        if not is_alive:
            self._bury(member)
        elif deadline.at == member.overdue:
            if member.done_at is None:
                # The signal may wake it from the very call that it hangs in, which then returns
                # too early. So nothing that it says from now on is listened to.
                assert member.process.pid is not None
                member.stacks.ask(member.process.pid)
            member.process.kill()
            member.process.join(_KILL_SECONDS)
            self._bury(member, overdue=(deadline, doing))

    # Workers that are no more.

    def _take_all(self, member: _Member) -> bool:
        """Take all that a worker has said by now; return whether it can say more."""
        with contextlib.suppress(EOFError, OSError):
            # The buffer of its pipe is all that there can be, if it is dead or hangs.
            while member.connection.poll():
                self._hear(member, member.connection.recv())
            return True
        return False

    def _bury(
        self,
        member: _Member,
        cause: str = "",
        overdue: tuple[Deadline, Doing] | None = None,
    ) -> None:
        """Take leave of a worker that is dead, or as good as dead, and of what it had in hand."""
        self._members.remove(member)
        if overdue is None:
            self._take_all(member)
        member.output.forward()
        deadline, doing = overdue or (None, member.heartbeat.read())
        stacks, output = member.stacks.text(), member.output.tail()
        exit_code = self._discard(member)
        if member.done_at is not None or (member.seat is None and not member.is_ready):
            return  # It had said all.
        cause = cause or cause_of_death(exit_code)
        if not member.is_ready:
            if deadline is None:
                self._died_unbuilt(member, cause)
            else:
                text = f"environment or policy cannot be built: {deadline.failure[1]}\n{stacks}"
                self._not_built(member, ConfigError(text.rstrip()), has_error=True)
            return
        playing = {p.episode_index: p for p in doing.playing if p.episode_index in member.in_hand}
        self._take_back([spec for index, spec in member.in_hand.items() if index not in playing])
        for index, (_, began, n_steps) in playing.items():
            spec = member.in_hand[index]
            deaths = self._deaths[index] = self._deaths.get(index, 0) + 1
            if deadline is not None and len(playing) == 1:
                place, message = deadline.failure
                kind, seconds = "DeadlineExceeded", perf_counter() - began
            elif deadline is None and deaths >= self._max_attempts:
                times = "once" if deaths == 1 else f"{deaths} times"
                message = f"the process that played it {cause}; it was started {times}"
                place, n_steps, kind, seconds = "worker", 0, "WorkerDied", 0.0
            else:
                self._suspects.append(spec)
                continue
            failure = Failure(place, n_steps, kind, message, stacks, output=output)
            self._n_left -= 1
            self._deaths.pop(index)
            self._inbox.append(EpisodeBatch(rows=(_failed(spec, deaths, seconds, failure),)))
        if deadline is not None:
            self._leave_seat(member)
            return
        self._fruitless_deaths += 1
        self._leave_seat(member, _pause(self._fruitless_deaths - self._n_workers))
        if self._fruitless_deaths > max(
            _MAX_FRUITLESS_DEATHS, self._max_attempts * self._n_workers
        ):
            self._error = RunStoppedError(
                f"{self._fruitless_deaths} workers died one after the other without finishing an"
                f" episode (the last one {cause}). runner=sequential shows what happens"
            )

    def _died_unbuilt(self, member: _Member, cause: str) -> None:
        error = RunStoppedError(
            f"workers died while they built environment and policy (the last one {cause})."
            " runner=sequential shows what happens"
        )
        self._not_built(member, error, has_error=False)

    def _not_built(self, member: _Member, error: MazeError, *, has_error: bool) -> None:
        """Try again later where a worker could not be built, or do without."""
        if member in self._members:
            self._members.remove(member)
            self._discard(member)
        seat = member.seat
        assert seat is not None  # Only those that are ready retire.
        n_tries = seat.n_not_built = seat.n_not_built + 1
        is_last = n_tries > len(_BUILD_AGAIN_SECONDS)
        self._leave_seat(member, 0.0 if is_last else _BUILD_AGAIN_SECONDS[n_tries - 1])
        is_first_told = has_error and not any(other.has_error for other in self._seats)
        if self._build_error is None or self._was_ready or is_first_told:
            self._build_error = error
        seat.has_error = has_error
        if is_last:
            self._seats.remove(seat)
        if not self._was_ready:
            # Nothing was played. If none of the workers can be built, all for the same reason
            # perhaps, that is to be told at once.
            if all(seat.member is None and seat.has_error for seat in self._seats):
                self._error = self._build_error
        elif not self._seats:
            self._error = RunStoppedError(
                f"no worker is left, and another one could not be built: {self._build_error}"
            )
        elif is_last:
            self._warn(
                f"A worker could not be built {n_tries} times: {error}\nThe run went on with"
                f" {len(self._seats)} of {self._n_workers}."
            )


def _widen(ours: Connection, theirs: Connection) -> None:
    """Have a pipe take all that a worker has in hand, and not wait for ever within a message."""
    with (
        socket.socket(fileno=os.dup(ours.fileno())) as sending,
        socket.socket(fileno=os.dup(theirs.fileno())) as receiving,
    ):
        # Where it is large enough, as on Linux, setting it would make it smaller, perhaps.
        for end, buffer in ((sending, socket.SO_SNDBUF), (receiving, socket.SO_RCVBUF)):
            if end.getsockopt(socket.SOL_SOCKET, buffer) < _PIPE_BYTES:
                end.setsockopt(socket.SOL_SOCKET, buffer, _PIPE_BYTES)
        limit = struct.pack("ll", _MESSAGE_SECONDS, 0)
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _with_output(batch: EpisodeBatch, member: _Member) -> EpisodeBatch:
    """Add to the failures what their worker has printed."""
    if all(row.failure is None for row in batch.rows):
        return batch
    output = member.output.tail()
    rows = (
        row if row.failure is None else row._replace(failure=replace(row.failure, output=output))
        for row in batch.rows
    )
    return replace(batch, rows=tuple(rows))


def _pause(n_too_many: int) -> float:
    """Return the seconds before the next start, after more deaths than there are workers."""
    return min(0.1 * 2.0 ** (n_too_many - 1), _MAX_PAUSE_SECONDS) if n_too_many > 0 else 0.0


def _error_of(message: Broken) -> MazeError:
    kind = getattr(errors, message.error_type, None)
    if isinstance(kind, type) and issubclass(kind, MazeError):
        error: MazeError = MazeError.__new__(kind)
        error.args = (message.message,)
        return error
    return RunStoppedError(f"a worker broke off: {message.message}\n{message.traceback}")


def _failed(spec: EpisodeSpec, attempts: int, seconds: float, failure: Failure) -> EpisodeRow:
    return EpisodeRow(
        episode_index=spec.index,
        episode_id=episode_id(spec),
        env_seed=spec.env_seed,
        agent_seed=spec.agent_seed,
        ending="failed",
        truncated_by="",
        episode_return=0.0,
        n_steps=0,
        seconds=seconds,
        attempts=attempts,
        digest="",
        n_nan=0,
        error=str(failure),
        failure=failure,
        statistics={},
    )
