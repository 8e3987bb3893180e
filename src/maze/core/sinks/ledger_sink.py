"""The ledger of a run: what was asked for, and a row for every episode that was finished.

Rows are appended to ``journal.jsonl`` as they come, one line a batch, after the batch's data was
written by the other sinks. So whatever the journal lists is there. At the end the episode table
is made from the journal; the rows themselves are not held in memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from maze.core.episode import EpisodeBatch, EpisodeRow, Failure
from maze.core.episode_table import EpisodeTable, EpisodeTableBuilder
from maze.core.errors import OutputError
from maze.core.sinks.sink import Sink

CONFIG_FILE = "config.yaml"
JOURNAL_FILE = "journal.jsonl"
EPISODES_FILE = "episodes.parquet"
STATISTICS_FILE = "statistics.json"


class LedgerSink(Sink):
    """Writes ``config.yaml``, ``journal.jsonl``, ``episodes.parquet`` and ``statistics.json``.

    Without a directory it keeps the rows in memory instead.
    """

    def __init__(
        self, directory: Path | None, config: Mapping[str, Any], command: str = ""
    ) -> None:
        self._directory = directory
        self._config = config
        self._command = command
        self._journal: TextIO | None = None
        self._rows = EpisodeTableBuilder()
        self._table: EpisodeTable | None = None

    def open(self) -> None:
        """Take the directory into use. Raises ``OutputError`` if it holds a run already."""
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._journal = (self._directory / JOURNAL_FILE).open("x", encoding="utf-8")
            _write_config(self._directory / CONFIG_FILE, self._config, self._command)
        except FileExistsError:
            if not self._directory.is_dir():
                raise OutputError(f"cannot write into {self._directory}: it is a file") from None
            raise OutputError(
                f"{self._directory} holds a run already. Choose another directory"
                " (hydra.run.dir=... or output_dir=...)"
            ) from None
        except OSError as error:
            raise OutputError(
                f"cannot write into {self._directory}: {error.strerror or error}. Choose another"
                " directory (hydra.run.dir=... or output_dir=...)"
            ) from error

    def write(self, batch: EpisodeBatch) -> None:
        """Append the rows."""
        if self._journal is None:
            self._rows.add(batch.rows, batch.zero_statistics)
            return
        if batch.rows:
            self._journal.write(_journal_line(batch) + "\n")
            self._journal.flush()

    def close(self) -> None:
        """Make the episode table."""
        if self._journal is not None and self._directory is not None:
            self._journal.close()
            for columns in read_journal(self._directory / JOURNAL_FILE):
                self._rows.add_columns(columns)
            self._table = self._rows.build()
            self._table.write_parquet(self._directory / EPISODES_FILE)
        else:
            self._table = self._rows.build()

    def episode_table(self) -> EpisodeTable:
        """Return the table of all finished episodes; to be called after ``close``."""
        assert self._table is not None, "the ledger is not closed yet"
        return self._table

    def write_statistics(self, statistics: Mapping[str, Any]) -> None:
        """Write ``statistics.json``, the last file of a run."""
        if self._directory is not None:
            path = self._directory / STATISTICS_FILE
            write_atomically(path, json.dumps(statistics, indent=2, allow_nan=False) + "\n")


def read_journal(path: Path) -> Iterator[dict[str, Sequence[Any]]]:
    """Yield each batch of a journal by column: the attributes of ``EpisodeRow``.

    A last line that was not finished is left out.
    """
    with path.open(encoding="utf-8") as journal:
        for line in journal:
            if not line.endswith("\n"):
                return
            columns = json.loads(line)
            n_rows = len(columns["episode_index"])
            for name, column in columns.items():
                if isinstance(column, dict):
                    columns[name] = [column["all"]] * n_rows
            if columns.pop("has_odd_numbers", False):
                for name in ("episode_return", "seconds"):
                    columns[name] = [float(value) for value in columns[name]]
                columns["statistics"] = [
                    {name: float(value) for name, value in statistics.items()}
                    for statistics in columns["statistics"]
                ]
            columns["failure"] = [
                None if failure is None else Failure(**failure) for failure in columns["failure"]
            ]
            yield columns


def _journal_line(batch: EpisodeBatch) -> str:
    """Return the rows as JSON: a list for each column, or ``{"all": value}`` if all are equal."""
    by_column = zip(*batch.rows, strict=True)
    columns: dict[str, Any] = dict(zip(EpisodeRow._fields, by_column, strict=True))
    if batch.zero_statistics:
        columns["zero_statistics"] = sorted(batch.zero_statistics)
    if any(columns["failure"]):
        columns["failure"] = [
            None if failure is None else asdict(failure) for failure in columns["failure"]
        ]
    # Most columns say the same of all: they are terminated, started once, and nothing was wrong.
    for name in EpisodeRow._fields:
        first = columns[name][0]
        if len(batch.rows) > 1 and columns[name].count(first) == len(batch.rows):
            columns[name] = {"all": first}
    try:
        return json.dumps(columns, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinities: they become strings, and the line says that it has
        # such, so that others need not be looked through when they are read.
        return json.dumps({"has_odd_numbers": True, **_without_odd_numbers(columns)})


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _without_odd_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_odd_numbers(item) for item in value]
    return value


def _write_config(path: Path, config: Mapping[str, Any], command: str) -> None:
    import yaml

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(path, (f"# {' '.join(command.split())}\n" if command else "") + text)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either there as a whole or not at all."""
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
