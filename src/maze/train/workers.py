"""Where a trainer's work is done: in its own process, or in several.

What comes out is the same: lanes and episodes have seeds of their own, whoever plays them. (But for
the last digit, where a network is asked for other numbers of rows at once; see ``TorchPolicy``.)
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from maze.core.episode import EpisodeSpec
from maze.core.errors import RunStoppedError
from maze.core.rollout.processes import cause_of_death, process_context, starting_a_process
from maze.train.collect import LaneState, Segment, TeacherRole, join_segments
from maze.train.worker import (
    Answer,
    Engine,
    EngineSetup,
    Evaluated,
    Request,
    Trial,
    Tried,
    Vector,
    Weights,
    work,
)


class Workers(ABC):
    """Collect and evaluate for a trainer, with the model's weights of the moment."""

    weights: Weights
    """Of the trainer's model."""

    @abstractmethod
    def collect(self, n_steps: int, teacher: TeacherRole | None = None) -> Segment:
        """Play so many structured steps in each lane.

        Args:
            n_steps: in each lane.
            teacher: what a teacher does beside the policy, see ``TeacherWrapper``.
        """

    @abstractmethod
    def evaluate(self, specs: Sequence[EpisodeSpec], deterministic: bool) -> list[Evaluated]:
        """Play episodes, and return them in the order of their indices."""

    @abstractmethod
    def try_out(self, trials: Sequence[Trial]) -> list[Tried]:
        """Play with other weights than the model's."""

    @abstractmethod
    def states(self) -> list[LaneState]:
        """Return where the lanes are, in their order."""

    @abstractmethod
    def restore(self, states: Sequence[LaneState]) -> None:
        """Bring the lanes to where they were."""

    @abstractmethod
    def close(self) -> None:
        """Close the environments, and end what was started."""


class OwnProcess(Workers):
    """All is done in this process."""

    def __init__(self, setup: EngineSetup) -> None:
        self._engine = Engine(setup)
        self.weights = Weights(setup.model)

    def collect(self, n_steps: int, teacher: TeacherRole | None = None) -> Segment:
        """Play so many structured steps in each lane."""
        return self._engine.collect(n_steps, teacher)

    def evaluate(self, specs: Sequence[EpisodeSpec], deterministic: bool) -> list[Evaluated]:
        """Play episodes."""
        return self._engine.evaluate(specs, deterministic)

    def try_out(self, trials: Sequence[Trial]) -> list[Tried]:
        """Play with other weights than the model's."""
        return self.weights.try_out(self._engine, self.weights.get(), trials)

    def states(self) -> list[LaneState]:
        """Return where the lanes are."""
        return self._engine.states()

    def restore(self, states: Sequence[LaneState]) -> None:
        """Bring the lanes to where they were."""
        self._engine.restore(states)

    def close(self) -> None:
        """Close the environments."""
        self._engine.close()


class SeveralProcesses(Workers):
    """Lanes and episodes are shared out to worker processes.

    Args:
        setup: of all lanes.
        n_processes: no more are started than there are lanes.

    Raises:
        MazeError: If environments cannot be built.
        RunStoppedError: From any method, if a worker died.
    """

    def __init__(self, setup: EngineSetup, n_processes: int) -> None:
        self.weights = Weights(setup.model)
        self._members: list[tuple[BaseProcess, Connection]] = []
        n_lanes = max(len(setup.lanes), 1)
        # Lanes in blocks, so that joined segments are in the order of the lanes.
        n = min(n_processes, n_lanes) if setup.lanes else n_processes
        bounds = [len(setup.lanes) * i // n for i in range(n + 1)]
        self._counts = [high - low for low, high in itertools.pairwise(bounds)]
        context = process_context(needs_torch=True)
        try:
            for low, high in itertools.pairwise(bounds):
                ours, theirs = context.Pipe()
                part = replace(setup, lanes=setup.lanes[low:high], device="cpu")
                process = context.Process(  # type: ignore[attr-defined]
                    target=work, args=(theirs, part.to_bytes()), daemon=True, name="maze-trainer"
                )
                with starting_a_process():
                    process.start()
                theirs.close()
                self._members.append((process, ours))
            for member in self._members:
                self._receive(member)
        except BaseException:
            self.close()
            raise

    def collect(self, n_steps: int, teacher: TeacherRole | None = None) -> Segment:
        """Play so many structured steps in each lane."""
        return join_segments(
            self._ask_all("collect", self.weights.get(), [(n_steps, teacher)] * len(self._members))
        )

    def evaluate(self, specs: Sequence[EpisodeSpec], deterministic: bool) -> list[Evaluated]:
        """Play episodes."""
        n = len(self._members)
        parts = self._ask_all(
            "evaluate", self.weights.get(), [(specs[i::n], deterministic) for i in range(n)]
        )
        return sorted(one for part in parts for one in part)

    def try_out(self, trials: Sequence[Trial]) -> list[Tried]:
        """Play with other weights than the model's."""
        n = len(self._members)
        parts = self._ask_all("try_out", self.weights.get(), [(trials[i::n],) for i in range(n)])
        tried: list[Any] = [None] * len(trials)
        for i, part in enumerate(parts):
            tried[i::n] = part
        return tried

    def states(self) -> list[LaneState]:
        """Return where the lanes are."""
        return [
            state
            for part in self._ask_all("states", None, [()] * len(self._members))
            for state in part
        ]

    def restore(self, states: Sequence[LaneState]) -> None:
        """Bring the lanes to where they were."""
        waiting = iter(states)
        parts = [([next(waiting) for _ in range(count)],) for count in self._counts]
        self._ask_all("restore", None, parts)

    def close(self) -> None:
        """End the workers: they end when nobody listens any more."""
        for _, connection in self._members:
            connection.close()
        for process, _ in self._members:
            process.join(2.0)
            if process.is_alive():
                process.kill()
                process.join(2.0)
        self._members = []

    def _ask_all(
        self, method: str, vector: Vector | None, arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        for member, of_member in zip(self._members, arguments, strict=True):
            self._send(member, Request(method, vector, of_member))
        # All of them are heard, so that none still has something to say next time.
        answers = [self._answer(member) for member in self._members]
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        return [answer.result for answer in answers]

    def _send(self, member: tuple[BaseProcess, Connection], request: Request) -> None:
        with _told_of_death(member):
            member[1].send(request)

    def _answer(self, member: tuple[BaseProcess, Connection]) -> Answer:
        with _told_of_death(member):
            answer: Answer = member[1].recv()
            return answer

    def _receive(self, member: tuple[BaseProcess, Connection]) -> Any:
        answer = self._answer(member)
        if answer.error is not None:
            raise answer.error
        return answer.result


@contextlib.contextmanager
def _told_of_death(member: tuple[BaseProcess, Connection]) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        member[0].join(2.0)
        raise RunStoppedError(
            f"a worker of the training {cause_of_death(member[0].exitcode)}. What was learnt up to"
            " the last checkpoint is kept: go on with maze resume"
        ) from error
