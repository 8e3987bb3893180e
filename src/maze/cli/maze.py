"""``maze``: what is done with recorded runs. New ones are played by ``maze-run``.

Each command is a module beside this one, with ``add_parser`` and ``run``. What a command needs is
imported when it runs, so that the help comes at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from maze.cli import (
    export,
    import_dataset,
    merge,
    plot,
    replay,
    resume,
    show,
    split,
    verify,
    video,
    view,
)
from maze.cli.messages import (
    BAD_INPUT,
    INTERRUPTED,
    OK,
    perhaps_unread,
    print_interrupted,
    report,
)
from maze.core.rollout.interrupts import Terminations
from maze.version import __version__

COMMANDS = (
    *(show, view, resume, verify, replay, video, plot),
    *(merge, split, export, import_dataset),
)

_DESCRIPTION = "Goes on with recorded runs, and looks at them. (maze-run plays new ones.)"
_EPILOG = """\
DIR is the output directory of a run, such as outputs/2026-01-31/12-00-00.

exit codes: 0 all is well, 1 something failed or differs, 2 bad input, 130 interrupted by Ctrl-C
(143 by SIGTERM, 129 by SIGHUP)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: ``None``: those of the process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--debug" in given
    try:
        with perhaps_unread():
            parsed = _parser().parse_args([word for word in given if word != "--debug"])
    except SystemExit as end:  # It has printed the help, or what is wrong.
        return OK if end.code in (None, OK) else BAD_INPUT
    with Terminations() as terminations, warnings.catch_warnings():
        warnings.showwarning = _print_warning
        try:
            if getattr(parsed, "trust", False):
                _import_from_here()
            code: int = parsed.run(parsed)
        except KeyboardInterrupt:
            print_interrupted()
            code = INTERRUPTED
        except Exception as error:
            return report(error, show_traceback)
    return terminations.exit_code(code) if code == INTERRUPTED else code


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the line of our code that gave it."""
    with perhaps_unread():
        print(f"warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maze",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"maze {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show tracebacks of errors, with any command"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _import_from_here() -> None:
    """Let a user's own module in the current directory be named, as ``maze-run`` does.

    Only once the user trusts the run: the current directory may be the one that came with it.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


if __name__ == "__main__":
    sys.exit(main())
