"""Loads what a training has left: model, weights and spaces, as a policy to roll out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces

from maze.core.env.structured_env import StepKey
from maze.core.errors import ConfigError, OutputError
from maze.core.rollout.run_directory import read_config
from maze.core.rollout.trust import what_would_be_imported
from maze.train.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from maze.train.models.build import build_model
from maze.train.specs import EnvSpecs
from maze.train.torch_policy import TorchPolicy, load_weights


class TrainedPolicy(TorchPolicy):
    """The policy that a training has learnt.

    The model is built from a config, which can name any class. If none is given, that of the
    training is read from its ``config.yaml``, provided that it names nothing but what is known to
    be harmless.

    Args:
        input_dir: output directory of the training.
        model: config of the model; ``None`` or empty: that of the training.
        weights: name of the file of weights in it: those of the best evaluation, or
            ``state_dict_last.pt``.
        device: see ``TorchPolicy``.
        batch_size: see ``TorchPolicy``.
        record_decisions: see ``TorchPolicy``.
        observation_spaces: of the environment it is to play, by step key. ``None``: not checked,
            as with the three below.
        action_spaces: likewise.
        agent_counts: likewise.
        action_masks: likewise.

    Raises:
        ConfigError: If something is missing, or does not fit.
    """

    def __init__(
        self,
        input_dir: str | Path,
        model: Mapping[str, Any] | None = None,
        weights: str = WEIGHTS_FILE,
        device: str = "cpu",
        batch_size: int | None = None,
        record_decisions: bool = False,
        observation_spaces: Mapping[StepKey, spaces.Dict] | None = None,
        action_spaces: Mapping[StepKey, spaces.Dict] | None = None,
        agent_counts: Mapping[StepKey, int] | None = None,
        action_masks: Mapping[StepKey, Mapping[str, str]] | None = None,
    ) -> None:
        if not input_dir:
            raise ConfigError(
                "policy=torch_policy plays what a training has learnt: say where it is, with"
                " input_dir=<output directory of the training>"
            )
        directory = Path(input_dir)
        if not directory.is_dir():
            raise ConfigError(f"there is no directory '{input_dir}' (input_dir)")
        specs = EnvSpecs.load(directory)
        if observation_spaces is not None and action_spaces is not None:
            specs.check_fits(
                EnvSpecs(
                    observation_spaces,
                    action_spaces,
                    agent_counts or specs.agent_counts,
                    action_masks or specs.action_masks,
                )
            )
        if not model:
            model = model_config(directory)
            if names := what_would_be_imported({"model": model}, ("model",)):
                raise ConfigError(
                    f"the model of the training in '{directory}' is made of code that would be"
                    f" imported and called: {', '.join(names)}. If you trust whoever made it, pass"
                    " it as model (model_config(directory) reads it; on the command line, --trust)."
                )
        built = build_model(model, specs)
        load_weights(built, directory / weights, policies_only=not record_decisions)
        super().__init__(built, device, batch_size, record_decisions)


def model_config(directory: Path) -> Mapping[str, Any]:
    """Return the config of the model of a training.

    Raises:
        ConfigError: If its ``config.yaml`` cannot be read, or the model was a Python object.
    """
    try:
        model = read_config(directory / CONFIG_FILE).get("model", {})
    except OutputError as error:
        raise ConfigError(f"the config of the training cannot be read: {error}") from error
    if not isinstance(model, Mapping):
        raise ConfigError(
            f"the model of the training was given as a Python object ({model}), which a config"
            " cannot hold: build it, load the weights with maze.train.torch_policy.load_weights and"
            " play TorchPolicy(model)"
        )
    return model
