"""``maze verify``: checks whether an output directory holds what was played."""

from __future__ import annotations

import argparse
from typing import Any

from maze.cli.messages import OK, REQUEST_NOT_MET, print_lines
from maze.core.errors import ConfigError

DESCRIPTION = """\
Compares all files of an output directory with their checksums, and every trajectory with the digest
in its row. With --replay, episodes are also played again from config and seeds; the first
difference is named, and whether the environment is not deterministic or has changed.

Nothing is imported that the directory names, unless episodes are played again.
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "verify",
        help="check files, and with --replay play episodes again to compare them",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    parser.add_argument(
        "--replay",
        metavar="HOW_MANY",
        help="episodes to play again, chosen by chance: 5%%, 20 or all",
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="to play in (default: as many as the run had)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="import what the config of the run names"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.core.rollout.verify import verify_run

    verification = verify_run(
        arguments.directory,
        parse_how_many(arguments.replay),
        n_processes=arguments.processes,
        trust=arguments.trust,
    )
    print_lines(list(verification.lines()))
    return OK if verification.is_good else REQUEST_NOT_MET


def parse_how_many(text: str | None) -> Any:
    """Return how many episodes ``5%``, ``20`` or ``all`` stands for; see ``verify_run``."""
    if text is None or text == "all":
        return text
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 < share <= 1:
                return share
        elif int(text) > 0:
            return int(text)
    except ValueError:
        pass
    raise ConfigError(f"--replay is '{text}', expected a share such as 5%, a number, or all")
