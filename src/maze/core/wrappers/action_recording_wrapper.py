"""Actions as they pass one place in a stack of wrappers, recorded as events.

The trajectory of an episode holds what the policy decided. What an environment in the middle of a
stack gets may be something else: split heads put together again, bins as numbers. Recorded there,
it can be looked at in the event log, and played again without the wrappers outside of that place.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from gymnasium import spaces

from maze.core.env.structured_env import Action, ActorID, StepKey
from maze.core.errors import OutputError
from maze.core.events.event import Event, EventStatistic
from maze.core.trajectory.columns import from_plain, to_plain
from maze.core.wrappers.wrapper import StepResult, Wrapper

_LARGEST_FIELD = 2**26


@dataclass(frozen=True)
class RecordedAction(Event):
    """An action, as it passed the wrapper."""

    step_key: str
    agent_id: int
    action: str
    """JSON: arrays are flat lists, and a tuple is a dictionary of ``"0"``, ``"1"``, ..."""

    statistics: ClassVar[tuple[EventStatistic, ...]] = ()

    @classmethod
    def of(cls, actor: ActorID, action: Action, space: spaces.Dict) -> RecordedAction:
        """Record an action."""
        plain = json.dumps(to_plain(space, action), separators=(",", ":"))
        return cls(str(actor.step_key), actor.agent_id, plain)

    def value(self, space: spaces.Dict) -> Action:
        """Return the action as a value of its space."""
        value: Action = from_plain(space, json.loads(self.action))
        return value


class TimedAction(NamedTuple):
    """An action that was recorded."""

    env_time: int
    actor: ActorID
    action: Action


class ActionRecordingWrapper(Wrapper):
    """Emits each action that passes this place in the stack as an event, and changes nothing.

    The event log ``RecordedAction.tsv`` holds them; ``load_recorded_actions`` reads them.
    """

    plays_each_action_once = True

    def step(self, action: Action) -> StepResult:
        """Record the action and play it."""
        actor = self.env.actor_id()
        space = self.env.action_spaces[actor.step_key]
        self.events.append(RecordedAction.of(actor, action, space))
        return self._inner_step(action)


def load_recorded_actions(
    directory: str | Path, episode_index: int, action_spaces: Mapping[StepKey, spaces.Dict]
) -> list[TimedAction]:
    """Return the actions that an ``ActionRecordingWrapper`` recorded in an episode.

    Args:
        directory: output directory of the run.
        episode_index: which episode.
        action_spaces: of the environment inside of the wrapper.

    Returns:
        Its sub-steps in their order.

    Raises:
        OutputError: If there are none.
    """
    path = Path(directory) / "event_logs" / "RecordedAction.tsv"
    by_text = {str(step_key): step_key for step_key in action_spaces}
    recorded: list[TimedAction] = []
    csv.field_size_limit(_LARGEST_FIELD)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if int(row["episode_id"].partition("-")[0]) != episode_index:
                    continue
                step_key = by_text[row["step_key"]]
                event = RecordedAction(row["step_key"], int(row["agent_id"]), row["action"])
                recorded.append(
                    TimedAction(
                        int(row["env_time"]),
                        ActorID(step_key, event.agent_id),
                        event.value(action_spaces[step_key]),
                    )
                )
    except FileNotFoundError:
        raise OutputError(
            f"there are no recorded actions in {directory}: play with an ActionRecordingWrapper"
            " and runner.record_event_logs=true"
        ) from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise OutputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not recorded:
        raise OutputError(f"there are no recorded actions of episode {episode_index} in {path}")
    return recorded
