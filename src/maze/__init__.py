"""Maze runs a policy in an environment: ``maze.rollout`` plays, ``maze.load`` opens a recording.

``maze.resume`` completes or extends a recorded run, ``maze.verify`` checks it, and ``maze.replay``
plays an episode again. In a notebook, ``maze.view``, ``maze.view_episode`` and ``maze.view_events``
show what was recorded. Importing this package loads nothing else; the functions are imported when
first used.
"""

from typing import TYPE_CHECKING, Any

from maze.version import __version__

if TYPE_CHECKING:
    from maze.api import load, replay, resume, rollout, verify
    from maze.viewer.notebook import view, view_episode, view_events

__all__ = [
    "__version__",
    "load",
    "replay",
    "resume",
    "rollout",
    "verify",
    "view",
    "view_episode",
    "view_events",
]


def __getattr__(name: str) -> Any:
    if name.startswith("view") and name in __all__:
        from maze.viewer import notebook

        return getattr(notebook, name)
    if name in __all__:
        from maze import api

        return getattr(api, name)
    raise AttributeError(f"module 'maze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
