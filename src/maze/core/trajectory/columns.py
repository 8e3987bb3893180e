"""From observations and actions to columns.

Each leaf of a space (a Box, a Discrete, ... below its Dicts and Tuples) becomes one column. A
value is copied when it is recorded, since many environments hand out the same buffer again and
again. What can be told from types, dtypes and shapes is checked for every value before it goes
any further; bounds and NaN are checked for many values at once, when they are handed over.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.errors import SpaceError

Role: TypeAlias = Literal["observation", "action"]
Path: TypeAlias = tuple[str | int, ...]

PART_BYTES = 4 * 2**20
"""Of observations and actions, that an episode collects before it hands them over as a part."""
_PART_STEPS = (256, 65536)
_ASSUMED_RAGGED_BYTES = 1024
_NO_KINDS: frozenset[str] = frozenset()

_INTEGER_TYPES = frozenset(
    {int, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64}
)


@dataclass(frozen=True)
class Leaf:
    """A leaf of a space, and the column that holds it."""

    name: str
    """Column name: role and path joined by dots. The path ``("observation",)`` of a plain
    environment's only observation is left out, likewise ``("action",)``."""
    path: Path
    """Keys and indices that lead from the step key's Dict space to the leaf."""
    space: spaces.Space[Any]
    dtype: np.dtype[Any] | None
    """Of the values, or ``None`` for a ragged leaf, whose values are not arrays of one shape."""
    shape: tuple[int, ...] = ()
    """Of one value; ``()`` for a ragged leaf."""

    @property
    def is_ragged(self) -> bool:
        """Whether the values differ in size (Text, Sequence, Graph, OneOf)."""
        return self.dtype is None


class LeafColumn(NamedTuple):
    """The values of a leaf in one episode, or in a part of it."""

    leaf: Leaf
    n: int
    """Number of values."""
    data: bytes = b""
    """The values one after the other in C order; empty for a ragged leaf."""
    values: Sequence[Any] = ()
    """The values of a ragged leaf, in plain Python types (see ``to_plain``)."""

    def array(self) -> NDArray[Any]:
        """Return the values as a read-only array of shape ``(n, *leaf.shape)``."""
        return np.frombuffer(self.data, dtype=self.leaf.dtype).reshape(self.n, *self.leaf.shape)

    def first(self, n: int) -> LeafColumn:
        """Return the column cut to its first ``n`` values."""
        if n >= self.n:
            return self
        size = len(self.data) // self.n
        return self._replace(n=n, data=self.data[: n * size], values=self.values[:n])

    def after(self, n: int) -> LeafColumn:
        """Return the column without its first ``n`` values."""
        size = len(self.data) // self.n if self.n else 0
        n_left = max(self.n - n, 0)
        return self._replace(n=n_left, data=self.data[n * size :], values=self.values[n:])

    def digest_data(self) -> bytes:
        """Return what the episode's digest is computed from."""
        return repr(list(self.values)).encode() if self.leaf.dtype is None else self.data


