"""The episode table: a row per episode, a column per property, in episode order.

It is what a run leaves behind for pandas and its like, as ``episodes.parquet``, and what a
directory that is opened again starts from. It is an Arrow table with some comforts: a million
episodes take about 150 MB, and ``write_episode_table`` makes the file of a recorded run without
holding them at all. Arrow is loaded when the first table is made.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from maze.core.episode import EpisodeRow, Failure
from maze.core.errors import MissingExtraError, OutputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

BatchColumns: TypeAlias = Mapping[str, Sequence[Any]]
"""Rows of a batch by column: the attributes of ``EpisodeRow``, and perhaps ``zero_statistics``,
the names of statistics that are 0 for an episode without one, unless it failed."""

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
"""Columns that say how the playing went. All others are the same in a run with equal seeds, but
for the ``output`` in ``failure``."""

_FAILURE_COLUMN = "failure"
_NO_FAILURE = asdict(Failure("construction", 0, "", "", ""))
_FAILURE_FIELDS = tuple(field.name for field in fields(Failure))
_FORMAT_VERSION = 1
_FORMAT_KEY = b"maze.episode_table"

_N_ROWS_IN_GROUP = 16_384
"""Of the file, and so what is in memory when one is written."""
_N_ROWS_AT_ONCE = 4 * _N_ROWS_IN_GROUP
"""Up to which a table is made by going through the batches once."""


class EpisodeTable:
    """Finished episodes by column.

    Columns: ``episode_index``, ``episode_id``, ``env_seed``, ``agent_seed``, ``ending``,
    ``truncated_by``, ``return``, ``n_steps``, ``n_nan``, ``seconds``, ``attempts``, ``digest``,
    ``error``, ``failure`` (null, or where and how the episode failed, with the traceback), then a
    column per episode statistic by name, which is null where the episode has no such number.
    """

    def __init__(self, table: pa.Table) -> None:
        """Use ``from_rows``, ``from_batches``, ``from_arrow`` or ``read_parquet`` to make one.

        Args:
            table: with exactly these columns, ascending by episode index.
        """
        self._table = table

    @classmethod
    def from_rows(cls, rows: Iterable[EpisodeRow]) -> EpisodeTable:
        """Make a table of rows in any order; they are taken in one by one.

        Raises:
            ValueError: If an episode is there twice.
        """
        builder = EpisodeTableBuilder()
        builder.add(rows)
        return builder.build()

    @classmethod
    def from_batches(cls, batches: Sequence[BatchColumns]) -> EpisodeTable:
        """Make the table that ``write_episode_table`` writes."""
        import pyarrow as pa

        schema, groups = _in_groups(batches)
        return cls(pa.concat_tables([schema.empty_table(), *groups]))

    @cached_property
    def episode_indices(self) -> NDArray[np.int64]:
        """The index of each episode, ascending. Some are missing if a run did not finish."""
        return cast("NDArray[np.int64]", self._table.column("episode_index").to_numpy())

    @property
    def statistic_names(self) -> tuple[str, ...]:
        """Names of the columns that hold episode statistics."""
        return tuple(self._table.column_names[len(_FIXED_COLUMNS) + 1 :])

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[EpisodeRow]:
        return _rows(self._table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpisodeTable) and self._is_equal(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"EpisodeTable({len(self)} episodes, {len(self.statistic_names)} statistics)"

    def has_equal_episodes(self, other: EpisodeTable) -> bool:
        """Return whether the same episodes were played, however and wherever that went."""
        return self._is_equal(other, TIMING_COLUMNS, ("output",))

    def __getitem__(self, column: str) -> NDArray[Any] | list[str]:
        """Return a column in episode order; a statistic that an episode has not is NaN there.

        It is a copy, to do with as you like.
        """
        names = [name for name in self._table.column_names if name != _FAILURE_COLUMN]
        if column not in names:
            raise KeyError(f"no column {column!r}.{did_you_mean(column, names)} There are: {names}")
        if column in _FIXED_COLUMNS and _FIXED_COLUMNS[column][1] == "string":
            return cast("list[str]", self._table.column(column).to_pylist())
        return np.array(self._table.column(column).to_numpy())

    def row(self, episode_index: int) -> EpisodeRow:
        """Return the row of an episode.

        Raises:
            KeyError: If the table has no episode of that index.
        """
        position = int(np.searchsorted(self.episode_indices, episode_index))
        if position == len(self) or self.episode_indices[position] != episode_index:
            raise KeyError(f"there is no episode {episode_index} in this table of {len(self)}")
        return next(_rows(self._table.slice(position, 1)))

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table."""
        return self._table

    @classmethod
    def from_arrow(cls, table: pa.Table) -> EpisodeTable:
        """Make a table of what ``to_arrow`` returned, or an earlier version of Maze.

        Raises:
            OutputError: If it is not an episode table, or one of a later version.
        """
        made = cls(_in_form(table))
        if np.any(np.diff(made.episode_indices) <= 0):
            raise OutputError("this is not an episode table: it is not in episode order")
        return made

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame, the same that pandas reads from the file."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise MissingExtraError("pandas", "pandas") from None
        return self._table.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return a polars data frame."""
        try:
            import polars as pl
        except ImportError:
            raise MissingExtraError("polars", "polars") from None
        return cast("pl.DataFrame", pl.from_arrow(self._table))

    def write_parquet(self, path: Path) -> None:
        """Write the table to a file, which exists complete or not at all.

        Raises:
            OutputError: If it cannot be written.
        """
        _write(path, self._table.schema, [self._table])

    @classmethod
    def read_parquet(cls, path: Path) -> EpisodeTable:
        """Read what ``write_parquet`` or ``write_episode_table`` wrote.

        Raises:
            OutputError: If there is no such file, it is damaged, or it is not an episode table.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            _check_seal(path)
            with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
                _in_form(file.schema_arrow.empty_table())  # Says what is wrong with the columns.
                # One after the other: that leaves no holes in memory, of which there would be
                # as much as of data.
                columns = [
                    _read_failures(file)
                    if name == _FAILURE_COLUMN
                    else file.read([name], use_threads=False).column(name)
                    for name in file.schema_arrow.names
                ]
                table = pa.Table.from_arrays(columns, schema=file.schema_arrow)
            table.validate(full=True)
            made = cls.from_arrow(table)
            pa.default_memory_pool().release_unused()
        # A text that is no UTF-8 is a ValueError.
        except (OSError, ValueError, pa.ArrowException, OutputError) as error:
            raise OutputError(f"cannot read the episode table {path}: {error}") from error
        return made

    def _is_equal(
        self,
        other: EpisodeTable,
        ignored_columns: Sequence[str] = (),
        ignored_of_failures: Sequence[str] = (),
    ) -> bool:
        """Compare column by column; a NaN is equal to a NaN, but not to a missing value."""
        import pyarrow.compute as pc

        names = {*self._table.column_names}
        if len(self) != len(other) or names != {*other._table.column_names}:
            return False
        for name in names.difference(ignored_columns):
            one, two = self._table.column(name), other._table.column(name)
            if name == _FAILURE_COLUMN:
                parts = [field for field in _FAILURE_FIELDS if field not in ignored_of_failures]
                if not all(
                    pc.struct_field(one, part).equals(pc.struct_field(two, part)) for part in parts
                ):
                    return False
            elif one.type == "double":
                # To Arrow, NaN differs from itself; to numpy, it is what a null is.
                if not one.is_null().equals(two.is_null()) or not np.array_equal(
                    one.to_numpy(), two.to_numpy(), equal_nan=True
                ):
                    return False
            elif not one.equals(two):
                return False
        return True


