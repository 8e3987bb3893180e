"""Where two plays of the same episode differ first, and whose doing it is.

A digest says that two episodes are not equal, not why. What comes first in time is the cause:
if the policy saw the same and acted otherwise, it is the policy; if the environment was given the
same and answered otherwise, it is the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.episode import Episode, EpisodeRow, Failure
from maze.core.trajectory.columns import LeafColumn, StepColumns, to_plain
from maze.core.trajectory.trajectory import StepTrajectory, Trajectory

DifferenceKind: TypeAlias = Literal["actor", "observation", "action", "reward", "ending", "digest"]

# What comes first within a sub-step.
_ORDER: tuple[DifferenceKind, ...] = ("actor", "observation", "action", "reward", "ending")


@dataclass(frozen=True)
class Difference:
    """The first thing in which two plays of an episode differ."""

    kind: DifferenceKind
    """``digest``: only the digests differ, or nothing but them was recorded."""
    step: int | None
    """The sub-step, as in the column ``step`` of the trajectory data: from 0, counted over all
    step keys. ``None`` if it is not known."""
    whose: Literal["environment", "policy", ""]
    """Who did something else than before, given the same. Empty if it is not known."""
    expected: str
    got: str

    def __str__(self) -> str:
        if self.kind == "digest":
            return f"the digest is {self.got}, expected {self.expected}"
        at = "" if self.step is None else f" at step {self.step}"
        return f"{self.kind}{at}: {self.got}, expected {self.expected}"


def first_difference(
    expected: Episode | Trajectory | None, played: Episode, row: EpisodeRow | None = None
) -> Difference | None:
    """Find the first difference between an episode and one that was played from the same spec.

    Args:
        expected: the other play, or what was recorded of it. ``None`` if nothing was.
        played: the episode to judge.
        row: of the other play in the episode table, which knows more than a trajectory of how it
            ended. Its digest is compared if nothing else differs.

    Returns:
        ``None`` if they are equal.
    """
    difference = None if expected is None else data_difference(expected, played)
    ending = _ending_difference(expected, played, row)
    if difference is None or (ending is not None and _time(ending) < _time(difference)):
        difference = ending
    if difference is None:
        digest = row.digest if row else getattr(expected, "digest", played.digest)
        if digest != played.digest:
            difference = Difference("digest", None, "", digest or "none", played.digest)
    return difference


def data_difference(expected: Episode | Trajectory, played: Episode) -> Difference | None:
    """Find the first difference in actors, observations, actions and rewards that both have.

    That one of them has more of them is left to ``first_difference``.
    """
    sides = _sides(expected, played)
    differences = [*_actor_differences(sides), *_reward_differences(expected, played)]
    for side in sides.values():
        differences.extend(side.differences())
    return min(differences, key=_time, default=None)


def _time(difference: Difference) -> tuple[int, int]:
    assert difference.step is not None
    return difference.step, _ORDER.index(difference.kind)


# Values.


class _Column(NamedTuple):
    """The values of one leaf in two plays."""

    name: str
    kind: Literal["observation", "action"]
    expected: Any
    """An array, or a list of plain values for a ragged leaf. ``None`` if there is none."""
    played: LeafColumn


@dataclass(frozen=True)
class _Side:
    """One step key in two plays."""

    columns: Sequence[_Column]
    expected_steps: NDArray[np.int64]
    expected_agents: NDArray[np.int64]
    steps: NDArray[np.int64]
    agents: NDArray[np.int64]

    def differences(self) -> Iterator[Difference]:
        """Yield the first difference in each column."""
        for column in self.columns:
            found = _first_row(column)
            if found is None:
                continue
            row, expected, got = found
            if row < len(self.steps) and self.steps[row] == self.expected_steps[row]:
                whose: Literal["environment", "policy"] = (
                    "policy" if column.kind == "action" else "environment"
                )
                yield Difference(column.kind, int(self.steps[row]), whose, expected, got)


def _sides(expected: Episode | Trajectory, played: Episode) -> dict[StepKey, _Side]:
    """Pair what was seen and done; a step key that only one play came to is paired with nothing."""
    sides: dict[StepKey, _Side] = {}
    nothing = np.zeros(0, dtype=np.int64)
    by_step_key: Mapping[StepKey, Any] = (
        expected.columns if isinstance(expected, Episode) else expected.by_step_key
    )
    for key in {**played.columns, **by_step_key}:
        mine, other = played.columns.get(key), by_step_key.get(key)
        steps, agents = (nothing, nothing) if mine is None else _steps(mine)
        other_steps, other_agents = (nothing, nothing) if other is None else _steps(other)
        columns = [] if mine is None or other is None else list(_columns(other, mine))
        sides[key] = _Side(columns, other_steps, other_agents, steps, agents)
    return sides


def _steps(part: StepColumns | StepTrajectory) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sub-step and the agent of each observation."""
    if isinstance(part, StepTrajectory):
        return part.steps.astype(np.int64), part.agent_ids.astype(np.int64)
    if part.steps is None:
        steps = np.arange(part.n_observations, dtype=np.int64)
        return steps, np.zeros_like(steps)
    return np.array(part.steps, np.int64), np.array(part.agent_ids or (), np.int64)


