"""What a rollout takes from the directory of the training whose policy it plays.

``maze-run policy=torch_policy input_dir=DIR`` is to play what was trained where it was trained. So
what the command does not name is taken from the config of the training: environment, wrappers and
model. Statistics of observations come along, as files that the wrappers load.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maze.core.errors import ConfigError
from maze.core.rollout.trust import check_trust

PARTS = ("model", "env", "wrappers")
"""Groups that can be taken from there."""


def check_policy_has_directory(config: Mapping[str, Any]) -> None:
    """Refuse a policy that is loaded from an ``input_dir`` if none was named.

    Raises:
        ConfigError: If that is so.
    """
    policy = config.get("policy")
    if isinstance(policy, Mapping) and policy.get("input_dir") == "":
        raise ConfigError(
            "this policy is what a training has learnt: say where that is, with"
            " input_dir=<output directory of the training>"
        )


def take_from_input_directory(
    config: dict[str, Any], overrides: Sequence[str], trust: bool
) -> list[str]:
    """Fill a config with what belongs to the training in its ``input_dir``.

    Args:
        config: of the rollout, in plain values; changed in place.
        overrides: what was typed. Groups that are named there are left as they are.
        trust: whether classes that the training's config names may be imported.

    Returns:
        The groups that were taken.

    Raises:
        ConfigError: If the directory is of another kind, or names code that is not known to be
            harmless while it is not trusted.
    """
    from maze.core.rollout.run_directory import read_config
    from maze.core.sinks.ledger_sink import CONFIG_FILE
    from maze.train.statistics_files import with_statistics

    directory = Path(config["input_dir"])
    wanted = _wanted(config.get("use_input_dir_config"), overrides)
    policy = config.get("policy")
    is_needed = isinstance(policy, Mapping) and "input_dir" in policy
    path = directory / CONFIG_FILE
    training = read_config(path) if path.exists() else {}
    if "algorithm" not in training:
        if not (is_needed or config.get("use_input_dir_config")):
            return []  # A policy of the user's own may find there what it likes.
        found = "that of a rollout" if training else "there is no config.yaml in it"
        raise ConfigError(
            f"input_dir is to be the output directory of a training, but '{directory}' is not:"
            f" {found}"
        )
    taken = [part for part in PARTS if part in wanted and part in training]
    check_trust(training, trust, taken)
    for part in taken:
        config[part] = training[part]
    if "model" in taken and isinstance(config.get("policy"), Mapping):
        config["policy"]["model"] = copy.deepcopy(training["model"])
    config["wrappers"] = with_statistics(config.get("wrappers"), directory)
    return taken


def _wanted(choice: Any, overrides: Sequence[str]) -> set[str]:
    if choice is None:
        named = {
            override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides
        }
        return set(PARTS) - named
    if isinstance(choice, bool):
        return set(PARTS) if choice else set()
    if not isinstance(choice, Mapping):
        raise ConfigError(
            f"'use_input_dir_config' has to be true, false, null or a mapping, got {choice!r}"
        )
    known = {f"use_input_dir_{part}": part for part in PARTS}
    for name, value in choice.items():
        if name not in known or not isinstance(value, bool):
            raise ConfigError(
                f"'use_input_dir_config' takes {', '.join(known)}, each true or false; got"
                f" {name}: {value!r}"
            )
    return {part for name, part in known.items() if choice.get(name, False)}
