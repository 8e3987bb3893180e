"""Arguments that several commands of ``maze`` take."""

from __future__ import annotations

import argparse
import math


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import what the config of the run names, also from the current directory; needed"
        " for environments, policies and wrappers of your own",
    )


def whole_number(text: str) -> int:
    """Read a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0")
    return int(text)


def frames_per_second(text: str) -> float:
    """Read a rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0 and up to 1000")
    return value