def write_episode_table(path: Path, batches: Sequence[BatchColumns]) -> None:
    """Write the file of all episodes of a run without holding their rows in memory.

    Args:
        path: of the file, which exists complete or not at all.
        batches: in the order in which they arrived, each one parsed when it is asked for. Of an
            episode that is there twice, as one that failed and was played again, the later row
            counts.

    Raises:
        OutputError: If the file cannot be written.
        ValueError: If a statistic is named as a fixed column.
    """
    schema, groups = _in_groups(batches)
    _write(path, schema, groups)


def read_failure(values: Mapping[str, Any]) -> Failure:
    """Make a failure of its fields by name, whichever version of Maze has written them."""
    known = {name: value for name in _FAILURE_FIELDS if (value := values.get(name)) is not None}
    return Failure(**{**_NO_FAILURE, **known})


def select_rows(columns: BatchColumns, positions: Sequence[int]) -> BatchColumns:
    """Return some rows of a batch.

    Args:
        columns: of the batch.
        positions: of the rows in the batch, in any order.
    """
    selected: dict[str, Sequence[Any]] = {}
    for name in EpisodeRow._fields:
        column = columns[name]
        selected[name] = [column[position] for position in positions]
    if "zero_statistics" in columns:
        selected["zero_statistics"] = columns["zero_statistics"]
    return selected


