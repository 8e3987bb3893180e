"""Observations in another form: flat, one-hot, smaller, grey, with other axes.

- observation: observation                # (210, 160, 3)
  _target_: maze.core.wrappers.preprocessors.Rgb2GrayPreProcessor
- observation: observation-rgb2gray       # (210, 160), made by the entry above
  _target_: maze.core.wrappers.preprocessors.ResizeImgPreProcessor
  config: {target_size: [96, 96]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from gymnasium import spaces

from maze.core.env.structured_env import Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, ContractError, did_you_mean
from maze.core.factory import TARGET, Factory, unknown_option
from maze.core.wrappers.preprocessors import PreProcessor
from maze.core.wrappers.wrapper import ObservationWrapper


@dataclass(frozen=True)
class PreProcessing:
    """What is made of one observation."""

    observation: str
    """Its key."""
    target: str | type[PreProcessor]
    """(The dotted path of) the pre-processor's class; in a mapping it is called ``_target_``."""
    keep_original: bool = False
    """Whether the observation stays, beside what is made of it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pre-processor."""


class PreProcessingWrapper(ObservationWrapper):
    """Puts observations through pre-processors, one after the other.

    What is made of an observation is called ``<observation>-<tag>``, with the pre-processor's tag,
    and can be named by entries further down. A step key without an entry's observation is left
    alone.

    Args:
        env: the environment inside.
        pre_processor_mapping: mappings with ``observation``, ``_target_`` and optionally
            ``keep_original`` (false) and ``config`` (none); see ``PreProcessing`` and
            ``maze.core.wrappers.preprocessors``.

    Raises:
        ConfigError: If an entry has unknown options, names an observation that no step key has at
            that point or that has the wrong kind of space, takes away an action mask, or makes a
            key that exists already.
        MissingExtraError: If images are resized and Pillow is not installed.
        ContractError: From ``reset`` and ``step``, if an observation lacks a key of its space.
    """

    def __init__(
        self,
        env: StructuredEnv,
        pre_processor_mapping: Sequence[Mapping[str, Any] | PreProcessing],
    ) -> None:
        super().__init__(env)
        if isinstance(pre_processor_mapping, str | Mapping) or not isinstance(
            pre_processor_mapping, Sequence
        ):
            raise ConfigError(
                "'pre_processor_mapping' has to be a list of entries with 'observation' and"
                f" '{TARGET}', got {pre_processor_mapping!r}."
            )
        found: dict[StepKey, dict[str, spaces.Space[Any]]] = {
            step_key: dict(space.spaces) for step_key, space in env.observation_spaces.items()
        }
        steps: dict[StepKey, list[_Step]] = {step_key: [] for step_key in found}
        for index, given in enumerate(pre_processor_mapping):
            where = f"pre_processor_mapping[{index}]"
            entry = _entry(given, where)
            _check_exists(entry, found, where)
            for step_key, of_key in found.items():
                if entry.observation in of_key:
                    masks = env.action_masks.get(step_key, {})
                    steps[step_key].append(_step(entry, of_key, masks, where))
        self._steps = {step_key: tuple(of_key) for step_key, of_key in steps.items()}
        self._only = next(iter(self._steps.values())) if len(self._steps) == 1 else None
        self.observation_spaces = {
            step_key: spaces.Dict(found[step_key]) if self._steps[step_key] else space
            for step_key, space in env.observation_spaces.items()
        }

    def observation(self, observation: Observation) -> Observation:
        """Return the observation in its other form."""
        steps = self._only
        if steps is None:
            steps = self._steps[self.env.actor_id().step_key]
        if not steps:
            return observation
        processed = dict(observation)
        for step in steps:
            try:
                value = processed.pop(step.source) if step.drops else processed[step.source]
            except KeyError:
                raise ContractError(
                    f"the observation has no '{step.source}', which is in its space and is to be"
                    f" pre-processed. It has: {', '.join(map(str, observation))}."
                ) from None
            processed[step.key] = step.pre_processor.process(value)
        return processed


class _Step(NamedTuple):
    """What is done to the observation of a step key."""

    source: str
    key: str
    pre_processor: PreProcessor
    drops: bool


def _step(
    entry: PreProcessing,
    found: dict[str, spaces.Space[Any]],
    masks: Mapping[str, str],
    where: str,
) -> _Step:
    """Make the pre-processor for one step key, and put its space among those that are found."""
    source = entry.observation
    try:
        pre_processor: PreProcessor = Factory(PreProcessor, where).build(
            {**entry.config, TARGET: entry.target, "observation_space": found[source]}
        )
    except ConfigError as error:
        error.add_note(f"in '{where}', for the observation '{source}'")
        raise
    if not entry.keep_original:
        heads = [head for head, mask in masks.items() if mask == source]
        if heads:
            raise ConfigError(
                f"'{where}' would take away the observation '{source}', which is the mask of the"
                f" action '{heads[0]}'. Set 'keep_original' to true."
            )
        del found[source]
    key = f"{source}-{pre_processor.tag}"
    if key in found:
        raise ConfigError(
            f"'{where}' would make an observation '{key}', which exists already: remove one of the"
            " entries that make it."
        )
    found[key] = pre_processor.processed_space()
    return _Step(source, key, pre_processor, not entry.keep_original)


def _entry(given: Mapping[str, Any] | PreProcessing, where: str) -> PreProcessing:
    if isinstance(given, PreProcessing):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"'{where}' has to be a mapping with 'observation' and '{TARGET}', got {given!r}."
        )
    options = [TARGET if f.name == "target" else f.name for f in fields(PreProcessing)]
    for key in given:
        if key not in options:
            raise ConfigError(unknown_option(key, options, of="a pre-processing", where=where))
    for key in ("observation", TARGET):
        if given.get(key) is None:
            raise ConfigError(f"'{where}' has no '{key}'.")
    keep_original, config = given.get("keep_original", False), given.get("config")
    if not isinstance(keep_original, bool):
        raise ConfigError(
            f"'{where}.keep_original' has to be true or false, got {keep_original!r}."
        )
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"'{where}.config' has to be a mapping of the pre-processor's arguments, got"
            f" {config!r}."
        )
    return PreProcessing(given["observation"], given[TARGET], keep_original, config or {})


def _check_exists(
    entry: PreProcessing, found: Mapping[StepKey, Mapping[str, Any]], where: str
) -> None:
    known = {name for of_key in found.values() for name in of_key}
    if entry.observation not in known:
        raise ConfigError(
            f"'{where}' is about '{entry.observation}', which is not an observation at that"
            f" point.{did_you_mean(entry.observation, known)} There are:"
            f" {', '.join(sorted(known))}."
        )
