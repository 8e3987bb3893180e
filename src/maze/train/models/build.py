"""Makes a model of what was given: a config, a model, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from maze.core.factory import TARGET, Factory
from maze.train.models.model import Model
from maze.train.models.template import TemplateModel
from maze.train.specs import EnvSpecs

ModelSource: TypeAlias = "Mapping[str, Any] | Model | None"
"""A config of a ``Model``, a model, or ``None`` for two dense layers of 64."""

_DENSE = "maze.train.models.blocks.DenseBlock"


def build_model(source: ModelSource, specs: EnvSpecs, seed: int = 0) -> Model:
    """Make a model.

    Args:
        source: what of.
        specs: of the environment.
        seed: of the first weights. The global generator of torch is left as it was.

    Raises:
        ConfigError: If the config cannot be built, or does not fit the spaces.
    """
    if isinstance(source, Model):
        return source
    if source is None or not source:
        source = {
            TARGET: TemplateModel,
            "modalities": {"vector": {TARGET: _DENSE, "hidden_units": []}},
            "hidden": {TARGET: _DENSE, "hidden_units": [64, 64]},
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Factory(Model, where="model").build(source, specs=specs)
