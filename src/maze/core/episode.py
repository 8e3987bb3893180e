"""The values that a rollout is made of: what is to be played, and what was played.

    EpisodeSpec --play--> Episode --encode--> EpisodeBatch --commit--> output directory

Specs are fixed before anything is played. An ``Episode`` exists only where it was played. What
leaves a process is an ``EpisodeBatch``: a row for each of several episodes and their data,
already encoded.

A long episode hands over what it has in parts, so that it never has all of its data in memory:

    EpisodePart, EpisodePart, ..., Episode
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.events.event import Event
from maze.core.seeding import EpisodeSpec as EpisodeSpec
from maze.core.trajectory.columns import StepColumns
from maze.core.trajectory.digest import EpisodeDigest, digest_of

Ending: TypeAlias = Literal["terminated", "truncated", "failed"]
"""How an episode ended: by the task, by a limit, or by an error."""

ENDINGS: tuple[Ending, ...] = ("terminated", "truncated", "failed")

TruncatedBy: TypeAlias = Literal["", "env", "runner"]
"""Whose limit cut the episode off; empty unless it was truncated."""

FailurePlace: TypeAlias = Literal["construction", "reset", "step", "policy", "worker"]


@dataclass(frozen=True)
class Failure:
    """What went wrong in an episode that failed."""

    place: FailurePlace
    """Where: ``step`` and ``policy`` are about the step in ``step``."""
    step: int
    """Number of (sub-)steps completed before the failure."""
    exception_type: str
    """Name of the exception's type."""
    message: str
    """What the exception said."""
    traceback: str
    """As text; empty where there is none, as for a killed worker."""
    is_contract_violation: bool = False
    """Whether the interface was violated, in a way that is unlikely to be about this episode."""
    output: str = ""
    """The last of what the worker that played it had printed; empty without workers."""

    def __str__(self) -> str:
        steps = "1 step" if self.step == 1 else f"{self.step} steps"
        where = {"step": f"environment after {steps}", "policy": f"policy after {steps}"}
        return f"{where.get(self.place, self.place)}: {self.exception_type}: {self.message}"


class EpisodeTiming(NamedTuple):
    """How the time of an episode is split. What remains is the episode loop's."""

    seconds: float
    """As in the episode."""
    env_seconds: float
    """In the environment's ``reset`` and ``step``, and on rendering it."""
    policy_seconds: float
    """In the policy; a share of the batch's time if several episodes ran together."""


class PartID(NamedTuple):
    """Says which play of which episode a part belongs to."""

    episode_index: int
    token: int
    """Drawn by chance for each play: one that was broken off and begun again leaves parts, too."""
    number: int
    """Position among the parts of that play, from 0."""


class Parts(NamedTuple):
    """The parts that the data of a finished episode begins with."""

    token: int
    n_parts: int


class EpisodePart(NamedTuple):
    """What a long episode hands over while it is being played.

    It holds whole structured steps: as many observations as actions and rewards.
    """

    spec: EpisodeSpec
    episode_id: str
    part_id: PartID
    first_step: int
    """Index of its first (sub-)step."""
    first_time: int
    """The structured step that comes after those of the parts before it."""
    n_steps: int
    """Number of structured steps completed by its end, since the reset."""
    rewards: NDArray[np.float64]
    env_times: Sequence[int] | None
    columns: Mapping[StepKey, StepColumns]
    events: Sequence[tuple[int, Event]]


@dataclass
class HandedOver:
    """What is remembered of the parts of an episode that were handed over."""

    token: int
    n_parts: int = 0
    n_sub_steps: int = 0
    n_times: int = 0
    """Structured steps that they cover."""
    n_nan: int = 0
    rewards: array[float] = field(default_factory=lambda: array("d"))
    """All of them: a sum is rounded once, at the end. Eight bytes a step."""
    digest: EpisodeDigest = field(default_factory=EpisodeDigest)
    events: list[tuple[int, Event]] = field(default_factory=list)
    """Those with statistics that need more of an event than that it happened: their values can
    be reduced in any way, and only when all are there."""
    event_counts: dict[type[Event], int] = field(default_factory=dict)
    """How many events there were of the other types."""

    def add(self, part: EpisodePart, n_nan: int) -> None:
        """Remember what will be needed of a part."""
        self.n_parts += 1
        self.n_sub_steps += len(part.rewards)
        self.n_times = self.n_sub_steps if part.env_times is None else part.env_times[-1] + 1
        self.n_nan += n_nan
        self.rewards.frombytes(part.rewards.tobytes())
        self.digest.update(part.columns, part.rewards)
        for time, event in part.events:
            event_type = type(event)
            if event_type.is_only_counted():
                self.event_counts[event_type] = self.event_counts.get(event_type, 0) + 1
            else:
                self.events.append((time, event))


