"""How Maze uses Hydra: the defaults for every root config, ours and the users'."""

from __future__ import annotations

import warnings
from typing import Any

import hydra
from hydra.conf import HydraConf, JobConf
from hydra.core.config_store import ConfigStore
from hydra.types import TaskFunction

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
