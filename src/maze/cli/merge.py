"""``maze merge``: several recordings as one, or a part of one."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from maze.cli.messages import OK, print_lines

DESCRIPTION = """\
Writes the episodes of recordings into a new one: of several all together, or of one those that are
chosen. They come out as they were recorded, bit for bit; the new directory says where each comes
from (README.md, provenance.parquet).

  maze merge RUN OTHER --output both
  maze merge RUN --min-return 200 --output good
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "merge",
        help="write episodes of several recordings, or some of one, as a recording",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="output directories of runs")
    parser.add_argument("--output", required=True, metavar="DIR", help="where to write")
    add_selection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.datasets.edit import merge

    result = merge(
        arguments.directories,
        arguments.output,
        selection_of(arguments),
        command=" ".join(["maze", *sys.argv[1:]]),
    )
    print_lines([str(result)])
    return OK


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Describe the options that choose episodes."""
    parser.add_argument("--min-return", type=float, metavar="X", help="only episodes from it on")
    parser.add_argument("--max-return", type=float, metavar="X", help="only episodes up to it")
    parser.add_argument(
        "--ending",
        action="append",
        metavar="ENDING",
        help="only episodes that were terminated, truncated or failed; may be given several times",
    )
    parser.add_argument("--event", metavar="TYPE", help="only episodes with such an event")
    parser.add_argument(
        "--first", type=int, metavar="N", help="only the first N episodes of each directory"
    )


def selection_of(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the options of a ``Selection``; ``None`` if nothing was chosen."""
    chosen = {
        "min_return": arguments.min_return,
        "max_return": arguments.max_return,
        "endings": arguments.ending,
        "event": arguments.event,
        "n_episodes": arguments.first,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    if not given:
        return None
    return {"endings": ["terminated", "truncated", "failed"], **given}
