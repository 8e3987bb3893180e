"""Maze runs a policy in an environment: ``maze.rollout`` plays, ``maze.load`` opens a recording.

Importing this package loads nothing else; the two functions are imported when first used.
"""

from typing import TYPE_CHECKING, Any

from maze.version import __version__

if TYPE_CHECKING:
    from maze.api import load, rollout

__all__ = ["__version__", "load", "rollout"]


def __getattr__(name: str) -> Any:
    if name in ("load", "rollout"):
        from maze import api

        return getattr(api, name)
    raise AttributeError(f"module 'maze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