def _columns(other: StepColumns | StepTrajectory, played: StepColumns) -> Iterator[_Column]:
    kinds: tuple[Literal["observation", "action"], ...] = ("observation", "action")
    for kind, columns in zip(kinds, (played.observations, played.actions), strict=True):
        if isinstance(other, StepTrajectory):
            nested = other.observations if kind == "observation" else other.actions
            for column in columns:
                yield _Column(column.leaf.name, kind, _recorded(nested, column), column)
        else:
            others = {
                c.leaf.path: c
                for c in (other.observations if kind == "observation" else other.actions)
            }
            for column in columns:
                found = others.get(column.leaf.path)
                values = None if found is None else _values(found)
                yield _Column(column.leaf.name, kind, values, column)


def _recorded(nested: Any, column: LeafColumn) -> Any:
    """Return the values of a leaf from a trajectory; ``None`` if there are none of that path."""
    for part in column.leaf.path:
        try:
            nested = nested[part]
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(nested, list) and column.leaf.is_ragged:
        try:
            return [to_plain(column.leaf.space, value) for value in nested]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None
    return nested


def _values(column: LeafColumn) -> Any:
    return list(column.values) if column.leaf.is_ragged else column.array()


def _first_row(column: _Column) -> tuple[int, str, str] | None:
    """Return the first row that differs, and the two values in short."""
    expected, got, name = column.expected, _values(column.played), column.name
    if not column.played.n:
        return None
    if type(expected) is not type(got):
        return 0, f"nothing of that kind ({type(expected).__name__})", name
    if isinstance(got, list):
        for row, (one, other) in enumerate(zip(expected, got, strict=False)):
            if repr(one) != repr(other):  # As digests do: NaN equals NaN, 0.0 is not -0.0.
                return row, _short(one), f"{name} is {_short(other)}"
        return None
    if expected.dtype != got.dtype or expected.shape[1:] != got.shape[1:]:
        return 0, _kind_of_array(expected), f"{name} has {_kind_of_array(got)}"
    n = min(len(expected), len(got))
    differs = _bytes(expected[:n]) != _bytes(got[:n])
    rows = differs.reshape(n, -1).any(axis=1) if n else np.zeros(0, dtype=np.bool_)
    if not rows.any():
        return None
    row = int(rows.argmax())
    by_element = differs[row].reshape(-1, got.dtype.itemsize).any(axis=1)
    element = np.unravel_index(int(by_element.argmax()), got.shape[1:])
    where = f"{name}{[int(i) for i in element] if element else ''}"
    return row, str(expected[row][element]), f"{where} is {got[row][element]}"


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of each row, so that NaN equals NaN, and 0.0 is not -0.0."""
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8).reshape(len(values), -1)


def _kind_of_array(values: NDArray[Any]) -> str:
    return f"dtype {values.dtype} and shape {values.shape[1:]}"


# Actors and rewards.


def _actor_differences(sides: Mapping[StepKey, _Side]) -> Iterator[Difference]:
    if len(sides) == 1 and all((side.agents == 0).all() for side in sides.values()):
        return  # There is one actor.
    expected, got = (
        {
            int(step): (key, int(agent))
            for key, side in sides.items()
            for step, agent in zip(*of(side), strict=True)
        }
        for of in (_expected_turns, _turns)
    )
    for step in range(min(len(expected), len(got))):
        one, other = expected.get(step), got.get(step)
        if one != other:
            yield Difference("actor", step, "environment", _actor(one), _actor(other))
            return


def _expected_turns(side: _Side) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return side.expected_steps, side.expected_agents


def _turns(side: _Side) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return side.steps, side.agents


def _actor(turn: tuple[StepKey, int] | None) -> str:
    return "nobody" if turn is None else f"agent {turn[1]} of step key {turn[0]!r}"


def _reward_differences(expected: Episode | Trajectory, played: Episode) -> Iterator[Difference]:
    rewards, others = played.rewards, np.asarray(expected.rewards, dtype=np.float64)
    n = min(len(rewards), len(others))
    differs = (_bytes(rewards[:n]) != _bytes(others[:n])).any(axis=1) if n else np.zeros(0, bool)
    if differs.any():
        step = int(differs.argmax())
        yield Difference("reward", step, "environment", str(others[step]), str(rewards[step]))


# Endings.


class _End(NamedTuple):
    """How a play ended, and after how many sub-steps."""

    step: int
    ending: str
    """``terminated``, ``truncated`` and by whom, or what failed, where and when."""
    text: str
    is_policys: bool


def _ending_difference(
    expected: Episode | Trajectory | None, played: Episode, row: EpisodeRow | None
) -> Difference | None:
    got = _end(len(played.rewards), played.ending, played.truncated_by, played.failure)
    if isinstance(expected, Episode):
        n_steps = len(expected.rewards)
        wanted = _end(n_steps, expected.ending, expected.truncated_by, expected.failure)
    elif row is not None:
        if expected is None and row.n_steps != played.n_steps:
            return _length_difference(played, got, row)
        n_steps = len(played.rewards if expected is None else expected)
        wanted = _end(n_steps, row.ending, row.truncated_by, row.failure)
    elif isinstance(expected, Trajectory):
        flags = (expected.terminated, "terminated"), (expected.truncated, "truncated")
        ending = next((name for is_set, name in flags if is_set), "failed")
        wanted = _End(len(expected), ending, ending, False)
        got = got._replace(ending=played.ending)  # It does not know by whom, or why.
    else:
        return None
    if got.step == wanted.step:
        if got.ending == wanted.ending:
            return None
        return _ending(got.step, wanted, got, wanted.text, got.text)
    if got.step < wanted.step:
        return _ending(got.step, wanted, got, "no end yet", got.text)
    return _ending(wanted.step, wanted, got, wanted.text, "no end yet")


def _length_difference(played: Episode, got: _End, row: EpisodeRow) -> Difference:
    """Tell that another number of (structured) steps was played, where no trajectory was kept."""
    wanted = _end(row.n_steps, row.ending, row.truncated_by, row.failure)
    step = None if played.env_times is not None else min(row.n_steps, played.n_steps)
    expected_text = f"{wanted.text} after {row.n_steps} steps"
    return _ending(step, wanted, got, expected_text, f"{got.text} after {played.n_steps} steps")


def _ending(
    step: int | None, wanted: _End, got: _End, expected_text: str, got_text: str
) -> Difference:
    whose: Literal["environment", "policy"] = (
        "policy" if wanted.is_policys or got.is_policys else "environment"
    )
    return Difference("ending", step, whose, expected_text, got_text)


def _end(step: int, ending: str, truncated_by: str, failure: Failure | None) -> _End:
    if failure is not None:
        # What an exception says may name an address or a process: its type has to do.
        what = f"failed {failure.place} {failure.step} {failure.exception_type}"
        return _End(step, what, f"failed ({_short(str(failure))})", failure.place == "policy")
    if ending == "truncated":
        return _End(step, f"{ending} {truncated_by}", f"truncated by the {truncated_by}", False)
    return _End(step, ending, ending, False)


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= 200 else text[:197] + "..."
