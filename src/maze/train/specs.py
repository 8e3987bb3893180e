"""What a policy was trained for: the spaces, agents and masks of an environment, as one value.

They are kept beside the weights as JSON, so that a checkpoint that is rolled out in another
environment is refused with a sentence instead of a message about matrix shapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces

from maze.core.env.structured_env import StepKey, StructuredEnv
from maze.core.errors import ConfigError, MazeError
from maze.core.trajectory.space_json import space_from_json, space_to_json

SPACES_FILE = "spaces.json"


@dataclass(frozen=True)
class EnvSpecs:
    """All that networks have to know of an environment."""

    observation_spaces: Mapping[StepKey, spaces.Dict]
    action_spaces: Mapping[StepKey, spaces.Dict]
    agent_counts: Mapping[StepKey, int]
    action_masks: Mapping[StepKey, Mapping[str, str]]

    @classmethod
    def of(cls, env: StructuredEnv) -> EnvSpecs:
        """Return those of an environment."""
        return cls(
            dict(env.observation_spaces),
            dict(env.action_spaces),
            dict(env.agent_counts),
            {key: dict(env.action_masks.get(key, {})) for key in env.observation_spaces},
        )

    def save(self, directory: Path) -> None:
        """Write them to ``spaces.json`` in a directory."""
        (directory / SPACES_FILE).write_text(
            json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, directory: Path) -> EnvSpecs:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: If there is no such file, or it says something else.
        """
        path = directory / SPACES_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            by_key = {_key(entry["step_key"]): entry for entry in content["step_keys"]}
            return cls(
                {key: _dict_space(entry["observation_space"]) for key, entry in by_key.items()},
                {key: _dict_space(entry["action_space"]) for key, entry in by_key.items()},
                {key: int(entry["n_agents"]) for key, entry in by_key.items()},
                {key: dict(entry["action_masks"]) for key, entry in by_key.items()},
            )
        except FileNotFoundError:
            raise ConfigError(
                f"there is no {SPACES_FILE} in '{directory}': is it the output directory of a"
                " training?"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, MazeError) as error:
            raise ConfigError(
                f"'{path}' cannot be read: {type(error).__name__}: {error}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return them in types of JSON. Step keys are in a list, as they may be numbers."""
        return {
            "step_keys": [
                {
                    "step_key": key,
                    "n_agents": self.agent_counts[key],
                    "observation_space": space_to_json(space),
                    "action_space": space_to_json(self.action_spaces[key]),
                    "action_masks": dict(self.action_masks.get(key, {})),
                }
                for key, space in self.observation_spaces.items()
            ]
        }

    def check_fits(
        self,
        env: EnvSpecs,
        what: str = "the policy was trained for another environment",
        advice: str = "Use the environment and wrappers of the training (without env=... and"
        " wrappers=... they are taken from input_dir)",
    ) -> None:
        """Refuse an environment that is another one than this was made for.

        Args:
            env: its specs.
            what: does not fit.
            advice: what to do.

        Raises:
            ConfigError: If step keys or spaces differ; it names the first difference.
        """
        difference = self._difference(env)
        if difference:
            raise ConfigError(f"{what}: {difference}. {advice}.")

    def _difference(self, env: EnvSpecs) -> str:
        if list(self.observation_spaces) != list(env.observation_spaces):
            return (
                f"its step keys are {list(self.observation_spaces)}, here they are"
                f" {list(env.observation_spaces)}"
            )
        for kind, ours, theirs in (
            ("observation", self.observation_spaces, env.observation_spaces),
            ("action", self.action_spaces, env.action_spaces),
        ):
            for key, space in ours.items():
                here = theirs[key]
                of_key = "" if len(ours) == 1 else f" of step key {key!r}"
                if list(space.spaces) != list(here.spaces):
                    return (
                        f"its {kind}s{of_key} are {', '.join(space.spaces)}, here they are"
                        f" {', '.join(here.spaces)}"
                    )
                for name, entry in space.spaces.items():
                    fits = _same_shape(entry, here.spaces[name]) if kind == "observation" else False
                    if not fits and entry != here.spaces[name]:
                        return (
                            f"the {kind} '{name}'{of_key} was in {entry}, here it is in"
                            f" {here.spaces[name]}"
                        )
        return ""


def _same_shape(trained: spaces.Space[Any], here: spaces.Space[Any]) -> bool:
    """Return whether networks for one space serve the other: bounds of observations may differ."""
    if not (isinstance(trained, spaces.Box) and isinstance(here, spaces.Box)):
        return False
    return trained.shape == here.shape and trained.dtype == here.dtype


def _key(value: Any) -> StepKey:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{value!r} is no step key")


def _dict_space(content: Any) -> spaces.Dict:
    space = space_from_json(content)
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"{space} is no dictionary of spaces")
    return space
