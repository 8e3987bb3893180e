"""``maze view``: opens recorded runs in the browser, or writes them into one file to share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.cli.arguments import add_trust, whole_number
from maze.cli.messages import OK, print_lines
from maze.core.errors import ConfigError

if TYPE_CHECKING:
    from maze.viewer.export import Report

_DESCRIPTION = """\
Opens a page with the statistics and episodes of recorded runs, and each episode step by step: its
frames, observations, actions and rewards. Several runs are compared episode by episode. The page is
served to this machine only, until Ctrl-C.

  maze view DIR
  maze view DIR OTHER_DIR
  maze view DIR --export report.html --episodes 3 17
"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "view",
        help="look at runs in the browser, step by step",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "directories", metavar="DIR", type=Path, nargs="+", help="output directories of runs"
    )
    parser.add_argument(
        "--port", metavar="N", type=whole_number, default=0, help="default: one that is free"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="only print the address of the page"
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="write one HTML file, which needs no server, and end",
    )
    parser.add_argument(
        "--episodes",
        metavar="INDEX",
        type=whole_number,
        nargs="+",
        help="to export, of each run; default: the worst, the median and the best one, and one"
        " that failed",
    )
    parser.add_argument(
        "--no-frames", action="store_true", help="export numbers only, which is quick and small"
    )
    parser.add_argument(
        "--max-mb",
        metavar="N",
        type=whole_number,
        default=20,
        help="largest size of the exported file: frames are left out until it fits; default: 20",
    )
    add_trust(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve or export; return the exit code."""
    from maze.cli.resume import config_of_training
    from maze.viewer.server import Viewer

    for path in arguments.directories:
        if config_of_training(path) is not None:
            raise ConfigError(
                f"{path} holds a training, and no recorded episodes. `maze plot {path}` draws its"
                " curves; to look at what was learnt, roll it out, and view that run:"
                f" maze-run policy=torch_policy input_dir={path}"
            )
    if arguments.export is None and (arguments.episodes is not None or arguments.no_frames):
        raise ConfigError(
            "--episodes and --no-frames are about what is exported: add --export FILE"
        )
    with Viewer(arguments.directories, trust=arguments.trust) as viewer:
        if arguments.export is not None:
            from rich.console import Console

            from maze.viewer.export import make_report

            # Shown if standard error is a terminal.
            with Console(stderr=True).status("reading") as status:
                report = make_report(
                    viewer,
                    episodes=arguments.episodes,
                    with_frames=not arguments.no_frames,
                    max_bytes=arguments.max_mb * 10**6,
                    tell=status.update,
                )
            report.write(arguments.export)
            print_lines(_lines_of(report, arguments.export))
            return OK
        _serve(viewer, arguments.port, opens_browser=not arguments.no_browser)
    return OK


def _serve(viewer: Any, port: int, opens_browser: bool) -> None:
    import webbrowser

    from maze.viewer.server import Server

    server = Server(viewer, port)
    try:
        print_lines([f"{server.url}  (Ctrl-C ends it)"])
        if opens_browser and not webbrowser.open(server.url):
            print_lines(["There is no browser to open: open the address in one on this machine."])
        server.wait()
    except KeyboardInterrupt:
        pass  # That is how it is ended.
    finally:
        server.close()


def _lines_of(report: Report, path: Path) -> Sequence[str]:
    lines = [f"{path}: {report.n_bytes / 1e6:.1f} MB"]
    for episode in report.episodes:
        frames = f"{episode.n_frames} frames" if episode.n_frames else "no frames"
        every = f" (one in {episode.every})" if episode.every > 1 and episode.n_frames else ""
        why = f": {episode.problem}" if episode.problem else ""
        run = f"{episode.run_name}, " if report.n_runs > 1 else ""
        lines.append(f"  {run}episode {episode.index}: {frames}{every}{why}")
    return lines
