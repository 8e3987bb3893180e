"""Opens the output directory of a run: what was asked, what came out, and every trajectory.

Opening a directory reads data. It never imports what a config names, and never unpickles.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maze.core.episode import EpisodeRow
from maze.core.episode_table import EpisodeTable
from maze.core.errors import MissingExtraError, OutputError, did_you_mean
from maze.core.events.event import Reward
from maze.core.ledger.check import (
    REWRITING_FILE,
    DamagedError,
    PieceFile,
    current_path,
    settle_layout,
)
from maze.core.ledger.data_files import event_file_name, layouts_of
from maze.core.ledger.event_logs import EventLogs, LoggedEvent, unescaped
from maze.core.ledger.journal import (
    EPISODES_FILE,
    EVENT_FOLDER,
    JOURNAL_FILE,
    STATISTICS_FILE,
    Journal,
)
from maze.core.sinks.ledger_sink import CONFIG_FILE, file_checksum
from maze.core.trajectory.digest import recorded_digest_in
from maze.core.trajectory.trajectory import StepsStream, Trajectory, open_streams, read_trajectory

_LARGEST_CONFIG = 10**8
"""Characters."""
_VALUES_A_CHARACTER = 4
"""Without references to what stands elsewhere in the file, there is less than one."""

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class RunDirectory:
    """A recorded run.

    Args:
        path: the output directory.

    Raises:
        OutputError: If it holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / JOURNAL_FILE).exists() and not (self.path / EPISODES_FILE).exists():
            hint = "" if self.path.is_dir() else " (there is no such directory)"
            raise OutputError(
                f"{self.path} holds no run of Maze{hint}: expected {JOURNAL_FILE} or"
                f" {EPISODES_FILE} in it"
            )

    @cached_property
    def journal(self) -> Journal | None:
        """What makes the episodes count; ``None`` if the file is missing."""
        path = current_path(self.path, JOURNAL_FILE)
        return Journal(path) if path.exists() else None

    @cached_property
    def table(self) -> EpisodeTable:
        """The episode table. While the run goes on, of the episodes finished by now."""
        journal, path = self.journal, self.path / EPISODES_FILE
        if journal is None:
            return EpisodeTable.read_parquet(path)
        is_outdated = (self.path / REWRITING_FILE).exists()
        if path.exists() and not is_outdated and self._is_as_written(EPISODES_FILE):
            try:
                table = EpisodeTable.read_parquet(path)
                # A journal that was cut off or damaged knows less.
                if np.isin(journal.episode_indices(), table.episode_indices).all():
                    return table
            except OutputError as error:
                warn(f"{error}; the journal is used in its place")
        try:
            return EpisodeTable.from_batches(journal.batches)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise OutputError(f"{journal.path} cannot be understood: {error}") from error

    def _is_as_written(self, name: str) -> bool:
        """Return whether a file has the checksum that it was given at the end of the run."""
        if self.journal is None or self.journal.finished is None:
            return True  # Nobody knows.
        checksums = self.journal.finished.get("checksums")
        checksum = checksums.get(name) if isinstance(checksums, dict) else None
        if checksum is None or checksum == file_checksum(self.path / name):
            return True
        warn(f"{self.path / name} is damaged: it does not fit its checksum")
        return False

    @property
    def episodes(self) -> pd.DataFrame | pl.DataFrame:
        """The episode table as a pandas data frame, or as a polars one without pandas."""
        try:
            return self.table.to_pandas()
        except MissingExtraError:
            try:
                return self.table.to_polars()
            except MissingExtraError:
                raise MissingExtraError("pandas", "pandas") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the run, as ``config.yaml`` shows it."""
        if self.journal is not None and self.journal.config:
            return self.journal.config
        return read_config(self.path / CONFIG_FILE)

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """The content of ``statistics.json``; empty while the run goes on."""
        path = self.path / STATISTICS_FILE
        if not path.exists():
            return {}
        try:
            statistics = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise OutputError(f"{path} cannot be read: {error}") from error
        return statistics if isinstance(statistics, dict) else {}

    @property
    def event_types(self) -> list[str]:
        """Names of the event types that were logged."""
        return sorted(path.stem for path in (self.path / EVENT_FOLDER).glob("*.tsv"))

    def events(self, event_type: str) -> pd.DataFrame:
        """Return the log of one event type: ``episode_id``, ``env_time`` and its attributes."""
        if event_type not in self.event_types:
            known = self.event_types
            raise OutputError(
                f"no events of type {event_type!r} were logged in {self.path}."
                f"{did_you_mean(event_type, known)} There are: {', '.join(known) or 'none'}"
            )
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError("pandas", "pandas") from None
        table = pd.read_csv(
            self.event_file(event_type),
            sep="\t",
            quoting=3,  # Nothing is quoted: tabs and newlines in text are escaped.
            dtype={"episode_id": str},
            keep_default_na=False,
            na_values=["nan"],
        )
        for name in table.columns:
            if pd.api.types.is_string_dtype(table[name]):
                table[name] = table[name].map(
                    lambda value: unescaped(value) if isinstance(value, str) else value
                )
        return table

    @cached_property
    def _event_logs(self) -> EventLogs:
        return EventLogs(self.path, self.journal)

    def events_of(self, episode_index: int) -> list[LoggedEvent]:
        """Return the logged events of an episode by time, without those of type ``Reward``.

        Raises:
            OutputError: If there is no such episode, or a log is damaged where its events stand.
        """
        try:
            row = self.table.row(episode_index)
        except KeyError as error:
            raise OutputError(f"{error.args[0]} ({self.path})") from None
        events = self._event_logs.of_episode(episode_index, row.episode_id)
        return [event for event in events if event.event_type != Reward.__name__]

    def event_lines_of(self, episode_index: int) -> dict[str, tuple[tuple[str, ...], list[str]]]:
        """Return the lines of an episode in each event log as they stand there.

        Returns:
            By event type: the names of its attributes, and its lines, without their newlines.

        Raises:
            OutputError: If there is no such episode, or a log is damaged where its events stand.
        """
        return self._event_logs.lines_of_episode(
            episode_index, self.table.row(episode_index).episode_id
        )

    def event_file(self, event_type: str) -> Path | io.BytesIO:
        """Return the file of an event log, or what of it is not damaged."""
        name = event_file_name(event_type)
        path = current_path(self.path, name)
        layout, places = ({} if self.journal is None else layouts_of(self.journal)).get(
            name, (None, [])
        )
        if self.journal is None or layout is None:
            return path
        try:
            with PieceFile.at(path, name) as file:
                damage = settle_layout(file, self.journal, layout, places)
                head = self.journal.heads[name]
                if not damage and file.size == layout.size and file.read_at(0, len(head)) == head:
                    return path
                lost = {index for one in damage for index in one.episode_indices}
                texts = zip(layout.indices(), layout.offsets(), layout.sizes(), strict=True)
                spans = sorted((offset, size) for i, offset, size in texts if i not in lost)
                data = b"".join(file.read_at(int(offset), int(size)) for offset, size in spans)
        except DamagedError as error:
            raise OutputError(f"{path} is damaged: {error}") from error
        for one in damage:
            warn(f"{one}: they are left out")
        return io.BytesIO(head + data)

    def trajectory(self, episode_index: int) -> Trajectory:
        """Return the recorded data of an episode as arrays.

        Raises:
            OutputError: If there is none, because it was not recorded or not played, or if it is
                damaged.
        """
        trajectory = self._read(episode_index)
        if trajectory is None:
            if not self.streams:
                why = "the run recorded no trajectory data (runner.record_trajectory=true does)"
            elif episode_index in self.table.episode_indices:
                why = "it failed before its first observation"
            else:
                why = f"there are {len(self.table)} episodes, counted from 0"
            raise OutputError(f"no trajectory of episode {episode_index} in {self.path}: {why}")
        return trajectory

    def __getitem__(self, episode_index: int) -> Trajectory:
        """Return the recorded data of an episode; see ``trajectory``."""
        return self.trajectory(episode_index)

    def __iter__(self) -> Iterator[Trajectory]:
        """Iterate over the recorded trajectories in episode order; one is in memory at a time.

        Those that are damaged are left out, with a warning.
        """
        if not self.streams:
            return
        for episode_index in self.table.episode_indices.tolist():
            try:
                trajectory = self._read(episode_index)
            except OutputError as error:
                warn(f"{error}; it is left out")
                continue
            if trajectory is not None:
                yield trajectory

    def _read(self, episode_index: int) -> Trajectory | None:
        trajectory = read_trajectory(self.streams, episode_index)
        if trajectory is None or all(stream.vouches_for(episode_index) for stream in self.streams):
            return trajectory
        # No checksum of the journal vouches for it, so that its digest has to.
        try:
            row = self.table.row(episode_index)
        except KeyError:
            return None
        try:
            found = recorded_digest_in(self.streams, episode_index)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            found = f"none ({error})"
        if found != row.digest or not self._agrees(trajectory, row):
            raise OutputError(
                f"the data of episode {episode_index} in {self.path} is damaged: it does not fit"
                " the digest in the episode table"
            )
        return trajectory

    def _agrees(self, trajectory: Trajectory, row: EpisodeRow) -> bool:
        """Return whether what no digest is about is as it has to be."""
        flags = row.ending == "terminated", row.ending == "truncated"
        if (trajectory.terminated, trajectory.truncated) != flags:
            return False
        for stream in self.streams:
            part = trajectory.by_step_key.get(stream.step_key)
            if part is None:
                continue
            if not stream.description["is_flat"]:
                # Nothing but the checksum knows the times of sub-steps.
                return not stream.is_changed(row.episode_index)
            counted = np.arange(len(part.steps))
            if not (
                np.array_equal(part.steps, counted)
                and np.array_equal(part.env_times, counted)
                and not part.agent_ids.any()
            ):
                return False
        return True

    def __len__(self) -> int:
        """Return the number of finished episodes."""
        return len(self.table)

    def __repr__(self) -> str:
        return f"<RunDirectory {self.path}: {len(self)} episodes>"

    @cached_property
    def streams(self) -> list[StepsStream]:
        """The trajectory files, one for each step key, as far as they can be understood."""
        return open_streams(self.path, self.journal)


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.yaml``. Nothing that it names is imported or made.

    Raises:
        OutputError: If it cannot be read, or is larger than any config.
    """
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST_CONFIG + 1)
        if len(text) > _LARGEST_CONFIG:
            raise ValueError("it is too large")
        config = yaml.safe_load(text)
        _check_size(config, 1000 + _VALUES_A_CHARACTER * len(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}


def _check_size(value: Any, limit: int) -> None:
    """Refuse what a few lines of YAML can stand for: lists of lists of the same list, and so on."""
    n_values, to_visit = 0, [value]
    while to_visit:
        visited = to_visit.pop()
        n_values += 1
        if n_values > limit:
            raise ValueError("it stands for too many values")
        if isinstance(visited, dict):
            to_visit.extend(visited.values())
        elif isinstance(visited, list | tuple):
            to_visit.extend(visited)


def warn(text: str) -> None:
    """Tell the user of the library about damage that was found on the way."""
    warnings.warn(text, stacklevel=3)
