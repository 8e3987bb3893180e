"""Checkpoints: all that a training has to know for going on as if nothing had happened.

    checkpoints/000120/
        model.pt        weights of policies and critics
        algorithm.pt    what the algorithm remembers: averages of Adam, transitions
        lanes.npz       what was decided in the episodes that are being played
        state.json      counters, random generators, the best evaluation; written last

Episodes are not stored: they are played again from their seeds and decisions. Tensors are read
without unpickling objects. A directory without ``state.json`` is one that was not finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maze.core.errors import OutputError
from maze.train.collect import LaneState
from maze.train.trainers.algorithm import AlgorithmState

WEIGHTS_FILE = "state_dict.pt"
"""The weights of the best evaluation: what is rolled out."""
LAST_WEIGHTS_FILE = "state_dict_last.pt"
CONFIG_FILE = "config.yaml"
CHECKPOINTS = "checkpoints"
_MODEL, _ALGORITHM, _LANES, _STATE = "model.pt", "algorithm.pt", "lanes.npz", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two updates."""

    weights: Mapping[str, Tensor]
    """Of the whole model."""
    algorithm: AlgorithmState
    lanes: Sequence[LaneState]
    numbers: Mapping[str, Any]
    """Values of JSON: counters and generators."""


def save_checkpoint(directory: Path, n_updates: int, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and then remove the ones before it.

    Raises:
        OutputError: If it cannot be written; those before it are still there then.
    """
    folder = directory / CHECKPOINTS / f"{n_updates:06d}"
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        save_tensors(checkpoint.weights, folder / _MODEL)
        save_tensors(checkpoint.algorithm.tensors, folder / _ALGORITHM)
        with (folder / _LANES).open("wb") as file:
            np.savez(file, **_lane_arrays(checkpoint.lanes))  # type: ignore[arg-type]
            _to_disk(file)
        content = {
            "numbers": dict(checkpoint.numbers),
            "algorithm": checkpoint.algorithm.numbers,
            "n_lanes": len(checkpoint.lanes),
        }
        write_whole(folder / _STATE, json.dumps(content))
    except OSError as error:
        raise OutputError(f"the checkpoint '{folder}' cannot be written: {error}") from error
    for other in _folders(directory):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """Return the last checkpoint that was finished; ``None`` if there is none.

    Raises:
        OutputError: If it is damaged.
    """
    for folder in reversed(_folders(directory)):
        if (folder / _STATE).exists():
            return _load(folder)
    return None


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, in one go; a file that is there is replaced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # A view would take everything with it that it is a view of.
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    try:
        with temporary.open("wb") as file:
            torch.save(copies, file)
            _to_disk(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one go."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        _to_disk(file)
    temporary.replace(path)


def _load(folder: Path) -> Checkpoint:
    try:
        content = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        with np.load(folder / _LANES, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Checkpoint(
            torch.load(folder / _MODEL, map_location="cpu", weights_only=True),
            AlgorithmState(
                torch.load(folder / _ALGORITHM, map_location="cpu", weights_only=True),
                content["algorithm"],
            ),
            _lanes(arrays, content["n_lanes"]),
            content["numbers"],
        )
    except Exception as error:  # Damaged files are answered with whatever came first.
        raise OutputError(
            f"the checkpoint '{folder}' cannot be read: {type(error).__name__}:"
            f" {str(error).partition(chr(10))[0]}"
        ) from error


def _folders(directory: Path) -> list[Path]:
    parent = directory / CHECKPOINTS
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and path.name.isdecimal())


def _lane_arrays(lanes: Sequence[LaneState]) -> dict[str, NDArray[Any]]:
    """Return decisions as arrays: for each lane, whose they were, and codes by network and head."""
    arrays: dict[str, NDArray[Any]] = {}
    for i, lane in enumerate(lanes):
        arrays[f"{i}/n_begun"] = np.array(lane.n_begun)
        arrays[f"{i}/networks"] = np.array(lane.networks, np.int64)
        columns: dict[str, list[NDArray[Any]]] = {}
        for number, (codes, row) in zip(lane.networks, lane.codes, strict=True):
            for head, of_head in codes.items():
                columns.setdefault(f"{i}/codes/{number}/{head}", []).append(of_head[row])
        arrays.update({name: np.array(rows) for name, rows in columns.items()})
    return arrays


def _lanes(arrays: Mapping[str, NDArray[Any]], n_lanes: int) -> list[LaneState]:
    lanes: list[LaneState] = []
    for i in range(n_lanes):
        networks: list[int] = arrays[f"{i}/networks"].tolist()
        codes: dict[int, dict[str, NDArray[Any]]] = {}
        for name, array in arrays.items():
            lane, _, rest = name.partition("/codes/")
            if lane == str(i) and rest:
                network, _, head = rest.partition("/")
                codes.setdefault(int(network), {})[head] = array
        seen = dict.fromkeys(codes, 0)
        rows: list[tuple[Mapping[str, NDArray[Any]], int]] = []
        for number in networks:
            rows.append((codes[number], seen[number]))
            seen[number] += 1
        lanes.append(LaneState(int(arrays[f"{i}/n_begun"]), networks, rows))
    return lanes


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
