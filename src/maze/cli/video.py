"""``maze video``: films recorded episodes after the fact.

Nothing has to be drawn while a run is recorded, and what is worth watching is known only then: the
worst and the best episodes, and those that failed.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.cli.arguments import add_trust, frames_per_second, whole_number
from maze.cli.messages import OK, REQUEST_NOT_MET, print_lines
from maze.core.errors import ConfigError

if TYPE_CHECKING:
    from maze.core.episode_table import EpisodeTable

_HELP = "film chosen episodes of a recorded run"
_DESCRIPTION = """\
Films recorded episodes: they are played again, from their seeds and with their recorded actions.
Without a choice, the worst and the best one by return. Says of each whether it is the recorded
episode.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "video", help=_HELP, description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="output directory of the run")
    number: dict[str, Any] = {"metavar": "N", "type": whole_number, "default": 0}
    parser.add_argument("--worst", **number, help="so many with the lowest return")
    parser.add_argument("--best", **number, help="so many with the highest return")
    parser.add_argument("--failed", action="store_true", help="all that failed")
    parser.add_argument(
        "--episode", metavar="INDEX", type=whole_number, nargs="+", default=[], help="these"
    )
    parser.add_argument("--format", choices=("mp4", "gif"), default="mp4", help="default: mp4")
    parser.add_argument(
        "--fps",
        metavar="N",
        type=frames_per_second,
        help="frames per second; default: what the environment says, else 30",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, help="where to write; default: DIR/video"
    )
    add_trust(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Film the episodes; return the exit code."""
    from maze.cli.replay import outcome
    from maze.core.rollout.rendering import (
        VideoRecorder,
        has_display,
        video_file_name,
        without_display,
    )
    from maze.core.rollout.replay import recorded_row, refusal, replay_episode
    from maze.core.rollout.run_directory import RunDirectory

    directory = RunDirectory(arguments.directory)
    chosen = _chosen(directory.table, arguments)
    rows = {index: recorded_row(directory, index) for index in chosen}
    folder = arguments.output or directory.path / "video"
    exit_code = OK
    with contextlib.ExitStack() as stack:
        if not has_display():
            stack.enter_context(without_display())
        for index, why in chosen.items():
            if reason := refusal(rows[index]):
                print_lines([f"episode {index} ({why}) is not filmed: {reason}"])
                exit_code = REQUEST_NOT_MET
                continue
            with VideoRecorder(
                folder, video_format=arguments.format, frames_per_second=arguments.fps
            ) as video:
                replay = replay_episode(
                    directory,
                    index,
                    trust=arguments.trust,
                    after_step=video.after_step,
                    render_mode="rgb_array",
                )
            path = folder / video_file_name(index, arguments.format)
            filmed = f"{path} ({why})" if video.n_files else f"no frame ({why})"
            verdict = "proven by its digest" if replay.is_equal else replay.explanation
            print_lines([f"{filmed}: {outcome(replay)}; {verdict}"])
            if not replay.is_equal:
                exit_code = REQUEST_NOT_MET
    return exit_code


def _chosen(table: EpisodeTable, arguments: argparse.Namespace) -> dict[int, str]:
    """Return the indices of the episodes to film, and why each of them was chosen."""
    n_worst, n_best = arguments.worst, arguments.best
    if not (n_worst or n_best or arguments.failed or arguments.episode):
        n_worst = n_best = 1
    indices = table.episode_indices.tolist()
    by_index = dict(zip(indices, table["ending"], strict=True))
    returns = dict(zip(indices, map(float, table["return"]), strict=True))
    # Those that failed did not get as far as they might have; NaN is neither good nor bad.
    ranked = [i for i in indices if by_index[i] != "failed" and returns[i] == returns[i]]
    ranked.sort(key=lambda index: returns[index])
    reasons: dict[int, list[str]] = {}
    for why, group in (
        ("worst", ranked[:n_worst]),
        ("best", sorted(ranked, key=lambda index: -returns[index])[:n_best]),
        ("failed", [i for i in indices if arguments.failed and by_index[i] == "failed"]),
        ("asked for", arguments.episode),
    ):
        for index in dict.fromkeys(group):
            reasons.setdefault(index, []).append(why)
    if not reasons:
        raise ConfigError(f"there is no such episode among the {len(table)} of this run")
    return {index: ", ".join(why) for index, why in reasons.items()}