class StepColumns(NamedTuple):
    """What was seen and done in the sub-steps of one step key in one episode, or in a part."""

    observations: tuple[LeafColumn, ...]
    """One column for each leaf of the observation space."""
    actions: tuple[LeafColumn, ...]
    """One column for each leaf of the action space."""
    n_observations: int
    n_actions: int
    """Equal to ``n_observations``, or one less where the episode ended on an observation."""
    steps: Sequence[int] | None = None
    """Index of the sub-step, counted over all step keys, of each observation. ``None``: they are
    consecutive, as in every flat environment."""
    agent_ids: Sequence[int] | None = None
    """Which agent saw each observation. ``None``: always 0."""

    def first(self, n_observations: int, n_actions: int) -> StepColumns:
        """Return the columns cut to their first rows."""
        return StepColumns(
            observations=tuple(column.first(n_observations) for column in self.observations),
            actions=tuple(column.first(n_actions) for column in self.actions),
            n_observations=min(n_observations, self.n_observations),
            n_actions=min(n_actions, self.n_actions),
            steps=None if self.steps is None else self.steps[:n_observations],
            agent_ids=None if self.agent_ids is None else self.agent_ids[:n_observations],
        )

    def after(self, n_observations: int, n_actions: int) -> StepColumns:
        """Return the columns without their first rows."""
        return StepColumns(
            observations=tuple(column.after(n_observations) for column in self.observations),
            actions=tuple(column.after(n_actions) for column in self.actions),
            n_observations=max(self.n_observations - n_observations, 0),
            n_actions=max(self.n_actions - n_actions, 0),
            steps=None if self.steps is None else self.steps[n_observations:],
            agent_ids=None if self.agent_ids is None else self.agent_ids[n_observations:],
        )

    def until(self, step: int, *, with_action: bool, first_step: int = 0) -> StepColumns:
        """Return the columns cut after the observation (and the action on it) of a sub-step.

        Args:
            step: index of the sub-step.
            with_action: whether the action on it is kept.
            first_step: index of the sub-step that the columns begin with, if not all have theirs.
        """
        if self.steps is None:
            return self.first(step - first_step + 1, step - first_step + with_action)
        n_observations = sum(1 for index in self.steps if index <= step)
        n_actions = sum(1 for index in self.steps if index < step + with_action)
        return self.first(n_observations, n_actions)


def join_columns(parts: Sequence[StepColumns]) -> StepColumns:
    """Return the columns of consecutive parts of an episode as those of one."""
    first = parts[0]
    is_flat = first.steps is None
    return StepColumns(
        observations=_join_leaves([part.observations for part in parts]),
        actions=_join_leaves([part.actions for part in parts]),
        n_observations=sum(part.n_observations for part in parts),
        n_actions=sum(part.n_actions for part in parts),
        steps=None if is_flat else [step for part in parts for step in part.steps or ()],
        agent_ids=None if is_flat else [i for part in parts for i in part.agent_ids or ()],
    )


def _join_leaves(parts: Sequence[tuple[LeafColumn, ...]]) -> tuple[LeafColumn, ...]:
    return tuple(
        LeafColumn(
            columns[0].leaf,
            sum(column.n for column in columns),
            b"".join(column.data for column in columns),
            tuple(value for column in columns for value in column.values),
        )
        for columns in zip(*parts, strict=True)
    )


class Offence(NamedTuple):
    """The first value of a column that does not belong there."""

    row: int
    """Position among the values of the column."""
    kind: Literal["nan", "outside"]
    message: str


