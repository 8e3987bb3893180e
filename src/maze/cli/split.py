"""``maze split``: the episodes of recordings shared out to several."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from maze.cli.merge import add_selection, selection_of
from maze.cli.messages import OK, print_lines

DESCRIPTION = """\
Shares out the episodes of recordings to several new ones, drawn by chance; each episode comes into
one of them, as it was recorded.

  maze split RUN --output train validation --shares 0.9 0.1
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "split",
        help="share out the episodes of recordings to several new ones",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="output directories of runs")
    parser.add_argument("--output", required=True, nargs="+", metavar="DIR", help="where to write")
    parser.add_argument(
        "--shares", required=True, nargs="+", type=float, metavar="X", help="of each; together 1"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    add_selection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.datasets.edit import split

    results = split(
        arguments.directories,
        arguments.output,
        arguments.shares,
        seed=arguments.seed,
        selection=selection_of(arguments),
        command=" ".join(["maze", *sys.argv[1:]]),
    )
    print_lines(
        [
            f"{result.n_done:,} episodes, mean return {result.statistics['return'].mean:.6g}, in"
            f" {result.output_directory}"
            for result in results
        ]
    )
    return OK
