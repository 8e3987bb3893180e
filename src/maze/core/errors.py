"""The errors that Maze raises on purpose.

    MazeError
    |-- ConfigError            an option, class path or value that cannot be used
    |   `-- MissingExtraError  an optional dependency that is not installed
    |-- ContractError          an environment or policy that does not keep its interface
    |   `-- SpaceError         an observation or action that is not in its space
    |-- OutputError            an output directory that cannot be written or read
    `-- RunStoppedError        a run that ended before its request was met

Everything below ``MazeError`` is shown to the user as one message. Anything else that escapes is
a bug, in Maze or in code that Maze was given, and is shown with its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MazeError(Exception):
    """Base of all errors that Maze raises on purpose."""


class ConfigError(MazeError):
    """An option, class path or value that cannot be used."""


class MissingExtraError(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} is not installed. Install it with: pip install 'maze-rollouts[{extra}]'"
        )


class ContractError(MazeError):
    """An environment or a policy that does not keep its interface."""


class SpaceError(ContractError):
    """An observation or action that is not in its space."""


class OutputError(MazeError):
    """An output directory that cannot be written or read."""


class RunStoppedError(MazeError):
    """A run ended before its request was met; what had finished by then is kept."""

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result
        """The ``RolloutResult`` of the episodes finished by then, if there is one."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest candidate, or an empty string."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
