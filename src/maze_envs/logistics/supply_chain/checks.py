"""Checks of the options of a supply chain."""

from __future__ import annotations

import math
from numbers import Integral, Real

from maze.core.errors import ConfigError


def check_counts(of: object, at_least: int, **values: object) -> None:
    """Raise ``ConfigError`` unless all are whole numbers that are large enough."""
    for name, value in values.items():
        is_count = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_count or value < at_least:  # type: ignore[operator]
            raise ConfigError(
                f"'{name}' of {type(of).__name__} has to be a whole number of at least {at_least},"
                f" got {value!r}"
            )


def check_numbers(of: object, low: float, high: float = math.inf, **values: object) -> None:
    """Raise ``ConfigError`` unless all are finite numbers within bounds."""
    for name, value in values.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore
            limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise ConfigError(
                f"'{name}' of {type(of).__name__} has to be a number of {limits}, got {value!r}"
            )
