"""A directory for each run: two runs that start in the same second do not share one."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from maze.core.errors import OutputError

RUN_MARKS = ("journal.jsonl", "config.yaml", "episodes.parquet", ".hydra")
"""Any of these in a directory says that it holds a run."""


def default_output_directory(base: Path = Path("outputs")) -> Path:
    """Create ``<base>/<date>/<time>`` and return it as an absolute path."""
    now = datetime.now()
    return claim(base / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}")


def claim(directory: Path) -> Path:
    """Create the directory, or the first free one of ``<directory>-1``, ``-2``, ...

    Whoever creates it owns it, so that any number of processes may ask for the same one.

    Returns:
        The absolute path of the directory that was created.

    Raises:
        OutputError: If it cannot be created.
    """
    directory = directory.absolute()
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(1))):
        candidate = directory.with_name(directory.name + suffix)
        try:
            candidate.parent.mkdir(parents=True, exist_ok=True)
            candidate.mkdir()
        except FileExistsError:
            # Also raised for a parent that is a file, where no suffix would help.
            if not candidate.parent.is_dir():
                raise _cannot_create(candidate, f"{candidate.parent} is a file") from None
            continue
        except OSError as error:
            raise _cannot_create(candidate, error.strerror or str(error)) from error
        return candidate
    raise AssertionError("count() does not end")


def take(directory: Path) -> Path:
    """Create the directory, or use it as it is unless it holds a run.

    For a directory that the user named: there, a suffix would be a surprise.

    Returns:
        The absolute path of the directory.

    Raises:
        OutputError: If it holds a run, cannot be created or is a file.
    """
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = [mark for mark in RUN_MARKS if (directory / mark).exists()]
    except FileExistsError:
        raise _cannot_create(directory, "it is a file") from None
    except OSError as error:
        raise _cannot_create(directory, error.strerror or str(error)) from error
    if held:
        raise OutputError(
            f"'{directory}' holds a run already (there is {held[0]}). Name another directory, or"
            " leave it out for one by date and time; to go on with that run, use"
            f" `maze resume {directory}`."
        )
    return directory


def _cannot_create(directory: Path, reason: str) -> OutputError:
    return OutputError(f"cannot create the output directory '{directory}': {reason}.")
