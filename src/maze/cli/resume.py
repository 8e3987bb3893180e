"""``maze resume``: plays the episodes that are missing in an output directory."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from maze.cli.messages import print_lines
from maze.core.errors import ConfigError, RunStoppedError

DESCRIPTION = """\
Plays the episodes that are missing in an output directory: those that an interrupted or killed run
did not come to, and those whose data is damaged. With runner.n_episodes=... it is extended. What is
there is kept; the outcome is that of an undisturbed run.

A training goes on from its last checkpoint, and learns what an undisturbed one would; with
training.n_steps=... it is extended.

Other options of the runner that make no difference to an episode can be changed as well, such as
runner.n_processes=8. A change that would make other episodes is refused.
"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "resume",
        help="play the episodes that are missing, or more of them",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="runner.OPTION=VALUE",
        help="options to change, for instance runner.n_episodes=1000",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="play failed episodes again, too"
    )
    parser.add_argument(
        "--trust", action="store_true", help="import what the config of the run names"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.cli.maze_run import exit_code_of, print_result
    from maze.core.rollout.resume import resume_run

    changes = dict(parse_option(option) for option in arguments.options)
    command = shlex.join(["maze", *sys.argv[1:]])
    directory = Path(arguments.directory)
    config = config_of_training(directory)
    if config is not None:
        from maze.cli.training import exit_code_of as exit_code_of_training
        from maze.cli.training import resume_training

        if arguments.retry_failed:
            raise ConfigError("--retry-failed is for rollouts; this is the directory of a training")
        return exit_code_of_training(
            resume_training(directory, config, changes, arguments.trust, command)
        )
    try:
        result = resume_run(
            arguments.directory,
            changes,
            retry_failed=arguments.retry_failed,
            trust=arguments.trust,
            command=command,
            on_start=lambda text: print_lines([text, ""]),
        )
    except RunStoppedError as error:
        print_result(error.result)
        raise
    print_result(result)
    return exit_code_of(result)


def config_of_training(directory: Path) -> dict[str, Any] | None:
    """Return the config of a training; ``None`` if the directory is not that of one."""
    from maze.core.rollout.run_directory import read_config
    from maze.core.sinks.ledger_sink import CONFIG_FILE

    path = directory / CONFIG_FILE
    if (directory / "journal.jsonl").exists() or not path.exists():
        return None
    config = read_config(path)
    return config if "algorithm" in config else None


def parse_option(text: str) -> tuple[str, Any]:
    """Return name and value of an option as it is typed, ``runner.n_episodes=1000``."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(
            f"'{text}' is not understood. Options are written group.key=value, for instance"
            " runner.n_episodes=1000"
        )
    try:
        return name, yaml.safe_load(value) if value else None
    except yaml.YAMLError:
        raise ConfigError(f"'{text}': {value!r} is not a value that YAML understands") from None
