"""Statistics of observations, kept beside the weights that were learnt with them.

They are estimated once, in the process of the trainer, saved, and given to each environment that is
built afterwards: for training, for evaluation, and for rolling out what was learnt.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maze.core.env.structured_env import StructuredEnv
from maze.core.factory import TARGET
from maze.core.wrappers.observation_normalization_wrapper import ObservationNormalizationWrapper
from maze.core.wrappers.wrapper import Wrapper

_PATH = (
    f"{ObservationNormalizationWrapper.__module__}.{ObservationNormalizationWrapper.__qualname__}"
)


def save_statistics(env: StructuredEnv, directory: Path) -> list[Path]:
    """Save the statistics of each normalisation in a stack, the innermost first.

    Returns:
        The files: ``observation_statistics.npz``, then ``observation_statistics_1.npz``, ...
    """
    found: list[ObservationNormalizationWrapper] = []
    while isinstance(env, Wrapper):
        if isinstance(env, ObservationNormalizationWrapper):
            found.append(env)
        env = env.env
    paths = [statistics_file(directory, index) for index in range(len(found))]
    for wrapper, path in zip(reversed(found), paths, strict=True):
        wrapper.statistics.save(path)
    return paths


def statistics_file(directory: Path, index: int) -> Path:
    """Return where the statistics of a normalisation are, the innermost being number 0."""
    return directory / f"observation_statistics{f'_{index}' if index else ''}.npz"


def copy_statistics(source: Path, directory: Path) -> None:
    """Copy what ``save_statistics`` has saved for an earlier training, if there is any."""
    index = 0
    while (path := statistics_file(source, index)).exists():
        shutil.copyfile(path, statistics_file(directory, index))
        index += 1


def with_statistics(wrappers: Any, directory: Path) -> Any:
    """Return wrappers of which each normalisation has the statistics that were saved.

    Args:
        wrappers: see ``apply_wrappers``. Those that name statistics of their own keep them.
        directory: of the training.
    """
    index = -1

    def given(name: Any, arguments: Any) -> Any:
        nonlocal index
        if name != _PATH and name is not ObservationNormalizationWrapper:
            return arguments
        index += 1
        path = statistics_file(directory, index)
        if (arguments or {}).get("statistics") is not None or not path.exists():
            return arguments
        return {**(arguments or {}), "statistics": str(path.resolve())}

    if isinstance(wrappers, Mapping):
        return {name: given(name, arguments) for name, arguments in wrappers.items()}
    if isinstance(wrappers, Sequence) and not isinstance(wrappers, str):
        changed: list[Any] = []
        for entry in wrappers:
            if isinstance(entry, Mapping) and TARGET in entry:
                changed.append(given(entry[TARGET], entry))
            elif isinstance(entry, Mapping):
                changed.append({name: given(name, arguments) for name, arguments in entry.items()})
            else:
                arguments = given(entry, None)
                changed.append(entry if arguments is None else {entry: arguments})
        return changed
    return wrappers