class EpisodeTableBuilder:
    """Collects rows as they come, by column, and puts them in order in the end."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {
            name: _Texts() if kind == "string" else array("q" if kind == "int" else "d")
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

    def add_columns(self, columns: BatchColumns) -> None:
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

    def build(self, statistic_names: Iterable[str] | None = None) -> EpisodeTable:
        """Return the table of all episodes added so far.

        Args:
            statistic_names: the statistics to have a column. ``None``: those that were added.

        Raises:
            ValueError: If an episode was added twice, or a statistic is named as a fixed column.
        """
        import pyarrow as pa

        indices = np.array(self._columns["episode_index"], dtype=np.int64)
        order = np.argsort(indices, kind="stable")
        twice = np.flatnonzero(np.diff(indices[order]) == 0)
        if len(twice):
            raise ValueError(f"episode {indices[order][twice[0]]} is there twice")
        schema = _schema(self._statistics if statistic_names is None else statistic_names)
        # In pieces, since the offsets of Arrow's texts are of 32 bits.
        pieces = np.split(order, range(_N_ROWS_IN_GROUP, len(order), _N_ROWS_IN_GROUP))
        columns: list[Any] = [
            self._columns[name].arrow(pieces)
            if kind == "string"
            else _numbers(np.array(self._columns[name])[order])
            for name, (_, kind) in _FIXED_COLUMNS.items()
        ]
        columns.append(self._failure_column(pieces))
        is_failed = np.zeros(len(self), dtype=np.bool_)
        is_failed[list(self._failures)] = True
        for name in schema.names[len(columns) :]:
            arrivals, numbers = self._statistics.get(name, ((), ()))
            values, is_present = np.zeros(len(self)), np.zeros(len(self), dtype=np.bool_)
            if name in self._zero_statistics:
                is_present = ~is_failed
            positions = np.array(arrivals, dtype=np.int64)
            values[positions], is_present[positions] = numbers, True
            columns.append(_numbers(values[order], is_present[order]))
        return EpisodeTable(pa.Table.from_arrays(columns, schema=schema))

    def _failure_column(self, pieces: Sequence[NDArray[np.int64]]) -> pa.ChunkedArray[Any]:
        import pyarrow as pa

        kind = _failure_type()
        nothing = pa.nulls(len(pieces[0]), kind)
        chunks = []
        for piece in pieces:
            failures = [self._failures.get(arrival) for arrival in piece.tolist()]
            if self._failures and any(failures):
                chunks.append(_failure_array(failures))
            else:
                chunks.append(nothing.slice(0, len(piece)))
        return _chunked(chunks, kind)


class _Texts:
    """Texts one behind the other, as UTF-8: as objects, they would take several times as much."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._data = bytearray()
        self._lengths = array("i")
        self.extend(texts)

    def extend(self, texts: Sequence[str]) -> None:
        joined = "".join(texts)
        if joined.isascii():
            self._data += joined.encode()
            self._lengths.extend(map(len, texts))
            return
        # What an exception says may hold half a character, for which UTF-8 has no bytes.
        encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
        self._data += b"".join(encoded)
        self._lengths.extend(map(len, encoded))

    def arrow(self, pieces: Sequence[NDArray[np.int64]]) -> pa.ChunkedArray[Any]:
        """Return the texts of some positions, a chunk for each piece."""
        import pyarrow as pa

        lengths = np.array(self._lengths, dtype=np.int64)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        chunks = []
        for piece in pieces:
            offsets = np.zeros(len(piece) + 1, dtype=np.int32)
            np.cumsum(lengths[piece], out=offsets[1:])
            if not offsets[-1]:
                data = b""
            elif np.array_equal(piece, np.arange(piece[0], piece[0] + len(piece))):
                data = bytes(self._data[starts[piece[0]] : ends[piece[-1]]])
            else:
                bounds = zip(starts[piece].tolist(), ends[piece].tolist(), strict=True)
                data = b"".join([self._data[start:end] for start, end in bounds])
            buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)]
            chunks.append(pa.Array.from_buffers(pa.string(), len(piece), buffers))
        return _chunked(chunks, pa.string())