def part_steps(
    observation_spaces: Mapping[Any, spaces.Space[Any]],
    action_spaces: Mapping[Any, spaces.Space[Any]],
) -> int:
    """Return after how many structured steps a long episode hands over what it has.

    It is a function of the spaces and of nothing else, as the digest of an episode depends on it.
    """
    all_leaves: list[Leaf] = []
    for key, space in observation_spaces.items():
        all_leaves += leaves(space, "observation")
        all_leaves += leaves(action_spaces[key], "action")
    n_bytes = 0
    for leaf in all_leaves:
        if leaf.dtype is None:
            n_bytes += _ASSUMED_RAGGED_BYTES
        else:
            n_bytes += leaf.dtype.itemsize * int(np.prod(leaf.shape))
    fewest, most = _PART_STEPS
    return min(max(PART_BYTES // max(n_bytes, 1), fewest), most)


def leaves(space: spaces.Space[Any], role: Role) -> tuple[Leaf, ...]:
    """Return the leaves of a space in the order of their recording."""
    is_plain = isinstance(space, spaces.Dict) and list(space.spaces) == [role]
    return tuple(_leaves(space, role, (), skip_first=is_plain))


def _leaves(space: spaces.Space[Any], role: Role, path: Path, skip_first: bool) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from _leaves(child, role, (*path, key), skip_first)
    elif isinstance(space, spaces.Tuple):
        for index, child in enumerate(space.spaces):
            yield from _leaves(child, role, (*path, index), skip_first)
    else:
        named = path[1:] if skip_first else path
        name = ".".join([role, *(str(part).replace(".", "\\.") for part in named)])
        if isinstance(space, spaces.Discrete):
            yield Leaf(name, path, space, np.dtype(np.int64))
        elif isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
            yield Leaf(name, path, space, np.dtype(space.dtype), tuple(space.shape or ()))
        else:
            yield Leaf(name, path, space, None)


class _Mismatch(Exception):
    """Raised where the hot path sees that something is wrong; ``explain`` then says what."""


class SpaceRecorder:
    """Records values of one space, and hands them over as columns."""

    record: Callable[[Any], None]
    """Copy one value. Raises ``SpaceError`` if its type, dtype or shape is not the space's, and
    records nothing of it then."""

    def __init__(self, space: spaces.Space[Any], role: Role) -> None:
        self.leaves = leaves(space, role)
        self._collected: list[list[Any]] = [[] for _ in self.leaves]
        self._parts = [
            (leaf, collected, _joiner(leaf))
            for leaf, collected in zip(self.leaves, self._collected, strict=True)
        ]
        self.record = _single_leaf_recorder(space, role, self._collected) or _checked(
            _recorder(space, iter(self._collected)), space, role, self._collected
        )

    def columns(self, *, without_last: bool = False) -> tuple[LeafColumn, ...]:
        """Return what was recorded since something was forgotten, but for the last if asked to."""
        columns = []
        for leaf, collected, join in self._parts:
            values = collected[:-1] if without_last else collected
            if join is None:
                columns.append(LeafColumn(leaf, len(values), b"", tuple(values)))
            else:
                columns.append(LeafColumn(leaf, len(values), join(values), ()))
        return tuple(columns)

    def forget(self, *, all_but_last: bool = False) -> None:
        """Drop what was recorded, but for the last value if asked to."""
        for collected in self._collected:
            if all_but_last:
                del collected[:-1]
            else:
                collected.clear()


def _joiner(leaf: Leaf) -> Callable[[list[Any]], bytes] | None:
    """Return what makes the data of a column out of the recorded values."""
    if leaf.dtype is None:
        return None
    if isinstance(leaf.space, spaces.Discrete):
        return lambda collected: array("q", collected).tobytes()
    return b"".join


def count_nan(columns: Sequence[LeafColumn]) -> int:
    """Count the values (rows) that hold a NaN in at least one of the columns."""
    has_nan: NDArray[np.bool_] | None = None
    for column in columns:
        if column.leaf.dtype is not None and column.leaf.dtype.kind == "f" and column.n:
            here = np.isnan(column.array().reshape(column.n, -1)).any(axis=1)
            has_nan = here if has_nan is None else has_nan | here
    return 0 if has_nan is None else int(has_nan.sum())


def _checked(
    record: Callable[[Any], None], space: spaces.Space[Any], role: Role, collected: list[list[Any]]
) -> Callable[[Any], None]:
    """Make errors of a recording function tell what is wrong, and undo what it had recorded."""

    def record_checked(value: Any) -> None:
        try:
            record(value)
        except Exception as error:
            # All were of the same length, and the one at which it failed still is.
            before = min(map(len, collected), default=0)
            for column in collected:
                del column[before:]
            raise SpaceError(explain(space, value, role)) from error

    return record_checked


def _single_leaf_recorder(
    space: spaces.Space[Any], role: Role, collected: list[list[Any]]
) -> Callable[[Any], None] | None:
    """Return one flat function for a Dict of one array or one Discrete; ``None`` for others.

    Nearly every environment is of this form, and three nested calls a value would cost more than
    the rest of the episode loop.
    """
    if not isinstance(space, spaces.Dict) or len(space.spaces) != 1:
        return None
    (key, child), append = next(iter(space.spaces.items())), collected[0].append
    if isinstance(child, spaces.Discrete):
        start, stop = int(child.start), int(child.start + child.n)

        def record_discrete(value: Any) -> None:
            try:
                number = value[key]
                if type(number) is not int and type(number) not in _INTEGER_TYPES:
                    if not (isinstance(number, np.ndarray) and child.contains(number)):
                        raise _Mismatch
                    number = int(number)
                if start <= number < stop and len(value) == 1:
                    append(number)
                else:
                    raise _Mismatch
            except Exception as error:
                raise SpaceError(explain(space, value, role)) from error

        return record_discrete
    if isinstance(child, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        dtype, shape = np.dtype(child.dtype), tuple(child.shape or ())

        def record_array(value: Any) -> None:
            try:
                array = value[key]
                # Mostly it is the very same dtype object, which needs no comparison.
                if (
                    (array.dtype is dtype or array.dtype == dtype)
                    and array.shape == shape
                    and len(value) == 1
                ):
                    append(array.tobytes())
                else:
                    raise _Mismatch
            except Exception as error:
                raise SpaceError(explain(space, value, role)) from error

        return record_array
    return None


def _recorder(space: spaces.Space[Any], collected: Iterator[list[Any]]) -> Callable[[Any], None]:
    """Compile a function that takes a value apart and appends its leaves to the given lists."""
    if isinstance(space, spaces.Dict):
        items = [(key, _recorder(child, collected)) for key, child in space.spaces.items()]
        n_items = len(items)

        def record_dict(value: Any) -> None:
            if len(value) != n_items:
                raise _Mismatch
            for key, record in items:
                record(value[key])

        return record_dict
    if isinstance(space, spaces.Tuple):
        parts = [_recorder(child, collected) for child in space.spaces]
        n_parts = len(parts)

        def record_tuple(value: Any) -> None:
            if not isinstance(value, tuple) or len(value) != n_parts:
                raise _Mismatch
            for record, part in zip(parts, value, strict=True):
                record(part)

        return record_tuple
    append = next(collected).append
    if isinstance(space, spaces.Discrete):
        start, stop = int(space.start), int(space.start + space.n)

        def record_discrete(value: Any) -> None:
            if type(value) in _INTEGER_TYPES and start <= value < stop:
                append(value)
            elif isinstance(value, np.ndarray) and space.contains(value):  # 0-d integer array
                append(int(value))
            else:
                raise _Mismatch

        return record_discrete
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        dtype, shape = np.dtype(space.dtype), tuple(space.shape or ())

        def record_array(value: Any) -> None:
            found = value.dtype
            if (found is not dtype and found != dtype) or value.shape != shape:
                raise _Mismatch
            append(value.tobytes())

        return record_array

    def record_ragged(value: Any) -> None:
        if not space.contains(value):
            raise _Mismatch
        append(to_plain(space, value))

    return record_ragged


class BoundsCheck(Protocol):
    """Finds the first value of a column that is out of bounds or NaN."""

    def __call__(self, column: LeafColumn, ignored: Collection[str] = _NO_KINDS) -> Offence | None:
        """Look through a column for offences of kinds that are not to be ignored."""


def bounds_check(leaf: Leaf) -> BoundsCheck | None:
    """Return a function that finds the first value out of bounds; ``None`` if none can be."""
    space = leaf.space
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape, space.dtype), np.ones(space.shape, space.dtype)
    else:
        return None  # Discrete and ragged values are checked when they are recorded.
    assert leaf.dtype is not None
    if leaf.dtype.kind == "b" or 0 in leaf.shape:
        return None
    if leaf.dtype.kind in "iu":
        limits = np.iinfo(leaf.dtype)
        if (low <= limits.min).all() and (high >= limits.max).all():
            return None
    elif np.isneginf(low).all() and np.isposinf(high).all():

        def check_nan(column: LeafColumn, ignored: Collection[str] = _NO_KINDS) -> Offence | None:
            # The minimum of anything with a NaN in it is NaN: one cheap pass.
            minimum = column.array().min() if column.n else 0
            return None if minimum == minimum else _find_offence(column, low, high, ignored)

        return check_nan

    def check_bounds(column: LeafColumn, ignored: Collection[str] = _NO_KINDS) -> Offence | None:
        values = column.array()
        # Comparisons with NaN are false, so that it is found here too.
        if ((values >= low) & (values <= high)).all():
            return None
        return _find_offence(column, low, high, ignored)

    return check_bounds


def _find_offence(
    column: LeafColumn, low: NDArray[Any], high: NDArray[Any], ignored: Collection[str]
) -> Offence | None:
    values = column.array().reshape(column.n, -1)
    low, high = (
        np.broadcast_to(low, column.leaf.shape).ravel(),
        np.broadcast_to(high, column.leaf.shape).ravel(),
    )
    wrong = ~((values >= low) & (values <= high))
    if "nan" in ignored:
        wrong &= values == values
    if "outside" in ignored:
        wrong &= values != values
    if not wrong.any():
        return None
    index = int(wrong.any(axis=1).argmax())
    flat = int(wrong[index].argmax())
    element = (
        [int(i) for i in np.unravel_index(flat, column.leaf.shape)] if column.leaf.shape else []
    )
    where = f"{column.leaf.name}{element if element else ''}"
    found = values[index, flat]
    if found != found:
        return Offence(index, "nan", f"{where} is NaN")
    return Offence(
        index, "outside", f"{where} is {found}, which is not in [{low[flat]}, {high[flat]}]"
    )


def explain(space: spaces.Space[Any], value: Any, name: str) -> str:
    """Say what is wrong with a value that is not in a space."""
    return _explain(space, value, name) or f"{name} {_short(value)} is not in the space {space}"


def _explain(space: spaces.Space[Any], value: Any, name: str) -> str | None:
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            return f"{name} is {_short(value)}, expected a dictionary with the keys {list(space)}"
        missing = [key for key in space if key not in value]
        extra = [key for key in value if key not in space.spaces]
        if missing or extra:
            return (
                f"{name} has the keys {list(value)}, expected {list(space)}"
                f" (missing: {missing}, not in the space: {extra})"
            )
        is_plain = list(space) == [name]  # The only observation of a plain environment.
        parts = [
            _explain(space[key], value[key], name if is_plain else f"{name}[{key!r}]")
            for key in space
        ]
        return next((part for part in parts if part), None)
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            return f"{name} is {_short(value)}, expected a tuple of {len(space.spaces)} values"
        parts = [
            _explain(child, part, f"{name}[{index}]")
            for index, (child, part) in enumerate(zip(space.spaces, value, strict=True))
        ]
        return next((part for part in parts if part), None)
    if isinstance(space, spaces.Discrete):
        if type(value) not in _INTEGER_TYPES:
            if not (isinstance(value, np.ndarray) and space.contains(value)):
                return (
                    f"{name} is {_short(value)}, expected an integer in"
                    f" [{space.start}, {space.start + space.n - 1}] (convert it with int(...))"
                )
        elif not space.start <= value < space.start + space.n:
            return (
                f"{name} is {value}, which is not in [{space.start}, {space.start + space.n - 1}]"
            )
        return None
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        dtype, shape = np.dtype(space.dtype), tuple(space.shape or ())
        if not isinstance(value, np.ndarray | np.generic):
            return (
                f"{name} is {_short(value)}, expected an array of dtype {dtype} and shape {shape}"
            )
        if value.shape != shape:
            return f"{name} has shape {value.shape}, expected {shape}"
        if value.dtype != dtype:
            return f"{name} has dtype {value.dtype}, expected {dtype} (nothing is cast silently)"
        return None
    return None if space.contains(value) else f"{name} {_short(value)} is not in the space {space}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def to_plain(space: spaces.Space[Any], value: Any) -> Any:
    """Copy a value into plain Python types, in the form in which ragged columns store it.

    Arrays become flat lists, Dicts and Tuples dictionaries (a Tuple's keys are ``"0"``, ``"1"``,
    ...), Sequences lists, a Graph a dictionary of ``nodes``, ``edges`` and ``edge_links``.
    """
    if isinstance(space, spaces.Text):
        return str(value)
    if isinstance(space, spaces.Discrete):
        return int(value)
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        array = np.asarray(value)
        return array.ravel().tolist() if array.ndim else array.item()
    if isinstance(space, spaces.Dict):
        return {key: to_plain(child, value[key]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return {str(i): to_plain(child, value[i]) for i, child in enumerate(space.spaces)}
    if isinstance(space, spaces.Sequence):
        elements = list(_unstacked(space.feature_space, value)) if space.stack else value
        return [to_plain(space.feature_space, element) for element in elements]
    if isinstance(space, spaces.Graph):
        plain: dict[str, Any] = {
            "nodes": [to_plain(space.node_space, node) for node in value.nodes]
        }
        if space.edge_space is not None:
            # A graph without edges may have None or empty arrays; it comes back as it was.
            edges, links = value.edges, value.edge_links
            plain["edges"] = (
                edges if edges is None else [to_plain(space.edge_space, e) for e in edges]
            )
            plain["edge_links"] = links if links is None else [[int(a), int(b)] for a, b in links]
        return plain
    if isinstance(space, spaces.OneOf):
        index, chosen = int(value[0]), value[1]
        options = {
            str(i): to_plain(child, chosen) if i == index else None
            for i, child in enumerate(space.spaces)
        }
        return {"choice": index, **options}
    raise SpaceError(
        f"spaces of type {type(space).__name__} cannot be recorded; use the spaces of Gymnasium"
    )


def from_plain(space: spaces.Space[Any], plain: Any) -> Any:
    """Turn the plain form of a value (see ``to_plain``) back into a value of the space."""
    if isinstance(space, spaces.Text):
        return plain
    if isinstance(space, spaces.Discrete):
        return np.int64(plain)
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.array(plain, dtype=space.dtype).reshape(space.shape or ())
    if isinstance(space, spaces.Dict):
        return {key: from_plain(child, plain[key]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(from_plain(child, plain[str(i)]) for i, child in enumerate(space.spaces))
    if isinstance(space, spaces.Sequence):
        elements = [from_plain(space.feature_space, element) for element in plain]
        return _stacked(space.feature_space, elements) if space.stack else tuple(elements)
    if isinstance(space, spaces.Graph):
        edges = links = None
        if space.edge_space is not None and plain["edges"] is not None:
            edges = _stacked(
                space.edge_space, [from_plain(space.edge_space, e) for e in plain["edges"]]
            )
        if space.edge_space is not None and plain["edge_links"] is not None:
            links = np.array(plain["edge_links"], dtype=np.int32).reshape(-1, 2)
        nodes = [from_plain(space.node_space, node) for node in plain["nodes"]]
        return spaces.GraphInstance(
            nodes=_stacked(space.node_space, nodes), edges=edges, edge_links=links
        )
    if isinstance(space, spaces.OneOf):
        index = int(plain["choice"])
        return np.int64(index), from_plain(space.spaces[index], plain[str(index)])
    raise SpaceError(f"spaces of type {type(space).__name__} cannot be read")


def _stacked(space: spaces.Space[Any], elements: Sequence[Any]) -> Any:
    """Stack elements as Gymnasium's Sequence(stack=True) and Graph do: arrays on a new axis."""
    if isinstance(space, spaces.Dict):
        return {
            key: _stacked(child, [e[key] for e in elements]) for key, child in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            _stacked(child, [element[i] for element in elements])
            for i, child in enumerate(space.spaces)
        )
    if isinstance(space, spaces.Text | spaces.Sequence | spaces.Graph | spaces.OneOf):
        return tuple(elements)
    return np.array(elements, dtype=space.dtype).reshape(len(elements), *(space.shape or ()))


def _unstacked(space: spaces.Space[Any], stacked: Any) -> Iterator[Any]:
    """Undo ``_stacked``."""
    if isinstance(space, spaces.Dict):
        parts = [list(_unstacked(child, stacked[key])) for key, child in space.spaces.items()]
        for values in zip(*parts, strict=True):
            yield dict(zip(space.spaces, values, strict=True))
    elif isinstance(space, spaces.Tuple):
        parts = [
            list(_unstacked(child, part)) for child, part in zip(space.spaces, stacked, strict=True)
        ]
        yield from zip(*parts, strict=True)
    else:
        yield from stacked
