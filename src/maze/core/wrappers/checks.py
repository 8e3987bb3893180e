"""Checks of arguments that several wrappers share."""

from __future__ import annotations

import math
from numbers import Integral, Real

from maze.core.errors import ConfigError


def number(value: object, name: str, of: object) -> float:
    """Return the value if it is a real number, infinities included.

    Args:
        value: the argument.
        name: of the argument, for messages.
        of: the object whose argument it is, for messages.

    Raises:
        ConfigError: If it is not a number; booleans are none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"'{name}' of {type(of).__name__} has to be a number, got {value!r}.")
    return float(value)


def finite_number(value: object, name: str, of: object) -> float:
    """Return the value if it is a finite real number; see ``number``."""
    checked = number(value, name, of)
    if not math.isfinite(checked):
        raise ConfigError(
            f"'{name}' of {type(of).__name__} has to be a finite number, got {value!r}."
        )
    return checked


def positive_count(value: object, name: str, of: object) -> int:
    """Return the value if it is a whole number of at least one.

    Raises:
        ConfigError: If it is not; booleans and floats are no counts.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(
            f"'{name}' of {type(of).__name__} has to be a whole number of at least 1, got"
            f" {value!r}."
        )
    return int(value)