# Arrow arrays are made from their buffers: ``pyarrow.array`` would import all of pandas.


def _numbers(values: NDArray[Any], is_present: NDArray[np.bool_] | None = None) -> pa.Array[Any]:
    import pyarrow as pa

    kind = pa.float64() if values.dtype == np.float64 else pa.int64()
    validity = None if is_present is None else _bitmap(is_present)
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values.tobytes())])


def _bitmap(flags: NDArray[np.bool_]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(flags, bitorder="little").tobytes())


def _failure_array(failures: Sequence[Failure | None]) -> pa.Array[Any]:
    import pyarrow as pa

    n = len(failures)
    is_present = np.array([failure is not None for failure in failures], dtype=np.bool_)
    by_row = [_NO_FAILURE if failure is None else vars(failure) for failure in failures]
    children: list[pa.Array[Any]] = []
    for name, default in _NO_FAILURE.items():
        values = [fields_of_row[name] for fields_of_row in by_row]
        if isinstance(default, str):
            column: Any = _Texts(values).arrow([np.arange(n)])
            children.append(column.chunk(0))
        elif isinstance(default, bool):
            bits = _bitmap(np.array(values, dtype=np.bool_))
            children.append(pa.Array.from_buffers(pa.bool_(), n, [None, bits]))
        else:
            children.append(_numbers(np.array(values, dtype=np.int64)))
    return pa.Array.from_buffers(_failure_type(), n, [_bitmap(is_present)], children=children)


def _chunked(chunks: list[pa.Array[Any]], kind: Any) -> pa.ChunkedArray[Any]:
    import pyarrow as pa

    chunked: pa.ChunkedArray[Any] = pa.chunked_array(chunks, kind)
    return chunked


def _failure_type() -> pa.StructType:
    import pyarrow as pa

    kinds: dict[type, pa.DataType] = {str: pa.string(), bool: pa.bool_(), int: pa.int64()}
    return pa.struct([(name, kinds[type(default)]) for name, default in _NO_FAILURE.items()])


def _schema(statistic_names: Iterable[str]) -> pa.Schema:
    import pyarrow as pa

    kinds: dict[_Kind, pa.DataType] = {
        "int": pa.int64(),
        "float": pa.float64(),
        "string": pa.string(),
    }
    columns = [(name, kinds[kind]) for name, (_, kind) in _FIXED_COLUMNS.items()]
    columns.append((_FAILURE_COLUMN, _failure_type()))
    taken = dict(columns)
    for name in sorted(statistic_names):
        if name in taken:
            raise ValueError(f"a statistic cannot be named '{name}', as another column is")
        columns.append((name, pa.float64()))
    return pa.schema(columns, metadata={_FORMAT_KEY: str(_FORMAT_VERSION)})


def _in_form(table: pa.Table) -> pa.Table:
    """Bring the columns into today's order and types; raise ``OutputError`` if that cannot be."""
    import pyarrow as pa

    names = table.column_names
    missing = [name for name in _FIXED_COLUMNS if name not in names]
    if missing:
        raise OutputError(f"this is not an episode table: it has no column '{missing[0]}'")
    if len(names) > len(set(names)):
        raise OutputError("this is not an episode table: it has two columns of the same name")
    version = (table.schema.metadata or {}).get(_FORMAT_KEY, b"1")
    if not version.isdigit() or int(version) > _FORMAT_VERSION:
        raise OutputError(
            f"the episode table has format {version.decode(errors='replace')}, and this version of"
            f" Maze reads up to {_FORMAT_VERSION}: use a newer Maze"
        )
    statistics = [name for name in names if name not in (*_FIXED_COLUMNS, _FAILURE_COLUMN)]
    # Their order is kept, as it is sorted already.
    schema = _schema(statistics)
    columns = []
    for field in schema:
        if field.name == _FAILURE_COLUMN:
            columns.append(_failures_in_form(table, field.type))
            continue
        column = table.column(field.name)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowException as error:
                raise OutputError(
                    f"this is not an episode table: column '{field.name}' has the type"
                    f" {column.type}, expected {field.type}"
                ) from error
        if column.null_count and field.name in _FIXED_COLUMNS:
            raise OutputError(f"this is not an episode table: '{field.name}' has empty cells")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _failures_in_form(table: pa.Table, kind: pa.StructType) -> pa.ChunkedArray[Any]:
    import pyarrow as pa

    if _FAILURE_COLUMN not in table.column_names:
        return _chunked([pa.nulls(len(table), kind)], kind)
    column = table.column(_FAILURE_COLUMN)
    if column.type == kind:
        return column
    if not pa.types.is_struct(column.type):
        raise OutputError(
            f"this is not an episode table: column '{_FAILURE_COLUMN}' has the type {column.type}"
        )
    failures = [None if values is None else read_failure(values) for values in column.to_pylist()]
    return _chunked([_failure_array(failures)], kind)


