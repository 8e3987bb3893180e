"""One recorded episode as the viewer shows it: time lines, and the values of each step.

Observations of a few numbers are kept while the episode is looked at. Images and other large ones
are read again, piece by piece, when a step is shown, so that an episode of any length takes little
memory. Time lines are thinned out to what a screen can show: of each stretch the lowest and the
highest value, so that no peak is lost.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.errors import OutputError
from maze.core.events.event import Kpi
from maze.core.ledger.event_logs import LoggedEvent
from maze.core.rollout.replay import recorded_row
from maze.core.rollout.run_directory import RunDirectory
from maze.core.trajectory.columns import Leaf
from maze.core.trajectory.trajectory import StepsStream, leaf_values

N_STEPS_AT_ONCE = 100
_N_COMPONENTS = 64
"""Up to which the components of an observation have time lines."""
_N_SHOWN = 256
"""Numbers of a value that are given with a step."""
_N_CHARACTERS = 2000
_N_ACTIONS = 32
"""Up to which the probabilities of actions have time lines."""
_DECISION = "PolicyDecision"


@dataclass(frozen=True)
class Channel:
    """A number for each of some steps: what a time line shows."""

    name: str
    group: str
    """``reward``, ``observation``, ``action`` or ``policy``."""
    is_discrete: bool
    x: NDArray[np.int64]
    """Sub-steps, ascending."""
    y: NDArray[np.float64]


@dataclass(frozen=True)
class _Column:
    """A leaf in the rows of one step key."""

    leaf: Leaf
    name: str
    is_action: bool
    values: Any
    """An array or a list; ``None`` if it is large and read on demand."""


@dataclass(frozen=True)
class _Part:
    """A stretch of the rows of one step key that is read at once."""

    start: int
    n: int


class _StepKeyRows:
    """The rows of one step key in the episode."""

    def __init__(self, stream: StepsStream, index: int, prefix: str) -> None:
        self.stream, self._index = stream, index
        self.step_key: StepKey = stream.step_key
        pieces: dict[str, list[Any]] = {}
        self._parts: list[_Part] = []
        small = [*stream.observation_leaves, *stream.action_leaves]
        small = [leaf for leaf in small if not leaf.is_ragged and math.prod(leaf.shape) <= _N_SHOWN]
        n = 0
        for batch in stream.parts(index):
            self._parts.append(_Part(n, batch.num_rows))
            n += batch.num_rows
            for name in ("step", "env_time", "agent_id"):
                pieces.setdefault(name, []).append(batch.column(name).to_numpy())
            pieces.setdefault("reward", []).append(
                batch.column("reward").drop_null().to_numpy(zero_copy_only=False)
            )
            for leaf in small:
                n_values = batch.num_rows - batch.column(leaf.name).null_count
                values = leaf_values(leaf, batch, n_values)
                # A copy, so that the batch can go.
                pieces.setdefault(leaf.name, []).append(np.array(values))
        self.n = n
        self.steps, self.env_times, self.agent_ids = (
            _joined(pieces.get(name, []), np.int64) for name in ("step", "env_time", "agent_id")
        )
        self.rewards = _joined(pieces.get("reward", []), np.float64)
        self.columns = [
            _Column(
                leaf,
                f"{prefix}{leaf.name}",
                leaf in stream.action_leaves,
                np.concatenate(pieces[leaf.name]) if leaf.name in pieces else None,
            )
            for leaf in (*stream.observation_leaves, *stream.action_leaves)
        ]
        self._cached: tuple[int, pa.RecordBatch] | None = None

    def value(self, column: _Column, row: int) -> Any:
        """Return one value; ``None`` if there is none, as of the action in the last state."""
        if column.values is not None:
            return column.values[row] if row < len(column.values) else None
        number = next(i for i, part in enumerate(self._parts) if row < part.start + part.n)
        part = self._parts[number]
        if self._cached is None or self._cached[0] != number:
            batches = self.stream.parts(self._index)
            self._cached = number, next(b for i, b in enumerate(batches) if i == number)
        batch = self._cached[1].slice(row - part.start, 1)
        if batch.column(column.leaf.name).null_count:
            return None
        return leaf_values(column.leaf, batch, 1)[0]


class EpisodeView:
    """An episode of a run.

    Args:
        directory: of the run.
        index: of the episode.

    Raises:
        OutputError: If there is no such episode.
    """

    def __init__(self, directory: RunDirectory, index: int) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self.row = recorded_row(directory, index)
        self.problems: list[str] = []
        """What could not be read."""

    @cached_property
    def _rows(self) -> list[_StepKeyRows]:
        index, streams = self.row.episode_index, self._directory.streams
        try:
            rows = [
                _StepKeyRows(stream, index, f"{stream.step_key}: " if len(streams) > 1 else "")
                for stream in streams
            ]
            if not all(stream.vouches_for(index) for stream in streams):
                self._directory.trajectory(index)  # Says whether the digest does.
            _check_counted(rows)
        except (OutputError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
            self.problems.append(str(error))
            return []
        return [one for one in rows if one.n]

    @cached_property
    def _events(self) -> list[LoggedEvent]:
        try:
            return self._directory.events_of(self.row.episode_index)
        except OutputError as error:
            self.problems.append(str(error))
            return []

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each sub-step (and what was seen last) its step key and its row there."""
        n = max((int(rows.steps[-1]) + 1 for rows in self._rows), default=0)
        keys = np.full(n, -1, dtype=np.int64)
        places = np.zeros(n, dtype=np.int64)
        for number, rows in enumerate(self._rows):
            keys[rows.steps] = number
            places[rows.steps] = np.arange(rows.n)
        return keys, places

    @property
    def n_steps(self) -> int:
        """Sub-steps that were rewarded: actions, without one on which the episode broke."""
        return sum(len(rows.rewards) for rows in self._rows)

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """By sub-step."""
        found = np.zeros(self.n_steps)
        for rows in self._rows:
            found[rows.steps[: len(rows.rewards)]] = rows.rewards
        return found

    @cached_property
    def channels(self) -> dict[str, Channel]:
        """By name: reward, return so far, observations, actions, what the policy thought."""
        found: dict[str, Channel] = {}

        def add(name: str, group: str, is_discrete: bool, x: Any, y: Any) -> None:
            numbers = np.asarray(y, dtype=np.float64)
            found[name] = Channel(name, group, is_discrete, np.asarray(x)[: len(numbers)], numbers)

        rewards = self.rewards
        if len(rewards):
            add("reward", "reward", True, np.arange(len(rewards)), rewards)
            # What had been collected when a step began: it ends with the return.
            add("return so far", "reward", False, np.arange(len(rewards) + 1), _sums(rewards))
        for rows in self._rows:
            for column in rows.columns:
                group = "action" if column.is_action else "observation"
                for name, values, is_discrete in _components(column):
                    add(name, group, is_discrete, rows.steps, values)
        for name, x, y in self._thoughts():
            add(name, "policy", False, x, y)
        return found

    def _thoughts(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield probabilities, values and entropies where they were recorded."""
        events = [event for event in self._events if event.event_type == _DECISION]
        if not events:
            return
        x = np.arange(len(events))
        if len(events) != self.n_steps:  # One may have come before the episode broke.
            x = np.array(
                [min(self._step_of_time(event.env_time), self.n_steps) for event in events]
            )
        for name in ("value", "entropy"):
            numbers = np.array([_number(event.attributes.get(name, "")) for event in events])
            if np.isfinite(numbers).any():
                yield name, x, numbers
        by_name: dict[str, tuple[list[int], list[float]]] = {}
        sizes = self._discrete_actions
        several = len(self._rows) > 1
        for step, event in zip(x.tolist(), events, strict=True):
            key = event.attributes.get("step_key", "")
            for head, probabilities in _probabilities(event.attributes.get("logits", ""), sizes):
                for action, probability in enumerate(probabilities):
                    name = f"{f'{key}: ' if several else ''}P({head} = {action})"
                    xs, ys = by_name.setdefault(name, ([], []))
                    xs.append(step)
                    ys.append(probability)
        yield from ((name, xs, ys) for name, (xs, ys) in by_name.items())

    @cached_property
    def _discrete_actions(self) -> dict[str, int]:
        """By name, how many actions there are."""
        sizes: dict[str, int] = {}
        for rows in self._rows:
            space = rows.stream.action_space
            for name, child in space.spaces.items() if isinstance(space, spaces.Dict) else ():
                if isinstance(child, spaces.Discrete) and child.n <= _N_ACTIONS:
                    sizes[str(name)] = int(child.n)
        return sizes

    def _step_of_time(self, env_time: int) -> int:
        """Return the last sub-step of a (structured) step, in which its events are shown."""
        if not self._rows:
            return env_time
        last = self._last_steps
        return int(last[min(env_time, len(last) - 1)]) if len(last) else 0

    @cached_property
    def _last_steps(self) -> NDArray[np.int64]:
        times = np.zeros(self.n_steps, dtype=np.int64)
        for rows in self._rows:
            n = len(rows.rewards)
            times[rows.steps[:n]] = rows.env_times[:n]
        if not len(times):
            return times
        last = np.zeros(int(times[-1]) + 1, dtype=np.int64)
        last[times] = np.arange(len(times))
        return last

    @cached_property
    def _events_by_step(self) -> dict[int, list[LoggedEvent]]:
        found: dict[int, list[LoggedEvent]] = {}
        for event in self._events:
            found.setdefault(self._step_of_time(event.env_time), []).append(event)
        return found

    @cached_property
    def _marks(self) -> dict[str, NDArray[np.int64]]:
        """By type of event, the sub-steps in which one happened."""
        found: dict[str, list[int]] = {}
        for step, events in self._events_by_step.items():
            for event in events:
                if event.event_type not in (_DECISION, Kpi.__name__):
                    found.setdefault(event.event_type, []).append(step)
        return {name: np.array(steps) for name, steps in found.items()}

    def description(self) -> dict[str, Any]:
        """Return what the page says of the episode as a whole."""
        with self._lock:
            row = self.row
            return {
                "episode_index": row.episode_index,
                "episode_id": row.episode_id,
                "env_seed": str(row.env_seed),
                "agent_seed": str(row.agent_seed),
                "ending": row.ending,
                "truncated_by": row.truncated_by,
                "return": _finite(row.episode_return),
                "n_env_steps": row.n_steps,
                "n_steps": self.n_steps,
                "n_positions": len(self._places[0]) or row.n_steps + 1,
                "has_data": bool(self._rows),
                "is_structured": len(self._rows) > 1
                or any(rows.agent_ids.any() for rows in self._rows),
                "digest": row.digest,
                "attempts": row.attempts,
                "statistics": {name: _finite(value) for name, value in row.statistics.items()},
                "failure": None if row.failure is None else asdict(row.failure),
                "channels": [
                    {
                        "name": channel.name,
                        "group": channel.group,
                        "is_discrete": channel.is_discrete,
                        "is_constant": bool((channel.y == channel.y[:1]).all()),
                    }
                    for channel in self.channels.values()
                ],
                "events": {name: len(steps) for name, steps in self._marks.items()},
                "images": [
                    {"name": column.name, "step_key": str(rows.step_key)}
                    for rows in self._rows
                    for column in rows.columns
                    if not column.is_action and is_image(column.leaf)
                ],
                "problems": list(self.problems),
            }

    def overview(
        self, names: Sequence[str], start: int, stop: int, n_points: int
    ) -> dict[str, dict[str, Any]]:
        """Return time lines, thinned out to about so many points.

        Args:
            names: of channels, or of event types.
            start: first sub-step.
            stop: after the last one.
            n_points: at least 2.

        Returns:
            By name: ``x`` and ``y``, or ``x``, ``low`` and ``high`` of stretches, or ``marks`` and
            ``counts``. Numbers that are not finite are ``None``.
        """
        with self._lock:
            found: dict[str, dict[str, Any]] = {}
            for name in names:
                if name in self.channels:
                    found[name] = _thinned(self.channels[name], start, stop, n_points)
                elif name in self._marks:
                    steps = self._marks[name]
                    steps = steps[(steps >= start) & (steps < stop)]
                    width = max(1, -(-(stop - start) // n_points))
                    at, counts = np.unique(
                        start + (steps - start) // width * width, return_counts=True
                    )
                    found[name] = {"marks": at.tolist(), "counts": counts.tolist()}
            return found

    def actors(self, start: int, stop: int, n_points: int) -> list[list[Any]]:
        """Return who acted: stretches of sub-steps as ``[start, stop, actor]``.

        They are at most ``n_points``; an empty actor says that several acted in a stretch.
        """
        with self._lock:
            keys, places = self._places
            start, stop = max(start, 0), min(stop, self.n_steps)
            width = max(1, math.ceil((stop - start) / n_points))
            stretches: list[list[Any]] = []
            for first in range(start, stop, width):
                last = min(first + width, stop)
                actor = self._actor(int(keys[first]), int(places[first]))
                for step in range(first + 1, last):
                    if self._actor(int(keys[step]), int(places[step])) != actor:
                        actor = ""
                        break
                if stretches and stretches[-1][2] == actor:
                    stretches[-1][1] = last
                else:
                    stretches.append([first, last, actor])
            return stretches

    def _actor(self, key: int, row: int) -> str:
        rows = self._rows[key]
        return f"{rows.step_key}/{int(rows.agent_ids[row])}"

    def steps(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what was seen and done in some sub-steps, at most ``N_STEPS_AT_ONCE``."""
        with self._lock:
            keys, places = self._places
            start = max(start, 0)
            stop = min(stop, len(keys), start + N_STEPS_AT_ONCE)
            sums = _sums(self.rewards)
            found = []
            for step in range(start, stop):
                if keys[step] < 0:
                    continue
                rows, row = self._rows[keys[step]], int(places[step])
                observation: dict[str, Any] = {}
                action: dict[str, Any] = {}
                for column in rows.columns:
                    value = rows.value(column, row)
                    if value is None and column.is_action:
                        continue
                    told = _shown(value)
                    (action if column.is_action else observation)[column.leaf.name] = told
                found.append(
                    {
                        "step": step,
                        "time": int(rows.env_times[row]),
                        "actor": self._actor(int(keys[step]), row),
                        "observation": observation,
                        "action": action,
                        "reward": _finite(self.rewards[step]) if step < self.n_steps else None,
                        "total": _finite(sums[min(step, self.n_steps)]),
                        "events": [_told(event) for event in self._events_by_step.get(step, ())],
                    }
                )
            return found

    def image(self, name: str, step: int) -> NDArray[np.uint8] | None:
        """Return an observed image of shape (height, width, 3).

        Args:
            name: of the column, as in the description's ``images``.
            step: a sub-step. If another step key saw it, the last image before it.

        Raises:
            OutputError: If there is none of that name.
        """
        with self._lock:
            for rows in self._rows:
                for column in rows.columns:
                    if column.name == name and is_image(column.leaf):
                        row = int(np.searchsorted(rows.steps, step, side="right")) - 1
                        return None if row < 0 else _as_image(rows.value(column, row))
            raise OutputError(f"no image {name!r} was observed")


def _check_counted(rows: Sequence[_StepKeyRows]) -> None:
    """Refuse files that were made up: sub-steps count from 0, each once, and time goes with them.

    Raises:
        OutputError: If that is not so. The indices would be used as such.
    """
    seen = [one.steps for one in rows]
    rewarded = [one.steps[: len(one.rewards)] for one in rows]
    n = sum(map(len, seen))
    if not (
        all(
            np.array_equal(np.sort(np.concatenate(steps)), np.arange(sum(map(len, steps))))
            for steps in (seen, rewarded)
        )
        and all(((one.env_times >= 0) & (one.env_times <= n)).all() for one in rows)
        and all((np.diff(one.steps) > 0).all() for one in rows)
    ):
        raise OutputError("the sub-steps of the recording are not counted one by one")


# Numbers.


def _joined(pieces: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(pieces).astype(dtype) if pieces else np.zeros(0, dtype=dtype)


def _sums(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(rewards)])


def _components(column: _Column) -> Iterator[tuple[str, NDArray[Any], bool]]:
    """Yield name, values and whether they are counted, for each number that has a time line."""
    leaf, values = column.leaf, column.values
    size = math.prod(leaf.shape)
    if values is None or not 0 < size <= _N_COMPONENTS:
        return
    is_discrete = not isinstance(leaf.space, spaces.Box) or leaf.space.dtype.kind in "iub"
    flat = values.reshape(len(values), size)
    if not leaf.shape:
        yield column.name, flat[:, 0], is_discrete
        return
    for i in range(size):
        place = ", ".join(str(int(k)) for k in np.unravel_index(i, leaf.shape))
        yield f"{column.name}[{place}]", flat[:, i], is_discrete


def _thinned(channel: Channel, start: int, stop: int, n_points: int) -> dict[str, Any]:
    low, high = np.searchsorted(channel.x, [start, stop])
    # What lies just outside continues the line to the edge.
    low, high = max(int(low) - 1, 0), min(int(high) + 1, len(channel.x))
    x, y = channel.x[low:high], channel.y[low:high]
    if len(x) <= 2 * n_points:
        return {"x": x.tolist(), "y": [_finite(value) for value in y.tolist()]}
    width = -(-len(x) // n_points)
    begins = np.arange(0, len(x), width)
    finite = np.isfinite(y)
    lowest = np.minimum.reduceat(np.where(finite, y, np.inf), begins)
    highest = np.maximum.reduceat(np.where(finite, y, -np.inf), begins)
    return {
        "x": x[begins].tolist(),
        "low": [_finite(value) for value in lowest.tolist()],
        "high": [_finite(value) for value in highest.tolist()],
    }


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _probabilities(text: str, sizes: Mapping[str, int]) -> Iterator[tuple[str, list[float]]]:
    """Yield the probabilities of the actions of each discrete head, from its logits."""
    try:
        by_head = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(by_head, dict):
        return
    for head, logits in by_head.items():
        try:
            numbers = np.asarray(logits, dtype=np.float64).ravel()
        except (TypeError, ValueError):
            continue
        if sizes.get(head) == len(numbers):
            weights = np.exp(numbers - numbers.max())
            yield str(head), (weights / weights.sum()).tolist()


# Values as text and numbers.


def _shown(value: Any) -> Any:
    """Return a value for JSON: numbers as they are, of large arrays shape and range."""
    if isinstance(value, np.ndarray):
        if value.size <= _N_SHOWN:
            return _listed(value)
        numbers = value.astype(np.float64)
        return {
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "min": _finite(numbers.min()),
            "max": _finite(numbers.max()),
            "mean": _finite(numbers.mean()),
        }
    if isinstance(value, np.generic):
        return _listed(np.asarray(value))
    text = value if isinstance(value, str) else repr(value)
    return {"text": text if len(text) <= _N_CHARACTERS else f"{text[:_N_CHARACTERS]}..."}


def _listed(value: NDArray[Any]) -> Any:
    if value.dtype.kind == "f":
        # The shortest number that is this one in its own precision; others as text.
        numbers: list[Any] = [
            float(str(one)) if math.isfinite(one) else str(one) for one in value.ravel()
        ]
        return _nested(numbers, value.shape)
    if value.dtype.kind in "iu" and value.size and np.abs(value.astype(np.float64)).max() > 2**53:
        return {"text": str(value.tolist())}
    return value.tolist()


def _nested(flat: Sequence[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return list(flat)
    width = math.prod(shape[1:])
    return [_nested(flat[i * width : (i + 1) * width], shape[1:]) for i in range(shape[0])]


def _told(event: LoggedEvent) -> str:
    told = ", ".join(f"{name}={value}" for name, value in event.attributes.items())
    text = f"{event.event_type}({told})"
    return text if len(text) <= _N_CHARACTERS else f"{text[:_N_CHARACTERS]}..."


# Images.


def is_image(leaf: Leaf) -> bool:
    """Return whether a leaf is an image to look at, or a stack of such."""
    if leaf.is_ragged or leaf.dtype is None or len(leaf.shape) not in (2, 3, 4):
        return False
    height, width = _sides(leaf.shape)
    low = np.min(leaf.space.low) if isinstance(leaf.space, spaces.Box) else -1
    high = np.max(leaf.space.high) if isinstance(leaf.space, spaces.Box) else -1
    is_colours = leaf.dtype == np.uint8 or (low == 0 and high in (1, 255))
    return bool(is_colours and min(height, width) >= 16)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    shape = shape[-3:]
    if len(shape) == 3:
        return (shape[1], shape[2]) if shape[0] <= 4 < shape[2] else (shape[0], shape[1])
    return shape[0], shape[1]


def _as_image(value: Any) -> NDArray[np.uint8] | None:
    if value is None:
        return None
    pixels = np.asarray(value)
    if pixels.ndim == 4:
        pixels = pixels[-1]  # The newest of a stack.
    if pixels.ndim == 3 and pixels.shape[0] <= 4 < pixels.shape[2]:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels[:, :, -1]  # Grey images, the newest last.
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    pixels = pixels[:, :, :3]
    if pixels.dtype.kind == "f":
        pixels = np.clip(pixels, 0, None) * (255 if pixels.max(initial=0) <= 1 else 1)
    return np.ascontiguousarray(pixels, dtype=np.uint8)
