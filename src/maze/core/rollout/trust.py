"""What a config names: code that would be imported if a recorded run were set up again.

Whoever got an output directory from somebody else wants to look at it without running what that
person thought of. So before anything is rebuilt from a config, ``check_trust`` tells what that
would import.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any, Literal

import gymnasium as gym

from maze.core.errors import ConfigError
from maze.core.factory import TARGET
from maze.core.wrappers.pettingzoo_env import is_shipped

GROUPS = ("runner", "env", "policy", "wrappers", "model", "seeding")
"""The groups of a config that name code."""

TARGETS_OF_CONFIGS = frozenset(
    {
        "maze.core.agent.dummy_cartpole_policy.DummyCartPolePolicy",
        "maze.core.agent.flat_policies.FlatPolicies",
        "maze.core.agent.lunar_lander_heuristic_policy.LunarLanderHeuristicPolicy",
        "maze.core.agent.masked_random_policy.MaskedRandomPolicy",
        "maze.core.agent.random_policy.RandomPolicy",
        "maze.core.rollout.parallel_rollout_runner.ParallelRolloutRunner",
        "maze.core.rollout.sequential_rollout_runner.SequentialRolloutRunner",
        "maze.core.seeding.seed_range",
        "maze.core.wrappers.maze_gym_env_wrapper.make_gym_maze_env",
        "maze.core.wrappers.pettingzoo_env.PettingZooEnv",
        "maze.train.models.blocks.ConvolutionBlock",
        "maze.train.models.blocks.DenseBlock",
        "maze.train.models.blocks.RecurrentBlock",
        "maze.train.models.custom.CustomModel",
        "maze.train.models.template.TemplateModel",
        "maze.train.trained_policy.TrainedPolicy",
        "maze.train.trainers.a2c.A2C",
        "maze.train.trainers.bc.BC",
        "maze.train.trainers.dagger.DAgger",
        "maze.train.trainers.es.ES",
        "maze.train.trainers.ppo.PPO",
        "maze.train.trainers.sac.SAC",
        "maze.train.training_runner.TrainingRunner",
    }
)
"""What the config files of Maze name: harmless whatever the arguments are."""

WRAPPERS_OF_MAZE = frozenset(
    f"maze.core.wrappers.{path}"
    for path in (
        "action_recording_wrapper.ActionRecordingWrapper",
        "dict_action_wrapper.DictActionWrapper",
        "dict_observation_wrapper.DictObservationWrapper",
        "discretize_actions_wrapper.DiscretizeActionsWrapper",
        "monitoring_wrapper.MazeEnvMonitoringWrapper",
        "observation_normalization_wrapper.ObservationNormalizationWrapper",
        "observation_stack_wrapper.ObservationStackWrapper",
        "preprocessing_wrapper.PreProcessingWrapper",
        "random_reset_wrapper.RandomResetWrapper",
        "return_normalization_reward_wrapper.ReturnNormalizationRewardWrapper",
        "reward_clipping_wrapper.RewardClippingWrapper",
        "reward_scaling_wrapper.RewardScalingWrapper",
        "split_actions_wrapper.SplitActionsWrapper",
        "step_skip_wrapper.StepSkipWrapper",
        "time_limit_wrapper.TimeLimitWrapper",
    )
)
"""Harmless too."""

PRE_PROCESSORS_OF_MAZE = frozenset(
    f"maze.core.wrappers.preprocessors.{name}PreProcessor"
    for name in ("Flatten", "OneHot", "ResizeImg", "Rgb2Gray", "Transpose", "UnSqueeze")
)
"""And these, which are arguments of a wrapper."""

PROCESSORS_OF_MAZE = frozenset(
    f"maze.datasets.selection.{name}" for name in ("ClipTerminated", "ClipTruncated", "DropShort")
)
"""And what a training leaves out of recordings."""

# What makes an environment from a Gymnasium id, and the argument that is the id.
_MAKES_FROM_ID = {
    "maze.core.wrappers.maze_gym_env_wrapper.make_gym_maze_env": "name",
    "maze.core.wrappers.maze_gym_env_wrapper.GymMazeEnv": "env",
}
# What makes one that PettingZoo ships, or what a dotted path names.
_MAKES_FROM_NAME = {"maze.core.wrappers.pettingzoo_env.PettingZooEnv": "name"}
_HARMLESS = (
    TARGETS_OF_CONFIGS
    | WRAPPERS_OF_MAZE
    | PRE_PROCESSORS_OF_MAZE
    | PROCESSORS_OF_MAZE
    | _MAKES_FROM_ID.keys()
)
# Arguments of wrappers and blocks that are the dotted path of a class.
_CLASS_ARGUMENTS = ("default_strategy", "strategy", "activation")
_CALLABLE_POLICY = "maze.core.agent.callable_policy.CallablePolicy"
RANDOM = "random"


def check_trust(config: Mapping[str, Any], trust: bool, groups: Sequence[str] = GROUPS) -> None:
    """Refuse to rebuild what would import code that is not known to be harmless.

    Args:
        config: of a recorded run.
        trust: whether the user agreed to it.
        groups: those that are going to be rebuilt.

    Raises:
        ConfigError: If there is such code and the user did not agree.
    """
    names = [] if trust else what_would_be_imported(config, groups)
    if names:
        listed = "".join(f"\n  {_shown(name)}" for name in names)
        raise ConfigError(
            "to play this run again, what its config names would be imported and called, which can"
            f" do anything that you can:{listed}\nIf you trust whoever made it, agree with --trust"
            " (in Python: trust=True)."
        )


def what_would_be_imported(config: Mapping[str, Any], groups: Sequence[str] = GROUPS) -> list[str]:
    """Return the names of code that rebuilding a config would import or call.

    What is known to be harmless is left out: the classes that Maze's own configs name, Maze's
    wrappers and bundled environments, and the environments that Gymnasium itself registers or
    that PettingZoo ships.

    Args:
        config: of a recorded run. Nothing of it is imported.
        groups: those that are going to be rebuilt.

    Returns:
        Dotted paths, and ids of environments, each once, as they stand in the config.
    """
    found: dict[str, None] = {}
    for group in groups:
        for name, is_id in _named_code(group, config.get(group)):
            if not (_is_gymnasiums_own(name) if is_id else _is_harmless(name)):
                found[name] = None
    return list(found)


def _named_code(group: str, value: Any) -> Iterator[tuple[str, bool]]:
    """Yield names of code, and whether each is the id of an environment."""
    if group == "env" and isinstance(value, str):
        if (kind := kind_of_env(value)) != "lost":
            yield value, kind == "id"
    elif group == "policy" and isinstance(value, str):
        if value != RANDOM and is_name(value):
            yield value, False
    elif group == "wrappers":
        yield from ((name, False) for name in _wrapper_names(value))
    elif group == "runner" and isinstance(value, Mapping):
        yield from ((name, False) for name in _wrapper_names(value.get("wrappers")))
    for mapping in _walk(value):
        if not isinstance(mapping, Mapping):
            continue
        for key in _CLASS_ARGUMENTS:
            if isinstance(mapping.get(key), str) and "." in mapping[key]:
                yield mapping[key], False
        if isinstance(mapping.get("distributions"), Mapping):
            for name in mapping["distributions"].values():
                if isinstance(name, str) and "." in name:
                    yield name, False
        if mapping.get(TARGET) is None:
            continue
        target = str(mapping[TARGET])
        yield target, False
        if target == _CALLABLE_POLICY and isinstance(mapping.get("function"), str):
            yield mapping["function"], False
        env_id = mapping.get(_MAKES_FROM_ID.get(target, ""))
        if isinstance(env_id, str):
            yield env_id, True
        name = mapping.get(_MAKES_FROM_NAME.get(target, ""))
        if isinstance(name, str) and not is_shipped(name):
            yield name, False


def _wrapper_names(wrappers: Any) -> Iterator[str]:
    """Yield what ``apply_wrappers`` would import; the targets of mappings are found elsewhere."""
    if isinstance(wrappers, Mapping):
        yield from map(str, wrappers)
    elif isinstance(wrappers, Sequence) and not isinstance(wrappers, str):
        for entry in wrappers:
            if isinstance(entry, str):
                yield entry
            elif isinstance(entry, Mapping) and TARGET not in entry:
                yield from map(str, entry)


def _walk(value: Any) -> Iterator[Any]:
    """Yield a value and all that it contains, keys included."""
    seen: set[int] = set()
    to_visit = [value]
    while to_visit:
        visited = to_visit.pop()
        if isinstance(visited, Mapping | list | tuple):
            if id(visited) in seen:  # YAML can make a list that contains itself.
                continue
            seen.add(id(visited))
            inside = [*visited, *visited.values()] if isinstance(visited, Mapping) else visited
            to_visit.extend(reversed(inside))
        yield visited


def _is_harmless(path: str) -> bool:
    return path in _HARMLESS or (path.startswith("maze_envs.") and _is_bundled(path))


def _is_bundled(path: str) -> bool:
    """Return whether a path names a class or function of ``maze_envs`` itself."""
    module_name, _, name = path.rpartition(".")
    if not is_name(path) or module_name == "maze_envs":
        return False
    try:
        if importlib.util.find_spec(module_name) is None:
            return False
        found = getattr(importlib.import_module(module_name), name, None)
    except ImportError:
        return False
    # Not what such a module imports.
    return isinstance(found, type | FunctionType) and found.__module__ == module_name


def _is_gymnasiums_own(env_id: str) -> bool:
    """Return whether Gymnasium itself registers an id, so that making it imports nothing else."""
    spec = gym.registry.get(env_id)
    if spec is not None:
        return str(spec.entry_point).startswith("gymnasium.") and not spec.additional_wrappers
    # Without a version it stands for the latest one.
    versions = [known for known in gym.registry if re.sub(r"-v\d+$", "", known) == env_id]
    return bool(versions) and all(map(_is_gymnasiums_own, versions))


def kind_of_env(text: str) -> Literal["id", "path", "lost"]:
    """Tell what the text stands for that an environment is given by."""
    if is_lost(text) or not re.fullmatch(r"[\w:./-]+", text):
        return "lost"
    return "path" if is_path(text) else "id"


def is_path(text: str) -> bool:
    """Return whether a text is a dotted path; ids of environments have a version."""
    return "." in text and is_name(text) and text not in gym.registry


def is_name(text: str) -> bool:
    """Return whether a text could name a module or something in it."""
    return all(part.isidentifier() for part in text.split(".")) and not is_lost(text)


def is_lost(text: str) -> bool:
    """Return whether a text is what is left of a Python object that it cannot be made from."""
    return (
        text.startswith(("__main__.", "functools.partial("))
        or "<lambda>" in text
        or "<locals>" in text
    )


def check_is_not_lost(value: Any, group: str) -> None:
    """Refuse what describes a Python object."""
    for text in _walk(value):
        if isinstance(text, str) and is_lost(text):
            raise not_rebuildable(text, group)


_WHAT = {"runner": "runner", "env": "environment", "policy": "policy", "wrappers": "wrapper"}


def not_rebuildable(text: str, group: str) -> ConfigError:
    """Return the error for a group whose value says only what Python object it was."""
    passed = (
        "run it with maze.rollout(...) again"
        if group == "runner"
        else f"pass it in Python: maze.replay(..., {group}=...), likewise maze.resume and"
        " maze.verify"
    )
    return ConfigError(
        f"the {_WHAT[group]} of this run was given as a Python object ({_shown(text)}), which a"
        f" config cannot hold: {passed}"
    )


def can_be_rebuilt(config: Mapping[str, Any], groups: Sequence[str] = GROUPS) -> bool:
    """Return whether a config holds all that it takes, and no mere names of Python objects."""
    for group in groups:
        value = config.get(group)
        if any(isinstance(text, str) and is_lost(text) for text in _walk(value)):
            return False
        if group == "env" and isinstance(value, str) and kind_of_env(value) == "lost":
            return False
        if group == "policy" and isinstance(value, str) and not is_name(value):
            return False
    return True


def _shown(text: str) -> str:
    """Return a text from a config so that it does nothing to a terminal."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= 200 else shown[:197] + "..."
