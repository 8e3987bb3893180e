"""The log of a training: a table on the disk, and the same numbers for TensorBoard.

``training_log.csv`` has a row for each update that was logged, ``evaluations.csv`` one for each
episode of each evaluation. Both are appended to; a resumed training cuts them back to its
checkpoint.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.core.errors import OutputError

if TYPE_CHECKING:  # So that a curve can be drawn without torch.
    from maze.train.worker import Evaluated

TRAINING_LOG, EVALUATIONS = "training_log.csv", "evaluations.csv"
_EVALUATION_COLUMNS = (
    *("update", "n_steps", "episode_index", "return", "n_episode_steps", "ending", "error"),
)


class TrainingLog:
    """Writes the tables of a training.

    Args:
        directory: where to.
        n_updates: rows of later updates are removed: what a killed training has left behind.
        tensorboard: whether to write for TensorBoard, if tensorboardX is installed.
    """

    def __init__(self, directory: Path, n_updates: int = 0, tensorboard: bool = True) -> None:
        self._directory = directory
        self._columns: Sequence[str] = ()
        for name in (TRAINING_LOG, EVALUATIONS):
            self._cut(directory / name, n_updates)
        self._tensorboard = _summary_writer(directory, n_updates) if tensorboard else None

    def add(self, row: Mapping[str, float]) -> None:
        """Add a row to the training's log. All rows have the same columns."""
        self._append(TRAINING_LOG, list(row), [list(row.values())])
        if self._tensorboard is not None:
            for name, value in row.items():
                if name not in ("update", "n_steps") and value == value:
                    self._tensorboard.add_scalar(f"train/{name}", value, int(row["n_steps"]))

    def add_evaluation(
        self, n_updates: int, n_steps: int, episodes: Sequence[Evaluated], mean: float
    ) -> None:
        """Add the episodes of an evaluation."""
        self._append(
            EVALUATIONS,
            _EVALUATION_COLUMNS,
            [
                (
                    *(n_updates, n_steps, one.index, repr(one.episode_return)),
                    *(one.n_steps, one.ending, one.error.partition("\n")[0]),
                )
                for one in episodes
            ],
        )
        if self._tensorboard is not None:
            self._tensorboard.add_scalar("evaluation/return", mean, n_steps)

    def close(self) -> None:
        """Close the files."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _append(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path = self._directory / name
        try:
            is_new = not path.exists()
            with path.open("a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if is_new:
                    writer.writerow(columns)
                writer.writerows(rows)
        except OSError as error:
            raise OutputError(f"'{path}' cannot be written: {error}") from error

    def _cut(self, path: Path, n_updates: int) -> None:
        if not path.exists():
            return
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        kept = [
            rows[0],
            *(r for r in rows[1:] if len(r) == len(rows[0]) and int(r[0]) <= n_updates),
        ]
        temporary = path.with_name(f".{path.name}")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(kept)
        temporary.replace(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table that a training has written; none if it is not there.

    Raises:
        OutputError: If it cannot be read.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(f"'{path}' cannot be read: {error}") from error


def _summary_writer(directory: Path, n_updates: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), write_to_disk=True, flush_secs=10)
