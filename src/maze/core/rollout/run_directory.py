"""Opens the output directory of a run: what was asked, what came out, and every trajectory.

Opening a directory reads data. It never imports what a config names, and never unpickles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.core.episode_table import EpisodeTable, EpisodeTableBuilder
from maze.core.errors import MissingExtraError, OutputError, did_you_mean
from maze.core.sinks.ledger_sink import (
    CONFIG_FILE,
    EPISODES_FILE,
    JOURNAL_FILE,
    STATISTICS_FILE,
    read_journal,
)
from maze.core.trajectory.trajectory import StepsStream, Trajectory, open_streams, read_trajectory

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
    def table(self) -> EpisodeTable:
        """The episode table. While the run goes on, of the episodes finished by now."""
        path = self.path / EPISODES_FILE
        if path.exists():
            return EpisodeTable.read_parquet(path)
        builder = EpisodeTableBuilder()
        for columns in read_journal(self.path / JOURNAL_FILE):
            builder.add_columns(columns)
        return builder.build()

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
        """The configuration of the run, from ``config.yaml``."""
        import yaml

        with (self.path / CONFIG_FILE).open(encoding="utf-8") as file:
            config = yaml.safe_load(file)
        return config if isinstance(config, dict) else {}

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """The content of ``statistics.json``; empty while the run goes on."""
        path = self.path / STATISTICS_FILE
        if not path.exists():
            return {}
        statistics = json.loads(path.read_text(encoding="utf-8"))
        return statistics if isinstance(statistics, dict) else {}

    @property
    def event_types(self) -> list[str]:
        """Names of the event types that were logged."""
        return sorted(path.stem for path in (self.path / "event_logs").glob("*.tsv"))

    def events(self, event_type: str) -> pd.DataFrame:
        """Return the log of one event type: ``episode_id``, ``env_time`` and its attributes."""
        path = self.path / "event_logs" / f"{event_type}.tsv"
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
            path,
            sep="\t",
            quoting=3,  # Nothing is quoted: tabs and newlines in text are escaped.
            dtype={"episode_id": str},
            keep_default_na=False,
            na_values=["nan"],
        )
        for name in table.columns:
            if pd.api.types.is_string_dtype(table[name]):
                table[name] = table[name].map(_unescaped, na_action="ignore")
        return table

    def trajectory(self, episode_index: int) -> Trajectory:
        """Return the recorded data of an episode as arrays.

        Raises:
            OutputError: If there is none, because it was not recorded or not played.
        """
        trajectory = read_trajectory(self._streams, episode_index)
        if trajectory is None:
            if not self._streams:
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
        """Iterate over the recorded trajectories in episode order; one is in memory at a time."""
        indices = {index for stream in self._streams for index in stream.episode_indices()}
        for episode_index in sorted(indices):
            yield self.trajectory(episode_index)

    def __len__(self) -> int:
        """Return the number of finished episodes."""
        return len(self.table)

    def __repr__(self) -> str:
        return f"<RunDirectory {self.path}: {len(self)} episodes>"

    @cached_property
    def _streams(self) -> list[StepsStream]:
        return open_streams(self.path / "trajectory_data")


def _unescaped(text: Any) -> Any:
    if not isinstance(text, str) or "\\" not in text:
        return text
    parts = text.split("\\\\")
    replaced = (
        part.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for part in parts
    )
    return "\\".join(replaced)
