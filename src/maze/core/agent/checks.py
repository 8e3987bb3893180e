"""Checks that several policies share."""

from __future__ import annotations

from maze.core.errors import ContractError


def wrong_observation(
    policy: object, game: str, shape: tuple[int, ...], observation: object
) -> ContractError:
    """Return the error for an observation that a policy written for one game cannot read.

    Args:
        policy: that got the observation.
        game: the environment it plays.
        shape: of that environment's only observation.
        observation: what it got.
    """
    if isinstance(observation, dict):
        entries = (
            f"'{key}' of shape {getattr(value, 'shape', '?')}" for key, value in observation.items()
        )
        found = ", ".join(entries) or "an empty dictionary"
    else:
        found = f"a value of type {type(observation).__name__}"
    return ContractError(
        f"{type(policy).__name__} plays {game}, whose observation has one entry 'observation' of"
        f" shape {shape}, got {found}. Choose another policy for this environment, or apply no"
        " wrapper that changes the observation."
    )
