"""Spaces as JSON: how a recording says what its columns mean, readable without Maze or pickle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.errors import SpaceError

_MOST_ELEMENTS = 2**24
"""In an observation or action: 128 MiB of the widest numbers."""


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Describe a space in JSON types. Bounds that are equal everywhere are given once."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "dtype": str(space.dtype),
            "shape": list(space.shape),
            "low": _numbers(space.low),
            "high": _numbers(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "dtype": str(space.dtype),
            "nvec": space.nvec.tolist(),
            "start": np.asarray(space.start).tolist(),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Text):
        return {
            "type": "Text",
            "min_length": space.min_length,
            "max_length": space.max_length,
            "characters": "".join(sorted(space.character_set)),
        }
    if isinstance(space, spaces.Dict):
        # A list, so that the order of the keys, which is the order of the columns, is kept.
        items = [[key, space_to_json(child)] for key, child in space.spaces.items()]
        return {"type": "Dict", "spaces": items}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(child) for child in space.spaces]}
    if isinstance(space, spaces.OneOf):
        return {"type": "OneOf", "spaces": [space_to_json(child) for child in space.spaces]}
    if isinstance(space, spaces.Sequence):
        return {
            "type": "Sequence",
            "space": space_to_json(space.feature_space),
            "stack": bool(space.stack),
        }
    if isinstance(space, spaces.Graph):
        edge = None if space.edge_space is None else space_to_json(space.edge_space)
        return {"type": "Graph", "node_space": space_to_json(space.node_space), "edge_space": edge}
    raise SpaceError(
        f"spaces of type {type(space).__name__} cannot be recorded; use the spaces of Gymnasium"
    )


def space_from_json(description: dict[str, Any]) -> spaces.Space[Any]:
    """Build the space that ``space_to_json`` described.

    Raises:
        SpaceError: If it is larger than any that could have been recorded, or is unknown.
        KeyError, TypeError, ValueError: If it is no such description.
    """
    if _n_elements(description) > _MOST_ELEMENTS:
        raise SpaceError("a recording says that its space is larger than any could be")
    return _space_from_json(description)


def _n_elements(description: dict[str, Any]) -> int:
    """Return how many numbers the bounds of a space hold. They need not stand in the file."""
    n_elements, to_visit = 0, [description]
    while to_visit:
        space = to_visit.pop()
        if "shape" in space:
            n_elements += math.prod(abs(int(size)) for size in space["shape"])
        keys = ("space", "node_space", "edge_space")
        to_visit.extend(space[key] for key in keys if space.get(key) is not None)
        inner = space.get("spaces", ())
        to_visit.extend(pair[1] if isinstance(pair, list) else pair for pair in inner)
    return n_elements


def _space_from_json(description: dict[str, Any]) -> spaces.Space[Any]:
    kind = description["type"]
    if kind == "Box":
        dtype, shape = np.dtype(description["dtype"]), tuple(description["shape"])
        low, high = (_bounds(description[side], dtype, shape) for side in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(description["n"], start=description["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(
            np.array(description["nvec"]),
            dtype=np.dtype(description["dtype"]).type,
            start=np.array(description["start"]),
        )
    if kind == "MultiBinary":
        shape = description["shape"]
        # Gymnasium takes a number and a shape of one number for different spaces.
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "Text":
        return spaces.Text(
            description["max_length"],
            min_length=description["min_length"],
            charset=description["characters"],
        )
    if kind == "Dict":
        return spaces.Dict({key: _space_from_json(child) for key, child in description["spaces"]})
    if kind == "Tuple":
        return spaces.Tuple([_space_from_json(child) for child in description["spaces"]])
    if kind == "OneOf":
        return spaces.OneOf([_space_from_json(child) for child in description["spaces"]])
    if kind == "Sequence":
        return spaces.Sequence(_space_from_json(description["space"]), stack=description["stack"])
    if kind == "Graph":
        edge = description["edge_space"]
        return spaces.Graph(
            _space_from_json(description["node_space"]),
            None if edge is None else _space_from_json(edge),
        )
    raise SpaceError(
        f"unknown space type {kind!r} in a recording; it needs a newer version of Maze"
    )


def _numbers(values: NDArray[Any]) -> Any:
    """A number, if all are equal, or nested lists. Infinities as strings: JSON has none."""
    if values.size and (values == values.flat[0]).all():
        return _number(values.flat[0])
    return [_number(value) for value in values.ravel()]


def _number(value: Any) -> Any:
    plain = value.item()
    return str(plain) if isinstance(plain, float) and not np.isfinite(plain) else plain


def _bounds(numbers: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if isinstance(numbers, list):
        return np.array([dtype.type(number) for number in numbers], dtype).reshape(shape)
    return np.full(shape, dtype.type(numbers), dtype)
