"""Shows recorded episodes to wrappers that were not there when they were recorded.

What was recorded is what the policy of that time saw. A network that is to learn from it may see
something else: normalised, stacked, other features of the same state. There are two ways to it.

    playing back:  the recorded observations go through the wrappers, whose environment returns
                   what was recorded. Needs no simulation.
    playing again: the environment is played from the recorded seeds and actions, and observed in
                   the new way. Needs an environment that is deterministic, and says so if not.

Either way the outcome is a recording in the new form, written episode by episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import gymnasium as gym

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.env.supplied_env import Outcome, SuppliedEnv
from maze.core.episode import Episode, EpisodeSpec
from maze.core.errors import ConfigError, OutputError
from maze.core.factory import TARGET, resolve
from maze.core.rollout.job import EnvRecipe, EnvSource, WrapperSource
from maze.core.rollout.play import Lane, PlayOptions, drive
from maze.core.rollout.player import GENERATORS
from maze.core.rollout.replay import RecordedActions
from maze.core.rollout.rollout_runner import as_plain
from maze.core.trajectory.trajectory import Trajectory
from maze.core.wrappers.apply import wrapper_entries
from maze.core.wrappers.wrapper import StepResult, Wrapper, put_around
from maze.datasets.edit import config_of
from maze.datasets.recordings import Recordings
from maze.datasets.writer import Origin, Written, write_recording

Conversion: TypeAlias = Literal["auto", "recorded", "wrappers", "replay"]
"""``recorded``: as it is. ``wrappers``: played back through the wrappers. ``replay``: played again.
``auto``: the first of these that fits."""


class Plan(NamedTuple):
    """How recordings come into the form of an environment."""

    how: Conversion
    wrappers: WrapperSource
    """For ``wrappers``: those that were not there when it was recorded."""


def plan_conversion(
    recordings: Recordings,
    env: EnvSource,
    wrappers: WrapperSource,
    how: Conversion = "auto",
    prepared: WrapperSource = None,
) -> Plan:
    """Find out how recordings come into the form of an environment with wrappers.

    Args:
        recordings: what there is.
        env: what is learnt for.
        wrappers: around it, as the config names them.
        how: what to do; ``auto``: as is, if the wrappers are those of the recordings; played back,
            if some were added outside of those; else played again.
        prepared: the wrappers with all that belongs to them, such as statistics; ``None``: the
            same.

    Raises:
        ConfigError: If it cannot be done that way.
    """
    if how not in get_args(Conversion):
        raise ConfigError(
            f"'runner.dataset.conversion' has to be one of {', '.join(get_args(Conversion))}, got"
            f" {how!r}"
        )
    prepared = wrappers if prepared is None else prepared
    if how in ("recorded", "replay"):
        return Plan(how, None)
    there = [_listed(as_plain(run.config.get("wrappers") or {})) for run in recordings.runs]
    wanted = _listed(as_plain(wrappers or {}))
    complete = _listed(prepared or {})
    common = there[0] if all(one == there[0] for one in there) else None
    n = 0 if common is None else len(common)
    is_prefix = common is not None and wanted[:n] == common
    inner: StructuredEnv | None = None
    fits = False
    if is_prefix:
        inner = EnvRecipe(env, complete[:n]).build()
        try:
            fits = not _difference(recordings, inner)
        finally:
            inner.close()
    added = complete[n:]
    if fits and not added:
        return Plan("recorded", None)
    if fits and not any(is_gymnasiums(entry) for entry in added):
        return Plan("wrappers", added)
    if how == "wrappers":
        raise ConfigError(
            "runner.dataset.conversion=wrappers: the recordings are not those of this environment"
            f" with the first of these wrappers (they were recorded with"
            f" {[_named(entry) for entry in there[0]] or 'none'}, asked for are"
            f" {[_named(entry) for entry in wanted] or 'none'}). conversion=replay plays them again"
        )
    return Plan("replay", None)


def convert(
    recordings: Recordings,
    env: EnvSource,
    wrappers: WrapperSource,
    output_dir: str | Path,
    plan: Plan,
) -> Recordings:
    """Write recordings in the form that an environment with wrappers gives them.

    Args:
        recordings: of which all wanted episodes are converted, with what processors leave out: it
            may matter for what comes after it.
        env: what is learnt for.
        wrappers: around it, with all that belongs to them.
        output_dir: where the converted recording is written.
        plan: from ``plan_conversion``.

    Returns:
        The same episodes in the new form.

    Raises:
        ConfigError: If the actions are not those of the environment with these wrappers.
        OutputError: If an episode comes out differently when it is played again.
    """
    n = recordings.n_episodes
    places = [recordings.place(episode) for episode in range(n)]
    rows = [run.table.row(index) for run, index in places]
    playing: _Converter
    if plan.how == "wrappers":
        playing = _PlayingBack(recordings, env, wrappers, plan.wrappers)
    else:
        playing = _PlayingAgain(recordings, env, wrappers)
    try:
        spaces = playing.env
        of_runs = [
            [row for (run, _), row in zip(places, rows, strict=True) if run is one]
            for one in recordings.runs
        ]
        config = {
            **config_of(recordings.runs, "convert", {"how": plan.how}, of_runs, n),
            "env": as_plain(env),
            "wrappers": as_plain(wrappers or {}),
        }

        def written(specs: Sequence[EpisodeSpec]) -> Iterator[Written]:
            yield from playing.play(specs)

        write_recording(
            output_dir,
            spaces,
            config,
            [(row.env_seed, row.agent_seed) for row in rows],
            written,
            origins=[Origin(recordings.runs.index(run), str(index)) for run, index in places],
            keep_events=False,
        )
    finally:
        playing.lane.close()
    # All of them are wanted; how much of each, its row said where it was recorded.
    converted = Recordings(output_dir)
    return converted.keeping([recordings.n_kept(episode) for episode in range(n)])


class _Converter:
    """Plays recorded episodes through wrappers."""

    lane: Lane
    env: StructuredEnv
    policy: StructuredPolicy

    def __init__(self, recordings: Recordings) -> None:
        self.recordings = recordings
        self._trajectory: Trajectory | None = None

    def load(self, trajectory: Trajectory) -> None:
        """Prepare for an episode."""
        raise NotImplementedError

    def open(self, build: Callable[[], StructuredEnv]) -> None:
        """Build the environment, and compare its actions with the recorded ones."""
        self.lane = Lane(build, PlayOptions(), seeds_always=True)
        self.env = self.lane.open()
        ours, theirs = dict(self.env.action_spaces), self.recordings.action_spaces
        if {str(key) for key in ours} != {str(key) for key in theirs} or any(
            space != theirs[key] for key, space in ours.items()
        ):
            self.lane.close()
            raise ConfigError(
                "the recorded actions are not those of this environment with these wrappers:"
                f" recorded were {theirs}, here they are {ours}. A wrapper that changes actions"
                " (or sub-steps) has to be there when the rollout is recorded"
            )

    def play(self, specs: Sequence[EpisodeSpec]) -> Iterator[Written]:
        """Play the recorded episodes that specs stand for."""
        remaining = iter(specs)

        def next_spec(_: bool) -> EpisodeSpec | None:
            spec = next(remaining, None)
            if spec is not None:
                run, index = self.recordings.place(spec.index)
                self._trajectory = run.trajectory(index)
                self.load(self._trajectory)
            return spec

        GENERATORS.borrow()
        try:
            for played in drive([self.lane], self.policy, next_spec):
                if isinstance(played, Episode):
                    self.check(played)
                yield Written(played)
        finally:
            GENERATORS.give_back()

    def check(self, episode: Episode) -> None:
        """Refuse an episode that is not the recorded one."""
        run, index = self.recordings.place(episode.spec.index)
        if episode.failure is not None:
            raise OutputError(
                f"episode {index} in {run.path} cannot be converted: {episode.failure}"
                f"\n{episode.failure.traceback}"
            )
        row = run.table.row(index)
        if (episode.ending, episode.n_steps) != (row.ending, row.n_steps):
            raise OutputError(
                f"episode {index} in {run.path} comes out differently: recorded were"
                f" {row.n_steps} steps ({row.ending}), here it had {episode.n_steps}"
                f" ({episode.ending}). {self.advice}"
            )

    advice = ""


class _PlayingBack(_Converter):
    advice = "A wrapper ends episodes: leave it out"

    def __init__(
        self,
        recordings: Recordings,
        env: EnvSource,
        wrappers: WrapperSource,
        added: WrapperSource,
    ) -> None:
        super().__init__(recordings)
        self._turns = Turns(recordings.is_flat)
        self.policy = self._turns
        recipe = EnvRecipe(env, wrappers)
        n_added = len(_listed(added))

        def build() -> StructuredEnv:
            # Built around the environment, which statistics may be estimated in.
            stack = inner = recipe.build()
            for _ in range(n_added):
                assert isinstance(inner, Wrapper)
                inner = inner.env
            supplied = SuppliedEnv(
                recordings.observation_spaces,
                recordings.action_spaces,
                inner.agent_counts,
                inner.action_masks,
                self._turns.take,
            )
            around = put_around(stack, inner, supplied)
            stack.close()
            return around

        self.open(build)

    def load(self, trajectory: Trajectory) -> None:
        self._turns.load(trajectory)


class Turns(StructuredPolicy):
    """A recorded episode as what happens, and as who acts."""

    def __init__(self, is_flat: bool) -> None:
        self._is_flat = is_flat

    def load(self, trajectory: Trajectory) -> None:
        """Begin with an episode."""
        turns: list[tuple[int, StepKey, int]] = []
        for key, part in trajectory.by_step_key.items():
            turns += [(int(step), key, row) for row, step in enumerate(part.steps)]
        self._order = sorted(turns, key=lambda turn: turn[0])
        self._trajectory = trajectory
        self._position = 0

    def take(self, action: Action | None) -> Outcome:
        """Return what comes next."""
        reward = 0.0
        if action is not None:
            _, key, row = self._order[self._position]
            reward = float(self._trajectory.by_step_key[key].rewards[row])
            self._position += 1
        position = self._position
        n_actions = len(self._trajectory)
        is_last = position == n_actions
        if position >= len(self._order):
            raise OutputError(
                "the observation after the last step was not recorded, so that wrappers cannot be"
                " shown it: learn from the recording without further wrappers"
                " (runner.dataset.conversion=recorded)"
            )
        _, key, row = self._order[position]
        part = self._trajectory.by_step_key[key]
        return Outcome(
            observation=_value_at(part.observations, row),
            reward=reward,
            terminated=is_last and self._trajectory.terminated,
            truncated=is_last and not self._trajectory.terminated,
            actor=ActorID(key, int(part.agent_ids[row])),
            env_time=int(part.env_times[row]),
        )

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return what was done."""
        _, key, row = self._order[self._position]
        action: Action = _value_at(self._trajectory.by_step_key[key].actions, row)
        return action