def _read_failures(file: pq.ParquetFile) -> pa.ChunkedArray[Any]:
    """Read them by groups of rows: those without any share one array of nulls."""
    import pyarrow as pa

    kind = file.schema_arrow.field(_FAILURE_COLUMN).type
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    # Nulls take as much as the values of a fixed size that they have not: 30 bytes a row.
    nothing: pa.Array[Any] = pa.nulls(max(sizes, default=0), kind)
    chunks = []
    for group, size in enumerate(sizes):
        part = file.read_row_group(group, [_FAILURE_COLUMN], use_threads=False)
        column = part.column(_FAILURE_COLUMN)
        is_needed = column.null_count < size
        chunks += column.chunks if is_needed else [nothing.slice(0, size)]
    return _chunked(chunks, kind)


def _rows(table: pa.Table) -> Iterator[EpisodeRow]:
    names = table.column_names
    attributes = {name: attribute for name, (attribute, _) in _FIXED_COLUMNS.items()}
    n_others = len(_FIXED_COLUMNS) + 1
    for batch in table.to_batches(max_chunksize=4096):
        columns = [column.to_pylist() for column in batch.columns]
        by_attribute = {
            attributes[name]: column
            for name, column in zip(names, columns, strict=False)
            if name in attributes
        }
        by_attribute["failure"] = [
            None if failure is None else read_failure(failure)
            for failure in columns[len(_FIXED_COLUMNS)]
        ]
        statistics = columns[n_others:]
        by_attribute["statistics"] = [
            {
                name: column[position]
                for name, column in zip(names[n_others:], statistics, strict=True)
                if column[position] is not None
            }
            for position in range(batch.num_rows)
        ]
        in_order = [by_attribute[attribute] for attribute in EpisodeRow._fields]
        yield from map(EpisodeRow._make, zip(*in_order, strict=True))


# Of a sequence of batches.


class _Batches:
    """Batches that were parsed lately, so that one is not parsed again for each of its rows."""

    def __init__(self, batches: Sequence[BatchColumns]) -> None:
        self._batches = batches
        self._kept: dict[int, BatchColumns] = {}
        self._n_rows_kept = 0

    def __getitem__(self, number: int) -> BatchColumns:
        columns = self._kept.pop(number, None)
        if columns is None:
            columns = self._batches[number]
            self._n_rows_kept += len(columns["episode_index"])
        self._kept[number] = columns  # At the end: the first is the one not asked for longest.
        while self._n_rows_kept > _N_ROWS_IN_GROUP and len(self._kept) > 1:
            dropped = self._kept.pop(next(iter(self._kept)))
            self._n_rows_kept -= len(dropped["episode_index"])
        return columns

    def rows(
        self, firsts: NDArray[np.int64], arrivals: NDArray[np.int64]
    ) -> Iterator[BatchColumns]:
        """Yield the columns of some rows.

        Args:
            firsts: the arrival number of each batch's first row.
            arrivals: ascending arrival numbers of the rows.
        """
        numbers = np.searchsorted(firsts, arrivals, side="right") - 1
        positions = (arrivals - firsts[numbers]).tolist()
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for start, end in pairwise([*starts, len(arrivals)]):
            columns = self[int(numbers[start])]
            if end - start < len(columns["episode_index"]):
                columns = select_rows(columns, positions[start:end])
            yield columns


