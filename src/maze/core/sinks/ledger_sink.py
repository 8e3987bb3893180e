"""The ledger of a run: writes an output directory, of which every finished episode counts.

    open      take the directory, alone; go on where an earlier run ended, if that is wanted
    write     append the data of a batch, then the line of the journal that makes it count
    close     put the event logs into episode order, make the episode table
    finish    write the statistics

The rows themselves are not held in memory.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maze.core.episode import EpisodeBatch
from maze.core.episode_table import EpisodeTable, EpisodeTableBuilder, write_episode_table
from maze.core.errors import OutputError
from maze.core.ledger.check import current_path
from maze.core.ledger.data_files import DataFiles
from maze.core.ledger.journal import (
    EPISODES_FILE,
    FORMAT_VERSION,
    JOURNAL_FILE,
    STATISTICS_FILE,
    Journal,
    JournalWriter,
)
from maze.core.ledger.lock import DirectoryLock
from maze.core.ledger.recovery import Recovered, has_orphans, recover, remove_tables, rewrite
from maze.core.sinks.sink import Sink

CONFIG_FILE = "config.yaml"

SYNC_SECONDS = 5.0
"""So often it is made sure that what was written is on the disk, and not only with the operating
system: a power cut takes no more than this with it."""


class LedgerSink(Sink):
    """Writes the output directory of a run.

    Without a directory it keeps the rows in memory instead.

    Args:
        directory: where to write.
        config: what is played, for ``config.yaml`` and the journal.
        n_episodes: asked for.
        versions: of the libraries that the episodes may depend on.
        command: what was typed, for the record.
        resumes: if the directory holds a run already, which goes on: looks at its journal, and
            raises if that cannot be. By then, nothing has been changed.
        retry: chooses from the ending of each recorded episode whether it is forgotten, to be
            played again.
    """

    def __init__(
        self,
        directory: Path | None,
        config: Mapping[str, Any],
        *,
        n_episodes: int,
        versions: Mapping[str, str],
        command: str = "",
        resumes: Callable[[Journal], None] | None = None,
        retry: Callable[[str], bool] | None = None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._n_episodes = n_episodes
        self._versions = versions
        self._command = command
        self._resumes = resumes
        self._retry = retry
        self._lock: DirectoryLock | None = None
        self._journal: JournalWriter | None = None
        self._files: DataFiles | None = None
        self._syncing: _Syncing | None = None
        self._rows = EpisodeTableBuilder()
        self._has_parts = False
        self._is_broken = False
        self.recovered: Recovered | None = None
        """What was found in the directory, if a run goes on."""

    def open(self) -> None:
        """Take the directory into use. Raises ``OutputError`` if that is not possible."""
        directory = self._directory
        if directory is None:
            return
        try:
            if self._resumes is not None:
                self._reopen(directory, self._resumes)
            else:
                self._create(directory)
        except FileExistsError:
            self.release()
            if not directory.is_dir():
                raise OutputError(f"cannot write into {directory}: it is a file") from None
            raise OutputError(
                f"{directory} holds a run already. `maze resume {directory}` completes it; for a"
                " new run choose another directory (hydra.run.dir=... or output_dir=...)"
            ) from None
        except OSError as error:
            self.release()
            raise OutputError(
                f"cannot write into {directory}: {error.strerror or error}. Choose another"
                " directory (hydra.run.dir=... or output_dir=...)"
            ) from error
        except BaseException:
            self.release()
            raise
        assert self._files is not None
        assert self._journal is not None
        self._syncing = _Syncing([self._files.sync, self._journal.sync])

    def _create(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(directory)
        self._journal = JournalWriter.begin(
            directory / JOURNAL_FILE,
            {"format_version": FORMAT_VERSION, **self._request()},
        )
        self._files = DataFiles(directory, self._begin_file)
        _write_config(directory / CONFIG_FILE, self._config, self._command)

    def _reopen(self, directory: Path, check: Callable[[Journal], None]) -> None:
        self._lock = DirectoryLock(directory)
        path = current_path(directory, JOURNAL_FILE)
        if path.exists():
            check(Journal(path))
        recovered = self.recovered = recover(directory, self._retry)
        journal = recovered.journal
        self._journal = JournalWriter(directory / JOURNAL_FILE, journal)
        if recovered.is_sorted_since:
            self._journal.write("sorted", {})
        self._journal.write("resumed", self._request())
        # Now that it is not finished any more, nobody misses these. They would be out of date.
        remove_tables(directory)
        # Only now, since the ends of the files are cut off by it: a finished run has them.
        self._files = DataFiles(
            directory, self._begin_file, journal.heads, recovered.sizes, recovered.layouts
        )
        _write_config(directory / CONFIG_FILE, self._config, self._command)

    def ask_for(self, n_episodes: int) -> None:
        """Say that so many episodes are asked for, where that was not known when it was opened."""
        self._n_episodes = n_episodes
        if self._journal is not None:
            self._journal.write("resumed", self._request())

    def _request(self) -> dict[str, Any]:
        return {
            "n_episodes": self._n_episodes,
            "versions": self._versions,
            "command": self._command,
            "config": _as_json(self._config),
        }

    def write(self, batch: EpisodeBatch) -> None:
        """Append data and rows."""
        if self._journal is None or self._files is None:
            self._rows.add(batch.rows, batch.zero_statistics)
            return
        self._has_parts = self._has_parts or batch.part_of is not None
        try:
            self._journal.write_batch(batch, self._files.write(batch))
        except BaseException:
            self._is_broken = True
            raise

    def close(self) -> None:
        """Finish the files and make the episode table."""
        if self._directory is None or self._journal is None or self._files is None:
            return
        try:
            if self._syncing is not None:
                self._syncing.stop()
            if not self._is_broken:
                self._files.end_streams()
                if self._files.sort_event_logs():
                    self._journal.write("sorted", {})
                self._files.sync()
                self._journal.sync()
        finally:
            self._files.close()
        if self._has_parts and not self._is_broken:
            self._remove_orphans(self._directory)
        try:
            write_episode_table(self._directory / EPISODES_FILE, self._journal.batches)
        except (OSError, OutputError):
            if not self._is_broken:  # Else it is for the reason that was told already.
                raise

    def _remove_orphans(self, directory: Path) -> None:
        """Remove the parts of episodes that were broken off and begun again."""
        assert self._journal is not None
        journal = Journal(directory / JOURNAL_FILE)
        if has_orphans(journal):
            self._journal.close()
            recovered = rewrite(directory, journal, drop=())
            self._journal = JournalWriter(directory / JOURNAL_FILE, recovered.journal)
            files = DataFiles(
                directory,
                self._begin_file,
                recovered.journal.heads,
                recovered.sizes,
                recovered.layouts,
            )
            files.end_streams()
            files.sort_event_logs()
            files.sync()
            files.close()
            self._journal.write("sorted", {})

    def finish(self, statistics: Mapping[str, Any]) -> None:
        """Write ``statistics.json`` and the last line of the journal."""
        if self._directory is None or self._journal is None:
            return
        text = json.dumps(statistics, indent=2, allow_nan=False) + "\n"
        try:
            write_atomically(self._directory / STATISTICS_FILE, text)
            files = {
                name: file_checksum(self._directory / name)
                for name in (CONFIG_FILE, EPISODES_FILE, STATISTICS_FILE)
            }
            self._journal.write("finished", {"checksums": files})
            self._journal.sync()
            _sync_directory(self._directory)
        except OSError as error:
            raise OutputError(
                f"cannot write into {self._directory}: {error.strerror or error}. What the journal"
                " lists is kept"
            ) from error

    def release(self) -> None:
        """Let others write into the directory; to be called last, whatever has happened."""
        if self._syncing is not None:
            self._syncing.stop()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()

    def episode_table(self) -> EpisodeTable | Callable[[], EpisodeTable]:
        """Return the table of all finished episodes, or what reads it; to be called after close."""
        if self._directory is None:
            return self._rows.build
        path = self._directory / EPISODES_FILE
        return lambda: EpisodeTable.read_parquet(path)

    def _begin_file(self, name: str, head: bytes) -> None:
        assert self._journal is not None
        self._journal.write("file", {"file": name, "head": base64.b64encode(head).decode()})


class _Syncing:
    """Makes sure now and then, in a thread of its own, that what was written is on the disk."""

    def __init__(self, syncs: Sequence[Callable[[], None]]) -> None:
        self._syncs = syncs
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maze-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(SYNC_SECONDS):
            for sync in self._syncs:
                # What does not get to the disk is told by the next write, or by the last sync.
                with contextlib.suppress(OSError, ValueError):
                    sync()


def file_checksum(path: Path) -> str:
    """Return the checksum of a whole file."""
    import xxhash

    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()


def _as_json(config: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(config, default=str))


def _write_config(path: Path, config: Mapping[str, Any], command: str) -> None:
    import yaml

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(path, (f"# {' '.join(command.split())}\n" if command else "") + text)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either there as a whole or not at all."""
    temporary = path.with_name(path.name + ".writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_directory(directory: Path) -> None:
    """Make sure that the names of new files are on the disk too."""
    for folder in [directory, *(path for path in directory.iterdir() if path.is_dir())]:
        with contextlib.suppress(OSError):  # Windows opens no directories.
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
