"""Maze runs a policy in an environment: ``maze.rollout`` plays, ``maze.load`` opens a recording.

``maze.resume`` completes or extends a recorded run, ``maze.verify`` checks it, and ``maze.replay``
plays an episode again. Importing this package loads nothing else; the functions are imported when
first used.
"""

from typing import TYPE_CHECKING, Any

from maze.version import __version__

if TYPE_CHECKING:
    from maze.api import load, replay, resume, rollout, verify

__all__ = ["__version__", "load", "replay", "resume", "rollout", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from maze import api

        return getattr(api, name)
    raise AttributeError(f"module 'maze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