def _in_groups(batches: Sequence[BatchColumns]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Return the schema of a table of all rows, and the table in pieces."""
    parsed = _Batches(batches)
    indices, sizes = array("q"), array("q")
    name_counts: Counter[str] = Counter()
    zero_statistics: set[str] = set()
    at_once: EpisodeTableBuilder | None = EpisodeTableBuilder()
    for number in range(len(batches)):
        columns = parsed[number]
        if at_once is not None:
            at_once.add_columns(columns)
            if len(at_once) > _N_ROWS_AT_ONCE:
                at_once = None
        indices.extend(columns["episode_index"])
        sizes.append(len(columns["episode_index"]))
        name_counts.update(chain.from_iterable(columns["statistics"]))
        zero_statistics.update(columns.get("zero_statistics", ()))
    firsts = np.cumsum(np.array(sizes, dtype=np.int64)) - np.array(sizes, dtype=np.int64)
    by_arrival = np.array(indices, dtype=np.int64)
    order = np.argsort(by_arrival, kind="stable")
    is_last = np.ones(len(order), dtype=np.bool_)
    is_last[:-1] = np.diff(by_arrival[order]) > 0
    if at_once is not None and is_last.all():
        table = at_once.build().to_arrow()
        return table.schema, iter([table])
    # What only rows have that do not count is no column of the table.
    for columns in parsed.rows(firsts, np.sort(order[~is_last])):
        name_counts.subtract(chain.from_iterable(columns["statistics"]))
    names = [name for name, n in name_counts.items() if n > 0]
    order = order[is_last]

    def groups() -> Iterator[pa.Table]:
        for start in range(0, len(order), _N_ROWS_IN_GROUP):
            builder = EpisodeTableBuilder()
            builder.add((), zero_statistics)
            for columns in parsed.rows(firsts, np.sort(order[start : start + _N_ROWS_IN_GROUP])):
                builder.add_columns(columns)
            yield builder.build(names).to_arrow()

    return _schema(names), groups()


# The file.

_SEAL = b"MAZExxh3"
"""Before the footer, with a hash of all the rest. Readers of Parquet do not look there. The pages'
own checksums do not cover the footer, where a flipped bit may rename a column or skip its pages."""


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables one after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f"{path.name}.writing")
    is_written = False
    try:
        with temporary.open("w+b") as file:
            # The defaults take ten times the table's size in memory for a while.
            with pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                use_dictionary=["ending", "truncated_by", "error"],  # type: ignore[arg-type]
                data_page_size=64 * 1024,
                write_page_checksum=True,
            ) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=_N_ROWS_IN_GROUP)
            _seal(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        is_written = True
    except OSError as error:
        raise OutputError(f"cannot write the episode table {path}: {error}") from error
    finally:
        if not is_written:
            with suppress(OSError):
                temporary.unlink()
        pa.default_memory_pool().release_unused()


def _seal(file: BinaryIO) -> None:
    footer_start = _footer_start(file)
    file.seek(footer_start)
    footer = file.read()
    digest = _digest(file, footer_start, footer)
    file.seek(footer_start)
    file.write(_SEAL + digest + footer)


def _check_seal(path: Path) -> None:
    """Raise ``OutputError`` if the file is not what was written."""
    with path.open("rb") as file:
        footer_start = _footer_start(file)
        seal_start = footer_start - len(_SEAL) - 16
        if seal_start < 0:
            return  # It is no Parquet file, which its reader will say.
        file.seek(seal_start)
        seal, footer = file.read(footer_start - seal_start), file.read()
        # Files of other writers have none.
        if seal.startswith(_SEAL) and seal != _SEAL + _digest(file, seal_start, footer):
            raise OutputError("it is damaged: its checksum is wrong")


def _footer_start(file: BinaryIO) -> int:
    """Return where a Parquet file's footer begins; its length is the last number but the mark."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 8, 0))
    return end - 8 - int.from_bytes(file.read(4), "little")


def _digest(file: BinaryIO, end: int, footer: bytes) -> bytes:
    """Hash a file up to some position, and then the footer."""
    from xxhash import xxh3_128

    file.seek(0)
    hashed = xxh3_128()
    while block := file.read(min(1 << 20, end - file.tell())):
        hashed.update(block)
    hashed.update(footer)
    return hashed.digest()
