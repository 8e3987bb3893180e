"""The episode table: a row per episode, a column per property, in episode order.

It is what a run leaves behind for pandas and its like, as ``episodes.parquet``, and what a
directory that is opened again starts from. It is kept by column, which takes a fraction of the
memory of rows; Arrow is loaded only for files and data frames.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from maze.core.episode import EpisodeRow, Failure
from maze.core.errors import MissingExtraError, OutputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_Kind: TypeAlias = Literal["int", "float", "string"]

# Column name to the row's attribute and the kind of value.
_FIXED_COLUMNS: Mapping[str, tuple[str, _Kind]] = {
    "episode_index": ("episode_index", "int"),
    "episode_id": ("episode_id", "string"),
    "env_seed": ("env_seed", "int"),
    "agent_seed": ("agent_seed", "int"),
    "ending": ("ending", "string"),
    "truncated_by": ("truncated_by", "string"),
    "return": ("episode_return", "float"),
    "n_steps": ("n_steps", "int"),
    "n_nan": ("n_nan", "int"),
    "seconds": ("seconds", "float"),
    "attempts": ("attempts", "int"),
    "digest": ("digest", "string"),
    "error": ("error", "string"),
}

TIMING_COLUMNS = ("seconds", "attempts")
"""Columns that say how the playing went. All others are the same in a run with equal seeds."""

_FAILURE_COLUMN = "failure"
_NO_FAILURE = Failure("construction", 0, "", "", "")
_FORMAT_VERSION = 1
_FORMAT_KEY = b"maze.episode_table"


class EpisodeTable:
    """Finished episodes by column.

    Columns: ``episode_index``, ``episode_id``, ``env_seed``, ``agent_seed``, ``ending``,
    ``truncated_by``, ``return``, ``n_steps``, ``n_nan``, ``seconds``, ``attempts``, ``digest``,
    ``error``, ``failure`` (null, or where and how the episode failed, with the traceback), then a
    column per episode statistic by name, which is null where the episode has no such number.
    """

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any] | list[str]],
        statistics: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]],
        failures: Mapping[int, Failure],
    ) -> None:
        """Use ``from_rows``, ``read_parquet`` or ``EpisodeTableBuilder`` to make one.

        Args:
            columns: the fixed columns, in episode order.
            statistics: by name, each episode's value and whether it has one.
            failures: by position in the table.
        """
        self._columns = columns
        self._statistics = statistics
        self._failures = failures

    @classmethod
    def from_rows(cls, rows: Iterable[EpisodeRow]) -> EpisodeTable:
        """Make a table of rows in any order; they are taken in one by one."""
        builder = EpisodeTableBuilder()
        builder.add(rows)
        return builder.build()

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """The index of each episode, ascending. Some are missing if a run did not finish."""
        return cast("NDArray[np.int64]", self._columns["episode_index"])

    @property
    def statistic_names(self) -> tuple[str, ...]:
        """Names of the columns that hold episode statistics."""
        return tuple(self._statistics)

    def __len__(self) -> int:
        return len(self.episode_indices)

    def __iter__(self) -> Iterator[EpisodeRow]:
        return (self._row_at(position) for position in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpisodeTable) and self._is_equal(other, ignored=())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"EpisodeTable({len(self)} episodes, {len(self._statistics)} statistics)"

    def has_equal_episodes(self, other: EpisodeTable) -> bool:
        """Return whether the same episodes were played, however long that took."""
        return self._is_equal(other, ignored=TIMING_COLUMNS)

    def __getitem__(self, column: str) -> NDArray[Any] | list[str]:
        """Return a column in episode order; a statistic that an episode has not is NaN there."""
        if column in self._columns:
            return self._columns[column]
        if column in self._statistics:
            values, is_present = self._statistics[column]
            return np.where(is_present, values, np.nan)
        names = [*self._columns, *self._statistics]
        raise KeyError(f"no column {column!r}.{did_you_mean(column, names)} There are: {names}")

    def row(self, episode_index: int) -> EpisodeRow:
        """Return the row of an episode.

        Raises:
            KeyError: If the table has no episode of that index.
        """
        position = int(np.searchsorted(self.episode_indices, episode_index))
        if position == len(self) or self.episode_indices[position] != episode_index:
            raise KeyError(f"there is no episode {episode_index} in this table of {len(self)}")
        return self._row_at(position)

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table."""
        import pyarrow as pa

        arrays: dict[str, pa.Array[Any]] = {
            name: _arrow_array(self._columns[name]) for name in _FIXED_COLUMNS
        }
        arrays[_FAILURE_COLUMN] = self._failure_array()
        for name, (values, is_present) in self._statistics.items():
            arrays[name] = _arrow_array(values, is_present)
        table = pa.Table.from_arrays(list(arrays.values()), names=list(arrays))
        return table.replace_schema_metadata({_FORMAT_KEY: str(_FORMAT_VERSION)})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> EpisodeTable:
        """Make a table of what ``to_arrow`` returned.

        Raises:
            OutputError: If it is not an episode table, or one of a later version.
        """
        missing = [name for name in _FIXED_COLUMNS if name not in table.column_names]
        if missing:
            raise OutputError(f"this is not an episode table: it has no column '{missing[0]}'")
        version = int((table.schema.metadata or {}).get(_FORMAT_KEY, _FORMAT_VERSION))
        if version > _FORMAT_VERSION:
            raise OutputError(
                f"the episode table has format {version}, and this version of Maze reads up to"
                f" {_FORMAT_VERSION}: use a newer Maze"
            )
        columns: dict[str, NDArray[Any] | list[str]] = {}
        statistics = {}
        failures: dict[int, Failure] = {}
        for name in table.column_names:
            column = table.column(name)
            if name == _FAILURE_COLUMN:
                failures = {
                    position: Failure(**failure)
                    for position, failure in enumerate(column.to_pylist())
                    if failure is not None
                }
            elif name not in _FIXED_COLUMNS:
                # Nulls come out as NaN, which a value may be as well: hence both.
                statistics[name] = (column.to_numpy(), column.is_valid().to_numpy())
            elif _FIXED_COLUMNS[name][1] == "string":
                columns[name] = cast("list[str]", column.to_pylist())
            else:
                columns[name] = column.to_numpy()
        return cls(columns, statistics, failures)

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame, the same that pandas reads from the file."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise MissingExtraError("pandas", "pandas") from None
        return self.to_arrow().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return a polars data frame."""
        try:
            import polars as pl
        except ImportError:
            raise MissingExtraError("polars", "polars") from None
        return cast("pl.DataFrame", pl.from_arrow(self.to_arrow()))

    def write_parquet(self, path: Path) -> None:
        """Write the table to a file, which exists complete or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            # The defaults take ten times the table's size in memory for a while.
            pq.write_table(
                self.to_arrow(),
                temporary,
                compression="zstd",
                use_dictionary=["ending", "truncated_by", "error"],  # type: ignore[arg-type]
                data_page_size=64 * 1024,
            )
            pa.default_memory_pool().release_unused()
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"cannot write the episode table {path}: {error}") from error

    @classmethod
    def read_parquet(cls, path: Path) -> EpisodeTable:
        """Read what ``write_parquet`` wrote.

        Raises:
            OutputError: If there is no such file, or it is not an episode table.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"cannot read the episode table {path}: {error}") from error
        return cls.from_arrow(table)

    def _is_equal(self, other: EpisodeTable, ignored: Sequence[str]) -> bool:
        """Compare column by column; a NaN is equal to a NaN, but not to a missing value."""
        return (
            self._failures == other._failures
            and self._statistics.keys() == other._statistics.keys()
            and all(
                _are_equal(self._columns[name], other._columns[name])
                for name in _FIXED_COLUMNS
                if name not in ignored
            )
            and all(
                _are_equal(is_present, other._statistics[name][1])
                and _are_equal(values[is_present], other._statistics[name][0][is_present])
                for name, (values, is_present) in self._statistics.items()
            )
        )

    def _failure_array(self) -> pa.Array[Any]:
        import pyarrow as pa

        is_present = np.zeros(len(self), dtype=np.bool_)
        is_present[list(self._failures)] = True
        children = []
        for field in fields(Failure):
            kind = type(getattr(_NO_FAILURE, field.name))
            of_each = [
                getattr(self._failures.get(position, _NO_FAILURE), field.name)
                for position in range(len(self))
            ]
            children.append(_arrow_array(of_each if kind is str else np.array(of_each, dtype=kind)))
        struct = pa.struct(
            [
                (field.name, child.type)
                for field, child in zip(fields(Failure), children, strict=True)
            ]
        )
        return pa.Array.from_buffers(struct, len(self), [_bitmap(is_present)], children=children)

    def _row_at(self, position: int) -> EpisodeRow:
        values: dict[str, Any] = {}
        for name, (attribute, kind) in _FIXED_COLUMNS.items():
            value = self._columns[name][position]
            values[attribute] = value if kind == "string" else value.item()  # type: ignore[union-attr]
        statistics = {
            name: float(numbers[position])
            for name, (numbers, is_present) in self._statistics.items()
            if is_present[position]
        }
        return EpisodeRow(**values, failure=self._failures.get(position), statistics=statistics)


def _arrow_array(
    values: NDArray[Any] | list[str], is_present: NDArray[np.bool_] | None = None
) -> pa.Array[Any]:
    """Make an Arrow array from its buffers: ``pyarrow.array`` would import all of pandas."""
    import pyarrow as pa

    validity = None if is_present is None else _bitmap(is_present)
    if isinstance(values, list):
        # What an exception says may hold half a character, for which UTF-8 has no bytes.
        texts = [text.encode("utf-8", "backslashreplace") for text in values] if any(values) else []
        offsets = np.zeros(len(values) + 1, dtype=np.int32)
        if texts:
            np.cumsum([len(text) for text in texts], out=offsets[1:])
        buffers = [validity, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.string(), len(values), buffers)
    if values.dtype == np.bool_:
        bits = _bitmap(values)
        return pa.Array.from_buffers(pa.bool_(), len(values), [validity, bits])
    kind = pa.float64() if values.dtype == np.float64 else pa.int64()
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values.tobytes())])


def _bitmap(flags: NDArray[np.bool_]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(flags, bitorder="little").tobytes())


def _are_equal(one: NDArray[Any] | list[str], other: NDArray[Any] | list[str]) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        return one == other
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


class EpisodeTableBuilder:
    """Collects rows as they come, by column, and puts them in order in the end."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {
            name: [] if kind == "string" else array("q" if kind == "int" else "d")
            for name, (_, kind) in _FIXED_COLUMNS.items()
        }
        # By name, the arrival numbers of the episodes that have the statistic, and their values.
        self._statistics: dict[str, tuple[array[int], array[float]]] = {}
        self._failures: dict[int, Failure] = {}
        self._zero_statistics: set[str] = set()

    def __len__(self) -> int:
        return len(self._columns["episode_index"])

    def add(self, rows: Iterable[EpisodeRow], zero_statistics: Iterable[str] = ()) -> None:
        """Take in episodes.

        Args:
            rows: of the episodes.
            zero_statistics: names of statistics that are 0 for an episode without one, unless it
                failed.
        """
        self._zero_statistics.update(zero_statistics)
        rows = tuple(rows)
        if rows:
            self.add_columns(dict(zip(EpisodeRow._fields, zip(*rows, strict=True), strict=True)))

    def add_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take in episodes by column: the attributes of ``EpisodeRow``."""
        first = len(self)
        self._zero_statistics.update(columns.get("zero_statistics", ()))
        for name, (attribute, _) in _FIXED_COLUMNS.items():
            self._columns[name].extend(columns[attribute])
        for arrival, statistics in enumerate(columns["statistics"], first):
            for name, value in statistics.items():
                if name not in self._statistics:
                    self._statistics[name] = (array("q"), array("d"))
                arrivals, values = self._statistics[name]
                arrivals.append(arrival)
                values.append(value)
        for arrival, failure in enumerate(columns["failure"], first):
            if failure is not None:
                self._failures[arrival] = failure

    def build(self) -> EpisodeTable:
        """Return the table of all episodes added so far.

        Raises:
            ValueError: If an episode was added twice, or a statistic is named as a fixed column.
        """
        indices = np.array(self._columns["episode_index"], dtype=np.int64)
        order = np.argsort(indices, kind="stable")
        arrivals_in_order = order.tolist()
        twice = np.flatnonzero(np.diff(indices[order]) == 0)
        if len(twice):
            raise ValueError(f"episode {indices[order][twice[0]]} is there twice")
        columns: dict[str, NDArray[Any] | list[str]] = {}
        for name, (_, kind) in _FIXED_COLUMNS.items():
            if kind == "string":
                columns[name] = list(map(self._columns[name].__getitem__, arrivals_in_order))
            else:
                columns[name] = np.array(self._columns[name])[order]
        statistics = {}
        for name in sorted(self._statistics):
            if name in _FIXED_COLUMNS or name == _FAILURE_COLUMN:
                raise ValueError(f"a statistic cannot be named '{name}', as another column is")
            arrivals, values = self._statistics[name]
            by_arrival, is_present = np.zeros(len(self)), np.zeros(len(self), dtype=np.bool_)
            by_arrival[arrivals], is_present[arrivals] = values, True
            if name in self._zero_statistics:
                is_present[[arrival not in self._failures for arrival in range(len(self))]] = True
            statistics[name] = (by_arrival[order], is_present[order])
        failures = {
            position: self._failures[arrival]
            for position, arrival in enumerate(arrivals_in_order)
            if arrival in self._failures
        }
        return EpisodeTable(columns, statistics, failures)
