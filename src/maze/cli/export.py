"""``maze export``: a recording in the format of another library."""

from __future__ import annotations

import argparse
from typing import Any

from maze.cli.messages import OK, print_lines

DESCRIPTION = """\
Writes a recording in another format. Episodes that failed are left out, but for parquet and hf.

  parquet   a file for each step key, and the table of episodes: for every other tool and language
  hf        a dataset of Hugging Face, for datasets.load_from_disk (extra hf)
  minari    a local dataset of Minari, in the folder that is named by --output (extra minari)
  lerobot   version 3.0 of the format of LeRobot (extra pandas)
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a recording for Minari, LeRobot, Hugging Face, or as Parquet",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    parser.add_argument(
        "--to", required=True, metavar="FORMAT", help="minari, parquet, lerobot or hf"
    )
    parser.add_argument("--output", required=True, metavar="PATH", help="where to write")
    parser.add_argument(
        "--name", metavar="NAME", help="id of the dataset (minari), or the task (lerobot)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.datasets.exporting import export

    opened_by = export(arguments.directory, arguments.to, arguments.output, name=arguments.name)
    print_lines([f"written to {arguments.output}", f"open it with  {opened_by}"])
    return OK