class _PlayingAgain(_Converter):
    advice = (
        "The environment is not deterministic, or is another one: use conversion=recorded with the"
        " environment and wrappers of the recording, or record again"
    )

    def __init__(self, recordings: Recordings, env: EnvSource, wrappers: WrapperSource) -> None:
        super().__init__(recordings)
        recipe = EnvRecipe(env, wrappers)
        self.open(lambda: _CutAt(recipe.build(), self))
        self.policy = _Delegate()
        self.n_steps = 0

    def load(self, trajectory: Trajectory) -> None:
        assert isinstance(self.policy, _Delegate)
        self.policy.acts = RecordedActions(trajectory, self.env.action_spaces)
        self.n_steps = len(trajectory)


class _Delegate(StructuredPolicy):
    """Acts as was recorded in the episode of the moment."""

    acts: RecordedActions

    def start_episode(self, seed: int) -> Any:
        return self.acts.start_episode(seed)

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        return self.acts.act(observation, actor, memory, deterministic)


class _CutAt(Wrapper):
    """Cuts an episode off where it was when it was recorded."""

    def __init__(self, env: StructuredEnv, playing: _PlayingAgain) -> None:
        super().__init__(env)
        self._playing, self._n = playing, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._n = 0
        return self._inner_reset(seed=seed, options=options)

    def step(self, action: Action) -> StepResult:
        observation, reward, terminated, truncated, info = self._inner_step(action)
        self._n += 1
        is_over = self._n >= self._playing.n_steps
        return observation, reward, terminated, truncated or (is_over and not terminated), info