class Episode(NamedTuple):
    """A played spec.

    Of an episode that handed over parts, ``rewards``, ``env_times``, ``columns`` and ``events``
    are what came after them; everything else is about the whole.
    """

    spec: EpisodeSpec
    episode_id: str
    """Made from the index and the seeds, so that it is the same wherever the spec is played."""
    ending: Ending
    truncated_by: TruncatedBy
    rewards: NDArray[np.float64]
    """One for each (sub-)step that was completed."""
    env_times: Sequence[int] | None
    """The structured step that each (sub-)step belongs to; ``None`` if each is its own."""
    n_steps: int
    """Number of structured steps completed."""
    columns: Mapping[StepKey, StepColumns]
    """Observations and actions by step key; one observation more than actions in all."""
    events: Sequence[tuple[int, Event]]
    """The environment's events with the time in which they happened."""
    statistics: Mapping[str, float]
    """Numbers measured on the episode, besides return and number of steps."""
    zero_statistics: frozenset[str]
    """Those of them that are 0 for an episode where they are absent."""
    episode_return: float
    """Sum of the rewards, correctly rounded."""
    seconds: float
    """Wall time from reset to end, without that in which others beside it were advanced."""
    timing: EpisodeTiming | None = None
    """How the time is split; measured in one of some episodes."""
    n_nan: int = 0
    """Observations and rewards of the episode that hold a NaN."""
    failure: Failure | None = None
    part_end: int = sys.maxsize
    """The structured step with which the next part would begin."""
    handed_over: HandedOver | None = None
    digest_of_parts: str = ""
    """The digest, where the parts were joined again, so that it cannot be told any more."""

    @property
    def digest(self) -> str:
        """Hash over observations, actions and rewards: equal for equal episodes.

        It is computed when it is asked for: that of all episodes of a batch, one after the other,
        takes a tenth of the time. The hash uses the widest registers of the processor, and those
        take some 10 microseconds to wake up, as long as a reset of a small environment.
        """
        return self.digest_of_parts or _digest(self)

    @property
    def first_step(self) -> int:
        """Index of the first (sub-)step that was not handed over in a part."""
        return 0 if self.handed_over is None else self.handed_over.n_sub_steps

    @property
    def first_time(self) -> int:
        """The first structured step that was not handed over in a part."""
        return 0 if self.handed_over is None else self.handed_over.n_times

    def n_bytes(self) -> int:
        """Return the size of the observations and actions, without those that are ragged."""
        n_bytes = 0
        for part in self.columns.values():
            for column in part.observations:
                n_bytes += len(column.data)
            for column in part.actions:
                n_bytes += len(column.data)
        return n_bytes


def _digest(episode: Episode) -> str:
    columns, rewards, n_steps = episode.columns, episode.rewards, episode.n_steps
    part_end, handed_over = episode.part_end, episode.handed_over
    if handed_over is None and n_steps < part_end:
        return digest_of(columns, rewards)
    digest = EpisodeDigest() if handed_over is None else handed_over.digest.copy()
    if n_steps >= part_end:
        n_last = len(rewards) + episode.first_step
        # The episode ended where a part ends: if there is an observation after that, it is the
        # next part's.
        last: dict[StepKey, StepColumns] = {}
        before: dict[StepKey, StepColumns] = {}
        for key, part in columns.items():
            n, n_actions = part.n_observations, part.n_actions
            if part.steps is None:
                has_last = n > len(rewards)
            else:
                has_last = bool(part.steps) and part.steps[-1] == n_last
            before[key] = part.first(n - has_last, n_actions)
            last[key] = part.after(n - has_last, n_actions)
        digest.update(before, rewards)
        digest.update(last, rewards[:0])
    else:
        digest.update(columns, rewards)
    return digest.hexdigest()


class EpisodeRow(NamedTuple):
    """What the episode table says of one episode."""

    episode_index: int
    episode_id: str
    env_seed: int
    agent_seed: int
    ending: Ending
    truncated_by: TruncatedBy
    episode_return: float
    """Column ``return``. For a failed episode, of the steps so far."""
    n_steps: int
    """Structured steps."""
    seconds: float
    attempts: int
    """How often the episode was started; more than one after a worker died."""
    digest: str
    n_nan: int
    error: str
    """One line; empty unless failed."""
    failure: Failure | None
    statistics: Mapping[str, float]


@dataclass(frozen=True)
class EventText:
    """The event log of one event type for the episodes of a batch, as text."""

    columns: tuple[str, ...]
    """Names of the columns after ``episode_id`` and ``env_time``."""
    texts: tuple[bytes, ...]
    """For each episode of the batch, its lines: UTF-8, tab separated, each ended by a newline."""


@dataclass(frozen=True)
class EncodedSteps:
    """The trajectories of a batch for one step key: an Arrow IPC stream cut in two."""

    schema: bytes
    """The schema message. Equal for all batches of a run."""
    batch: bytes
    """The record batch message, compressed."""


@dataclass(frozen=True)
class EpisodeBatch:
    """Several finished episodes on their way from where they were played to the sinks."""

    rows: tuple[EpisodeRow, ...]
    trajectories: Mapping[StepKey, EncodedSteps] = field(default_factory=dict)
    """Empty if no sink asked for trajectories."""
    events: Mapping[str, EventText] = field(default_factory=dict)
    """By name of the event type. Empty if no sink asked for event logs."""
    encoding_seconds: float = 0.0
    """Time spent on checking and encoding the episodes."""
    timings: tuple[EpisodeTiming, ...] = ()
    """Of those of the episodes in which the split of the time was measured."""
    zero_statistics: frozenset[str] = frozenset()
    """Names of statistics that are 0, and not missing, for an episode that has none."""
    warnings: tuple[str, ...] = ()
    """What the user should know about how these episodes were played."""
    part_of: PartID | None = None
    """If set, there are no rows: the data is a part of a long episode that goes on. ``events``
    has a single text for each type then."""
    parts: Mapping[int, Parts] = field(default_factory=dict)
    """By episode index, for those of the rows whose data began with parts."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the rows by column, for another process of the run: it takes half the time."""
        return {**self.__dict__, "rows": tuple(zip(*self.rows, strict=True))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["rows"] = tuple(map(EpisodeRow._make, zip(*state["rows"], strict=True)))
        self.__dict__.update(state)
