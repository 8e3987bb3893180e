"""Trainings on the command line: from a config to a training, and on from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.cli.messages import INTERRUPTED, OK
from maze.core.errors import ConfigError, MissingExtraError
from maze.core.factory import call
from maze.core.rollout.setup import RunSetup
from maze.core.rollout.trust import check_trust

if TYPE_CHECKING:
    from maze.train.result import TrainingResult

GROUPS = ("runner", "env", "wrappers", "model", "algorithm", "seeding")

# What can be changed for the rest of a training.
_MAY_CHANGE = ("runner.", "training.")


def is_training(config: Mapping[str, Any]) -> bool:
    """Return whether a config is that of a training."""
    return "algorithm" in config


def train(plain: dict[str, Any], directory: Path, command: str) -> TrainingResult:
    """Run the training that a config describes.

    Args:
        plain: the config, in plain values; base seeds are filled in.
        directory: where to write.
        command: what was typed.
    """
    for group in ("runner", "env", "algorithm"):
        if plain.get(group) is None:
            raise ConfigError(
                f"the config has no '{group}'. Add it to the defaults list of the root config, or"
                f" choose one with +{group}=..."
            )
    _resolve_recordings(plain)
    setup = RunSetup.from_config(plain)
    seeding = setup.seeding().resolved()
    for name in ("env_base_seed", "agent_base_seed"):
        plain.setdefault("seeding", {})[name] = getattr(seeding, name)
    return _run(plain, setup, directory, command, resume=False)


def resume_training(
    directory: Path,
    config: Mapping[str, Any],
    changes: Mapping[str, Any],
    trust: bool,
    command: str,
) -> TrainingResult:
    """Go on with a training.

    Args:
        directory: its output directory.
        config: from there.
        changes: options that take the place of others, by their dotted names.
        trust: whether to import what the config names.
        command: what was typed.
    """
    check_trust(config, trust, GROUPS)
    plain: dict[str, Any] = {**config}
    for name, value in changes.items():
        group, _, key = name.partition(".")
        if not name.startswith(_MAY_CHANGE) or "." in key:
            raise ConfigError(
                f"'{name}' cannot be changed for the rest of a training: only options of runner"
                " and training can. For another algorithm or environment, begin a training from"
                f" its weights: maze-run -cn conf_train input_dir={directory} ..."
            )
        plain[group] = {**plain.get(group, {}), key: value}
    return _run(plain, RunSetup.from_config(plain), directory, command, resume=True)


def exit_code_of(result: TrainingResult) -> int:
    """Return the exit code for a training that came to its end or was interrupted."""
    return INTERRUPTED if result.interrupted else OK


def _resolve_recordings(plain: Mapping[str, Any]) -> None:
    """Make paths of recordings absolute: a training may go on in another working directory."""
    dataset = plain["runner"].get("dataset") if isinstance(plain["runner"], Mapping) else None
    given = dataset.get("dir_or_file") if isinstance(dataset, dict) else None
    if isinstance(dataset, dict) and given:
        several = [given] if isinstance(given, str) else list(given)
        paths = [str(Path(path).absolute()) for path in several]
        dataset["dir_or_file"] = paths[0] if isinstance(given, str) else paths


def _run(
    plain: dict[str, Any], setup: RunSetup, directory: Path, command: str, resume: bool
) -> TrainingResult:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("PyTorch, which trainings need,", "train") from None
    from maze.core.factory import Factory
    from maze.train.options import TrainingOptions
    from maze.train.training_runner import TrainingRunner

    options = call(TrainingOptions, plain.get("training") or {}, where="training")
    runner = Factory(TrainingRunner, where="runner").build(plain["runner"])
    input_dir = plain.get("input_dir") or None
    return runner.run_with(
        env=setup.env_source(),
        algorithm=plain["algorithm"],
        model=plain.get("model"),
        wrappers=setup.wrappers or {},
        options=options,
        seeding=setup.seeding(),
        output_dir=directory,
        input_dir=input_dir,
        config=plain,
        command=command,
        resume=resume,
    )
