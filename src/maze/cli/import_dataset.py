"""``maze import``: another library's dataset as a recording."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from maze.cli.messages import OK, print_lines

DESCRIPTION = """\
Makes a recording of another library's dataset: an output directory that can be looked at, verified,
learnt from and exported like that of a rollout.

  minari      the id of a local dataset, or the path of its folder
  d4rl        an HDF5 file with observations, actions, rewards, terminals (timeouts,
              next_observations)
  imitation   what imitation.data.serialize.save has written
  sb3         a replay buffer that save_replay_buffer has written: a pickle, hence --trust
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "import",
        help="make a recording of a dataset of Minari, D4RL, imitation or SB3",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="what is imported")
    parser.add_argument(
        "--from",
        required=True,
        dest="format",
        metavar="FORMAT",
        help="minari, d4rl, imitation or sb3",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--env", metavar="ID", help="Gymnasium id of the environment, whose spaces the data has"
    )
    parser.add_argument("--trust", action="store_true", help="unpickle the source (sb3)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.datasets.importing import import_dataset

    result = import_dataset(
        arguments.source,
        arguments.output,
        arguments.format,
        env=arguments.env,
        trust=arguments.trust,
        command=" ".join(["maze", *sys.argv[1:]]),
    )
    print_lines([str(result)])
    return OK
