"""How Maze uses Hydra: the defaults for every root config, ours and the users'."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf, JobConf
from hydra.core.config_store import ConfigStore
from hydra.types import TaskFunction

from maze.core.errors import ConfigError, did_you_mean

CONFIG_NAME = "conf_rollout"

# With "1.1", configs headed `# @package _group_` still work, which users have.
VERSION_BASE = "1.1"

_NEWS_FOR_DEVELOPERS_OF_HYDRA_APPLICATIONS = (
    "(?s).*selects Hydra 1.1 compatibility behavior",
    "(?s).*deprecated keyword in package header",
    "(?s).*Defaults list is missing `_self_`",
    "(?s).*Default list overrides requires 'override' keyword",
)


def hydra_main(play: TaskFunction) -> None:
    """Compose the config from the arguments of the process and call ``play`` with it."""
    for message in _NEWS_FOR_DEVELOPERS_OF_HYDRA_APPLICATIONS:
        warnings.filterwarnings("ignore", message)
    _store_defaults()
    hydra.main(version_base=VERSION_BASE, config_path="pkg://maze.conf", config_name=CONFIG_NAME)(
        play
    )()


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse flags that Hydra does not know, and one that would leave Maze without its configs.

    Raises:
        ConfigError: If there is such a flag.
    """
    parser = get_args_parser()
    parser.usage = "maze-run [group=option ...] [group.key=value ...] [flags]"
    flags, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise ConfigError(
            f"there is no flag '{unknown[0]}'.{did_you_mean(unknown[0], known)}"
            " maze-run --help shows what there is."
        )
    if flags.config_path is not None:
        raise ConfigError(
            "--config-path would hide the configs of Maze. Add a folder with configs of your own"
            " by --config-dir."
        )


def _store_defaults() -> None:
    # In the store and not in conf_rollout.yaml, so that a user's root config that does not
    # inherit from ours has them as well; it can still change each of them.
    ours: dict[str, Any] = {
        "help": "maze",
        "hydra_logging": "none",
        "job_logging": "maze",
        "callbacks": "maze",
    }
    conf = HydraConf(job=JobConf(chdir=False))
    for default in conf.defaults:
        default.update({group: ours[group] for group in default if group in ours})
    ConfigStore.instance().store(group="hydra", name="config", node=conf, provider="maze")
