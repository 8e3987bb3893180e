"""``maze plot``: draws learning curves, of one training or of several beside each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maze.cli.messages import OK, print_lines
from maze.core.errors import ConfigError, MissingExtraError

DESCRIPTION = """\
Draws the learning curves of trainings: mean return of the evaluations over steps. The
band of a single training is the range of its episodes. Several DIR=LABEL with the same label, such
as seeds of one algorithm, are drawn as their mean, with its 95 % confidence interval as the band.
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "plot",
        help="draw the learning curves of trainings",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories",
        nargs="+",
        metavar="DIR[=LABEL]",
        help="output directory of a training, or of a sweep: then of all below it",
    )
    parser.add_argument(
        "--output",
        "-o",
        default="learning_curves.png",
        metavar="FILE",
        help="where to draw to, .png, .svg or .pdf; default: learning_curves.png",
    )
    parser.add_argument("--title", default="", help="above the picture")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    groups = _groups(arguments.directories)
    try:
        from maze.train.learning_curve import draw
    except ImportError as error:
        if error.name not in ("torch", "matplotlib"):
            raise
        raise MissingExtraError("what draws learning curves", "train") from None
    draw(groups, Path(arguments.output), arguments.title)
    print_lines([arguments.output])
    return OK


def _groups(texts: Sequence[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for text in texts:
        name, _, label = text.partition("=")
        directory = Path(name)
        if not directory.is_dir():
            raise ConfigError(f"there is no directory '{name}'")
        trainings = sorted({path.parent for path in directory.rglob("training_log.csv")})
        if not trainings:
            raise ConfigError(f"'{name}' is not the output directory of a training or of a sweep")
        for training in trainings:
            of_one = label or (name if len(trainings) == 1 else str(training))
            groups.setdefault(of_one, []).append(training)
    return groups
