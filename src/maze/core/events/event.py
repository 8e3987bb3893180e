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

    There are three levels. Within a *step*, ``per_step`` may make one value of those of all events
    that happened in it; over the *episode*, ``reduce`` makes one number; over the *run*, the
    result shows mean, confidence interval, spread and range of these numbers.

        EventStatistic("count")                                        events in the episode
        EventStatistic("area", sum, "area", group_by="product")        a sum for each product
        EventStatistic("busiest", max, per_step=len)                   the most in any step
        EventStatistic("stock", mean, "pieces", per_step=max)          mean of the steps' maxima

    It becomes a column ``<EventType>.<name>`` of the episode table (``<EventType>.<name>/<group>``
    for each group, if grouped).
    """

    name: str
    """Unique among the statistics of the event type."""
    reduce: Callable[[Sequence[float]], float] = len
    """Makes the episode's number out of the values, in the order of the events."""
    attribute: str | None = None
    """Attribute of the event that is reduced. ``None`` reduces a one for each event."""
    group_by: str | tuple[str, ...] | None = None
    """Attribute of the event that tells the groups apart, or several. ``None``: no groups."""
    per_step: Callable[[Sequence[float]], float] | None = None
    """Makes one value out of those of each structured step before ``reduce`` sees them. With
    ``len`` and ``sum``, steps without such events count as 0; otherwise they are left out."""

    @property
    def is_zero_without_events(self) -> bool:
        """Whether an episode without such events has a 0 (of counts and sums), or no number."""
        return self.reduce in (len, sum) or self.per_step in (len, sum)

    @property
    def is_count(self) -> bool:
        """Whether it needs no more of the events than how many there were."""
        return self.reduce is len and not (self.attribute or self.group_by or self.per_step)


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
        return all(statistic.is_count for statistic in cls.statistics)


@dataclass(frozen=True)
class Reward(Event):
    """The reward of one (structured) step. Logged for every episode, made from its rewards."""

    value: float
    """Sum over the sub-steps of the step, in the environment's own unit, after all wrappers."""

    # The return and the number of steps are in the episode table already.
    statistics: ClassVar[tuple[EventStatistic, ...]] = ()


@dataclass(frozen=True)
class Kpi(Event):
    """A key figure of an episode, see ``StructuredEnv.kpis``. Logged in its last step."""

    name: str
    value: float

    # It is a statistic of the episode, and is in the episode table as ``kpi.<name>``.
    statistics: ClassVar[tuple[EventStatistic, ...]] = ()


class Measurement(NamedTuple):
    """The statistics on the events of one episode."""

    numbers: dict[str, float]
    """By ``<EventType>.<name>[/<group>]``. Types that did not occur are absent."""
    zero_without_events: frozenset[str]
    """Which of them are 0 for an episode where they are absent."""


def measure_events(
    events: Sequence[Any],
    counts: Mapping[type[Event], int] | None = None,
    n_steps: int = 0,
) -> Measurement:
    """Measure the declared statistics on the events of one episode.

    Args:
        events: ``(env_time, event)`` pairs, in the order in which they happened.
        counts: how many more there were of types that are only counted.
        n_steps: structured steps of the episode; one more counts if events happened in it.
    """
    counts = counts or {}
    by_type: dict[type[Event], list[tuple[int, Event]]] = {event_type: [] for event_type in counts}
    for pair in events:
        by_type.setdefault(type(pair[1]), []).append(pair)
    measured: dict[str, float] = {}
    zeros: set[str] = set()
    for event_type, same in by_type.items():
        for statistic in event_type.statistics:
            if statistic.is_count:
                name = f"{event_type.__name__}.{statistic.name}"
                measured[name] = float(counts.get(event_type, 0) + len(same))
                zeros.add(name)
                continue
            for group, values in sorted(_values_by_group(statistic, same, n_steps).items()):
                name = f"{event_type.__name__}.{statistic.name}{group}"
                measured[name] = float(statistic.reduce(values))
                if statistic.is_zero_without_events:
                    zeros.add(name)
    return Measurement(measured, frozenset(zeros))


def _values_by_group(
    statistic: EventStatistic, events: Sequence[tuple[int, Event]], n_steps: int
) -> dict[str, list[float]]:
    """Return what a statistic reduces, by the end of its name."""
    attribute, group_by, per_step = statistic.attribute, statistic.group_by, statistic.per_step
    by = (group_by,) if isinstance(group_by, str) else group_by or ()
    if not by and per_step is None and attribute is not None:
        return {"": [getattr(event, attribute) for _, event in events]} if events else {}
    groups: dict[str, list[float]] = {}
    times: dict[str, list[int]] = {}
    for time, event in events:
        group = "".join([f"/{getattr(event, name)}" for name in by])
        value = 1.0 if attribute is None else getattr(event, attribute)
        groups.setdefault(group, []).append(value)
        times.setdefault(group, []).append(time)
    if per_step is None:
        return groups
    n_all = max(n_steps, events[-1][0] + 1) if events else n_steps
    for group, values in groups.items():
        by_step: dict[int, list[float]] = {}
        for time, value in zip(times[group], values, strict=True):
            by_step.setdefault(time, []).append(value)
        reduced = [float(per_step(of_step)) for of_step in by_step.values()]
        if per_step in (len, sum) and statistic.reduce is not len:
            reduced += [0.0] * (n_all - len(reduced))
        groups[group] = reduced
    return groups