def _value_at(values: Any, row: int) -> Any:
    if isinstance(values, dict):
        return {key: _value_at(value, row) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_value_at(value, row) for value in values)
    return values[row]


def _difference(recordings: Recordings, env: StructuredEnv) -> bool:
    """Return whether an environment has other spaces than were recorded."""
    for ours, theirs in (
        (recordings.observation_spaces, env.observation_spaces),
        (recordings.action_spaces, env.action_spaces),
    ):
        if list(map(str, ours)) != list(map(str, theirs)):
            return True
        for one, other in zip(ours.values(), theirs.values(), strict=True):
            if list(one.spaces) != list(other.spaces) or not all(
                _alike(space, other[name]) for name, space in one.spaces.items()
            ):
                return True
    return False


def _alike(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    if isinstance(one, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return one.shape == other.shape and one.dtype == other.dtype
    return one == other


def _listed(wrappers: Any) -> list[Any]:
    """Return wrappers as a list of mappings from one path to its arguments."""
    return [{name: dict(arguments)} for name, arguments in wrapper_entries(wrappers)]


def _named(entry: Mapping[Any, Any]) -> str:
    return str(next(iter(entry))).rpartition(".")[2]


def is_gymnasiums(entry: Any) -> bool:
    """Return whether a wrapper, alone or as a mapping to its arguments, is one of Gymnasium."""
    name = entry
    if isinstance(entry, Mapping):
        name = entry[TARGET] if TARGET in entry else next(iter(entry))
    kind = resolve(name, "wrappers") if isinstance(name, str) else name
    return (
        isinstance(kind, type) and issubclass(kind, gym.Wrapper) and not issubclass(kind, Wrapper)
    )
