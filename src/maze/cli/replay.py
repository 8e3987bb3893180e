"""``maze replay``: shows a recorded episode again, and whether it is the recorded one.

With ``--pdb`` it stops one step before the episode failed.
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
    from maze.cli.debugger import Debugger
    from maze.core.rollout.rendering import VideoFormat
    from maze.core.rollout.replay import Replay
    from maze.core.rollout.run_directory import RunDirectory

_HELP = "show a recorded episode again"
_DESCRIPTION = """\
Plays a recorded episode again, from its seeds and with its recorded actions, in a window or, where
there is no display, into a video file. Says whether it is the recorded episode (the digests over
observations, actions and rewards are equal) or where it differs first.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay", help=_HELP, description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="output directory of the run")
    parser.add_argument(
        "--episode", metavar="INDEX", type=whole_number, required=True, help="which episode"
    )
    parser.add_argument(
        "--pdb",
        action="store_true",
        help="stop in the debugger before the call that failed (of the environment or the policy)",
    )
    parser.add_argument(
        "--step",
        metavar="N",
        type=whole_number,
        help="with --pdb: stop before this (sub-)step, counted from 0",
    )
    parser.add_argument(
        "--video", metavar="PATH", type=Path, help="film it to this file, .mp4 or .gif"
    )
    parser.add_argument(
        "--fps", metavar="N", type=frames_per_second, help="frames per second of the video"
    )
    parser.add_argument(
        "--ask-policy",
        action="store_true",
        help="have the run's policy act, instead of taking the recorded actions; for an"
        " environment and a policy that draw from the same global random generator, too",
    )
    parser.add_argument(
        "--beyond",
        action="store_true",
        help="play on where the episode ended its process or hung",
    )
    add_trust(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay the episode; return the exit code."""
    from maze.core.rollout.rendering import has_display, video_file_name
    from maze.core.rollout.replay import recorded_row
    from maze.core.rollout.run_directory import RunDirectory

    directory = RunDirectory(arguments.directory)
    row = recorded_row(directory, arguments.episode)
    if arguments.step is not None and not arguments.pdb:
        raise ConfigError("--step says where --pdb stops: give both")
    path = arguments.video or directory.path / "video" / video_file_name(row.episode_index)
    debugger = _debugger(directory, arguments) if arguments.pdb else None
    note = ""
    is_shown = arguments.video is not None or has_display() or debugger is None
    try:
        replay, shown = _replay(directory, arguments, path, debugger, is_shown)
    except ConfigError as error:
        if arguments.video is not None or not is_shown:
            raise
        # It can be proven all the same, unless this was not about showing it.
        replay, shown = _replay(directory, arguments, path, debugger, False)
        note = f"it cannot be shown: {error}"
    if debugger is not None and not debugger.has_stopped:
        note = f"the debugger did not stop: {debugger.where} was not reached"
    print_lines([f"{outcome(replay)}{shown}", replay.explanation, *([note] if note else [])])
    return OK if replay.is_equal else REQUEST_NOT_MET


def outcome(replay: Replay) -> str:
    """Say in some words how an episode went."""
    episode = replay.episode
    n = episode.n_steps
    ending: str = episode.ending
    if replay.was_stopped:
        ending = "not played to its end"
    elif episode.failure is not None:
        ending = f"failed ({' '.join(str(episode.failure).split())})"
    elif episode.truncated_by:
        ending = f"truncated by the {episode.truncated_by}"
    steps = "1 step" if n == 1 else f"{n} steps"
    return f"episode {episode.spec.index}: {steps}, return {episode.episode_return:.6g}, {ending}"


def _replay(
    directory: RunDirectory,
    arguments: argparse.Namespace,
    path: Path,
    debugger: Debugger | None,
    is_shown: bool,
) -> tuple[Replay, str]:
    """Replay the episode, and say where it was shown."""
    from maze.core.rollout.rendering import VideoRecorder, has_display, without_display
    from maze.core.rollout.replay import replay_episode

    options: dict[str, Any] = {
        "trust": arguments.trust,
        "beyond": arguments.beyond,
        "acted_by": "policy" if arguments.ask_policy else None,
    }
    if debugger is not None:
        options |= {
            "around_env": debugger.around_env,
            "around_policy": debugger.around_policy,
            "beyond": True,  # Where to stop is left to whoever sits at the debugger.
        }
    if not is_shown:
        return replay_episode(directory, arguments.episode, **options), ""
    has_window = has_display() and arguments.video is None
    with contextlib.ExitStack() as stack:
        if not has_display():
            stack.enter_context(without_display())
        video = stack.enter_context(
            VideoRecorder(
                path.parent,
                video_format=_video_format(path),
                frames_per_second=arguments.fps,
                file_name=path.name,
            )
        )
        replay = replay_episode(
            directory,
            arguments.episode,
            **options,
            # What shows itself in a window is not filmed.
            after_step=video.after_step_unless_shown,
            render_mode="human" if has_window else "rgb_array",
        )
    return replay, f"; filmed to {path}" if video.n_files else "; shown in a window"


def _video_format(path: Path) -> VideoFormat:
    from maze.core.rollout.rendering import VIDEO_FORMATS

    for video_format in VIDEO_FORMATS:
        if path.suffix.lower() == f".{video_format}":
            return video_format
    raise ConfigError(
        f"--video names '{path}', expected a file that ends in .{' or .'.join(VIDEO_FORMATS)}"
    )


def _debugger(directory: RunDirectory, arguments: argparse.Namespace) -> Debugger:
    from maze.cli.debugger import Debugger, Stop, stop_before_failure

    if arguments.step is not None:
        return Debugger(Stop("step", arguments.step))
    return Debugger(stop_before_failure(directory, arguments.episode))
