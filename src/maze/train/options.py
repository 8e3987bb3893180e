"""Options of a training that are the same for all algorithms."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from maze.core.errors import ConfigError

_COUNTS = {
    "n_steps": 1,
    "max_episode_steps": 0,
    "eval_every_steps": 1,
    "n_eval_episodes": 0,
    "n_eval_lanes": 1,
    "log_every_steps": 1,
    "max_failures": 0,
    "n_torch_threads": 1,
}
_FLAGS = ("eval_deterministic", "tensorboard", "learning_curve")


@dataclass(frozen=True)
class TrainingOptions:
    """How long a training goes, and what is done beside it."""

    n_steps: int = 200_000
    """Structured steps that are played in all."""
    max_episode_steps: int = 0
    """After which an episode is cut off; 0: by the environment alone."""
    eval_every_steps: int = 10_000
    """Steps between evaluations. A checkpoint is written after each of them."""
    n_eval_episodes: int = 10
    """Episodes of each evaluation, always the same ones. 0: there are no evaluations, and the last
    weights are kept."""
    eval_deterministic: bool = True
    """Whether the most likely actions are taken in evaluations."""
    n_eval_lanes: int = 10
    """Episodes that a process evaluates side by side."""
    patience: int | None = None
    """End the training after so many evaluations without a better one. ``None``: do not."""
    target_return: float | None = None
    """End it when an evaluation's mean return is at least this. ``None``: do not."""
    log_every_steps: int = 2_000
    """Steps between rows of the log, at least one update."""
    max_failures: int = 10
    """Episodes that may fail before the training ends with an error."""
    n_torch_threads: int = 1
    """Threads of torch in this process. Small networks are quickest with one."""
    device: str = "cpu"
    """Where networks learn. Processes of their own always act on the CPU."""
    batch_size: int | None = None
    """Rows of each batch that policy networks are asked for while acting, if trainings are to be
    equal to the bit for any number of processes. ``None``: as many as there are."""
    tensorboard: bool = True
    """Whether to write for TensorBoard, if tensorboardX is installed."""
    learning_curve: bool = True
    """Whether to draw the learning curve at the end, if matplotlib is installed."""

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"'training.{name}' has to be a whole number from {least}, got {value!r}"
                )
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"'training.{name}' has to be true or false, got {getattr(self, name)!r}"
                )
        for name in ("patience", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(
                    f"'training.{name}' has to be a whole number from 1, or null, got {value!r}"
                )
        if self.target_return is not None and not isinstance(self.target_return, int | float):
            raise ConfigError(
                f"'training.target_return' has to be a number, or null, got {self.target_return!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return them by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
