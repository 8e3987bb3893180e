"""What the command line says about errors: one message, and what to do.

Hydra and OmegaConf describe errors in terms of their own machinery. Here they are put in terms of
options and choices, with the nearest right one.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from maze.core.errors import ConfigError, MazeError, RunStoppedError, did_you_mean
from maze.core.factory import TARGET, unknown_option

OK, REQUEST_NOT_MET, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. Code 1 is also that of an unexpected error, which shows its traceback."""


def report(error: BaseException, show_traceback: bool) -> int:
    """Print an error to stderr and return the exit code for it."""
    expected = error if isinstance(error, MazeError) else as_config_error(error)
    if show_traceback or expected is None:
        with perhaps_unread():
            traceback.print_exception(error)
    if expected is None:
        return REQUEST_NOT_MET
    message = str(expected.args[0]) if expected.args else str(expected)
    for note in getattr(expected, "__notes__", ()):
        message += f"\n{note}"
    with perhaps_unread():
        sys.stdout.flush()
    with perhaps_unread():
        print(f"{type(expected).__name__}: {message}", file=sys.stderr)
    return REQUEST_NOT_MET if isinstance(expected, RunStoppedError) else BAD_INPUT


def as_config_error(error: BaseException) -> ConfigError | None:
    """Return an error of Hydra, OmegaConf or YAML in our words; ``None`` for any other error."""
    # Imported here because an error is the exception; Hydra has loaded them all by then.
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        MissingMandatoryValue,
        OmegaConfBaseException,
    )

    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        return ConfigError(_missing_config(error))
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"'{error.override}' is not understood. Options are written group=option or"
            f" group.key=value, flags come with two dashes ({_lines(error)[0]})."
        )
    is_unknown_key = isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key
    if isinstance(error, HydraException) and is_unknown_key:
        return ConfigError(_unknown_key(cause))
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"'{error.full_key}' has to be given: {error.full_key}=...")
    if isinstance(error, OmegaConfBaseException):
        at = f"'{error.full_key}': " if error.full_key else ""
        return ConfigError(f"{at}{_lines(error)[0]}")
    if isinstance(error, HydraException):
        lines = [*_lines(error), *(_lines(cause)[:1] if cause else [])]
        return ConfigError("\n".join(line for line in lines if not line.startswith("See http")))
    if type(error).__module__.startswith("yaml."):
        return ConfigError(f"a config file is not valid YAML: {' '.join(_lines(error))}")
    return None


def _missing_config(error: Any) -> str:
    path = error.missing_cfg_file or ""
    group, _, name = path.rpartition("/")
    if group and error.options:
        options = sorted(error.options)
        return (
            f"there is no option '{name}' of group '{group}'.{did_you_mean(name, options)}"
            f" Choose {group}= one of: {', '.join(options)}."
        )
    searched = [line.rpartition("path=")[2] for line in _lines(error) if "path=" in line]
    hydras_own = ("", "pkg://hydra.conf", "structured://")
    places = ", ".join(place for place in searched if place not in hydras_own)
    if not path:
        return "\n".join(_lines(error))
    return f"there is no config '{path}'. Looked in: {places or 'nothing'}; add a folder with -cd."


def _unknown_key(error: Any) -> str:
    from omegaconf import OmegaConf

    where, _, key = str(error.full_key).rpartition(".")
    parent = error.parent_node
    siblings: Any = OmegaConf.to_container(parent) if OmegaConf.is_dict(parent) else {}
    target = siblings.pop(TARGET, None)
    options = [str(option) for option in siblings if option != "hydra"]
    if not where:
        # 'environment' is far from 'env' for difflib, but not for a reader.
        beginnings = [option for option in options if key.startswith(option)]
        hint = did_you_mean(beginnings[0] if beginnings else key, options)
        return f"'{key}' is not a group or option.{hint} There are: {', '.join(options)}."
    add = f"Add it with a plus: +{where}.{key}=..."
    if not siblings:
        return f"'{where}' holds no '{key}' yet. {add}"
    of = str(target).rpartition(".")[2] if target else f"'{where}'"
    message = unknown_option(key, options, of=of, where=where)
    # Where there is nothing near, it is perhaps not misspelt: options may be left out of a config.
    return message if "Did you mean" in message else f"{message} If it is one after all: {add}"


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]


def print_lines(lines: Iterable[str]) -> None:
    """Print to stdout at once, so that the order with stderr and with workers is kept."""
    with perhaps_unread():
        print("\n".join(lines))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, columns below each other: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_number = [
        all(re.fullmatch(r"[-+±]?[\d.,e+ %-]*|nan|", row[i]) for row in rows[1:])
        for i in range(len(widths))
    ]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in rows
    ]


def print_interrupted() -> None:
    """Print that the command was interrupted, where there is no result that could say so."""
    with perhaps_unread():
        print("interrupted", file=sys.stderr)


@contextmanager
def perhaps_unread() -> Iterator[None]:
    """Go on in silence if whoever reads what is printed has seen enough, or is gone."""
    try:
        yield
        for stream in _printed_to():
            stream.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone.
            raise
        for stream in _printed_to():
            try:
                stream.flush()
            except OSError:  # What it still holds would be an error again when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _printed_to() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
