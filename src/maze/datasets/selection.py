"""Which recorded episodes are wanted, and how much of each.

A selection asks about what the episode table and the event logs say. A processor looks at the row
of an episode and says how many of its steps, from its start, are kept. Neither looks at the steps
themselves, so that what is left out is not even read.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maze.core.episode import ENDINGS, EpisodeRow
from maze.core.errors import ConfigError, OutputError, did_you_mean
from maze.core.factory import Factory, call
from maze.core.rollout.run_directory import RunDirectory

WHERE = "runner.dataset"


@dataclass(frozen=True)
class Selection:
    """Which episodes of a recording are wanted. All conditions have to be met."""

    min_return: float | None = None
    """The least return. ``None``: any."""
    max_return: float | None = None
    """The greatest return. ``None``: any."""
    endings: Sequence[str] = ("terminated", "truncated")
    """How they may have ended: ``terminated``, ``truncated``, ``failed``."""
    event: str | None = None
    """The name of an event type; one such event has to be logged in the episode."""
    n_episodes: int | None = None
    """The first so many of each recording. ``None``: all."""

    def __post_init__(self) -> None:
        for name in ("min_return", "max_return"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ConfigError(f"'{name}' has to be a number or null, got {value!r}")
        unknown = [one for one in self.endings if one not in ENDINGS]
        if isinstance(self.endings, str) or unknown or not self.endings:
            raise ConfigError(
                f"'endings' has to be a list of {', '.join(ENDINGS)}, got {self.endings!r}"
            )
        n = self.n_episodes
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise ConfigError(f"'n_episodes' has to be a whole number from 1, or null, got {n!r}")
        object.__setattr__(self, "endings", tuple(self.endings))

    def indices(self, run: RunDirectory) -> NDArray[np.int64]:
        """Return the indices of the episodes that are wanted, ascending.

        Raises:
            OutputError: If no events of the type were logged in the recording.
        """
        table = run.table
        returns = np.asarray(table["return"], np.float64)
        is_wanted = np.isin(np.array(table["ending"], dtype=str), list(self.endings))
        if self.min_return is not None:
            is_wanted &= returns >= self.min_return
        if self.max_return is not None:
            is_wanted &= returns <= self.max_return
        if self.event is not None:
            logged = _episodes_with(run, self.event)
            is_wanted &= np.array([one in logged for one in table["episode_id"]], dtype=np.bool_)
        indices: NDArray[np.int64] = np.asarray(table.episode_indices)[is_wanted]
        return indices if self.n_episodes is None else indices[: self.n_episodes]

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from a selection of everything that did not fail."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(Selection, name)
        }


def _episodes_with(run: RunDirectory, event_type: str) -> set[str]:
    known = run.event_types
    if event_type not in known:
        raise OutputError(
            f"no events of type {event_type!r} were logged in {run.path}."
            f"{did_you_mean(event_type, known)} There are: {', '.join(known) or 'none'}"
        )
    source = run.event_file(event_type)
    data = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    return {line.partition(b"\t")[0].decode() for line in io.BytesIO(data)}


class Processor(ABC):
    """Says how much of an episode is kept."""

    @abstractmethod
    def n_kept(self, row: EpisodeRow, n_steps: int) -> int:
        """Return how many structured steps are kept, counted from the start of the episode.

        Args:
            row: of the episode.
            n_steps: that processors before this one have left of it.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return its config."""
        kind = type(self)
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **vars(self)}


@dataclass(frozen=True)
class ClipTerminated(Processor):
    """Leaves out the last steps of episodes that terminated: those that led into a dead end."""

    n_steps: int

    def __post_init__(self) -> None:
        _check(self)

    def n_kept(self, row: EpisodeRow, n_steps: int) -> int:
        """Return what is left without them."""
        return n_steps - self.n_steps if row.ending == "terminated" else n_steps


@dataclass(frozen=True)
class ClipTruncated(Processor):
    """Leaves out the last steps of episodes that were truncated."""

    n_steps: int

    def __post_init__(self) -> None:
        _check(self)

    def n_kept(self, row: EpisodeRow, n_steps: int) -> int:
        """Return what is left without them."""
        return n_steps - self.n_steps if row.ending == "truncated" else n_steps


@dataclass(frozen=True)
class DropShort(Processor):
    """Leaves out episodes with fewer steps than this."""

    n_steps: int

    def __post_init__(self) -> None:
        _check(self)

    def n_kept(self, row: EpisodeRow, n_steps: int) -> int:
        """Return all or nothing."""
        return n_steps if n_steps >= self.n_steps else 0


def _check(processor: Any) -> None:
    n = processor.n_steps
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ConfigError(
            f"'n_steps' of {type(processor).__name__} has to be a whole number from 0, got {n!r}"
        )


SelectionSource: TypeAlias = "Selection | Mapping[str, Any] | None"
ProcessorSources: TypeAlias = "Sequence[Processor | Mapping[str, Any]]"


def make_selection(source: SelectionSource) -> Selection:
    """Make a selection of its options; ``None``: everything that did not fail.

    Raises:
        ConfigError: If an option is unknown or wrong.
    """
    if isinstance(source, Selection):
        return source
    made: Selection = call(Selection, source or {}, where=f"{WHERE}.selection")
    return made


def make_processors(sources: ProcessorSources | None) -> tuple[Processor, ...]:
    """Make processors of configs with ``_target_``.

    Raises:
        ConfigError: If one is something else.
    """
    return tuple(
        Factory(Processor, where=f"{WHERE}.processors").build(one) for one in sources or ()
    )
