"""Events: what happened in a step, as plain values.

An environment (or a wrapper, or a policy that was given the list) appends an event to
``env.events`` in the step in which it happens. The episode loop takes them out after the step and
stamps them with the environment's time. Statistics over events are declared beside their type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple


@dataclass(frozen=True)
class EventStatistic:
    """A number measured on the events of one type in one episode.

    It becomes a column ``<EventType>.<name>`` of the episode table (``<EventType>.<name>/<group>``
    for each group, if grouped).
    """

    name: str
    """Unique among the statistics of the event type."""
    reduce: Callable[[Sequence[float]], float] = len
    """Makes the episode's number out of the attribute's values, in the order of the events."""
    attribute: str | None = None
    """Attribute of the event that is reduced. ``None`` reduces a one for each event."""
    group_by: str | None = None
    """Attribute of the event that tells the groups apart. ``None`` makes a single number."""

    @property
    def is_zero_without_events(self) -> bool:
        """Whether an episode without such events has a 0 (of counts and sums), or no number."""
        return self.reduce in (len, sum)


@dataclass(frozen=True)
class Event:
    """Base of all event types: subclass it as a frozen dataclass.

    The attributes are numbers, strings or booleans; anything else is written to the event log
    as its ``str``.
    """

    statistics: ClassVar[tuple[EventStatistic, ...]] = (EventStatistic("count"),)
    """What is measured on the events of this type in an episode. Default: how many there were."""

    @classmethod
    def attributes(cls) -> tuple[str, ...]:
        """Names of the attributes, in the order of their declaration."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def is_only_counted(cls) -> bool:
        """Whether the statistics need no more of the events than how many there were."""
        return all(
            statistic.reduce is len and statistic.attribute is None and statistic.group_by is None
            for statistic in cls.statistics
        )


@dataclass(frozen=True)
class Reward(Event):
    """The reward of one (structured) step. Logged for every episode, made from its rewards."""

    value: float
    """Sum over the sub-steps of the step, in the environment's own unit, after all wrappers."""

    # The return and the number of steps are in the episode table already.
    statistics: ClassVar[tuple[EventStatistic, ...]] = ()


class Measurement(NamedTuple):
    """The statistics on the events of one episode."""

    numbers: dict[str, float]
    """By ``<EventType>.<name>[/<group>]``. Types that did not occur are absent."""
    zero_without_events: frozenset[str]
    """Which of them are 0 for an episode where they are absent."""


def measure_events(
    events: Sequence[Any], counts: Mapping[type[Event], int] | None = None
) -> Measurement:
    """Measure the declared statistics on the events of one episode.

    Args:
        events: ``(env_time, event)`` pairs, in the order in which they happened.
        counts: how many more there were of types that are only counted.
    """
    counts = counts or {}
    by_type: dict[type[Event], list[Event]] = {event_type: [] for event_type in counts}
    for _, event in events:
        by_type.setdefault(type(event), []).append(event)
    measured: dict[str, float] = {}
    zeros: set[str] = set()
    for event_type, same in by_type.items():
        for statistic in event_type.statistics:
            if event_type in counts:
                name = f"{event_type.__name__}.{statistic.name}"
                measured[name] = float(counts[event_type] + len(same))
                zeros.add(name)
                continue
            groups: dict[str, list[float]] = {}
            for event in same:
                group = (
                    "" if statistic.group_by is None else f"/{getattr(event, statistic.group_by)}"
                )
                value = 1.0 if statistic.attribute is None else getattr(event, statistic.attribute)
                groups.setdefault(group, []).append(value)
            for group, values in sorted(groups.items()):
                name = f"{event_type.__name__}.{statistic.name}{group}"
                measured[name] = float(statistic.reduce(values))
                if statistic.is_zero_without_events:
                    zeros.add(name)
    return Measurement(measured, frozenset(zeros))
