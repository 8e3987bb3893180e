"""Long episodes are handed over in parts, and nothing that is made of them shows it."""

import dataclasses
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from gymnasium import spaces
from hypothesis import example, given
from hypothesis import strategies as st

import maze
from maze.core.agent.policy import StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import Action, ActorID, Observation
from maze.core.episode import (
    EpisodeBatch,
    EpisodePart,
    EpisodeRow,
    Failure,
    HandedOver,
    PartID,
    Parts,
)
from maze.core.events.event import Event, EventStatistic, measure_events
from maze.core.ledger.journal import Journal
from maze.core.rollout.checks import CheckOptions
from maze.core.rollout.encoding import EncoderOptions
from maze.core.rollout.job import EnvRecipe, Job
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.play import PlayOptions
from maze.core.rollout.player import Player
from maze.core.rollout.rollout_runner import RolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.sinks.ledger_sink import LedgerSink
from maze.core.trajectory.columns import leaves, part_steps
from maze.core.trajectory.digest import RecordedSteps, recorded_digest, recorded_digest_in
from maze.core.trajectory.trajectory import StepsStream, open_streams, read_trajectory
from tests.envs import (
    CountingEnv,
    EventfulEnv,
    GlobalGeneratorsEnv,
    Placed,
    RememberingEchoEnv,
    ScriptedEnv,
    Turn,
    TwoStepEnv,
    WalkEnv,
)
from tests.runs import SEEDING, Content, assert_equal, content, is_same, plain
from tests.test_laws import several_examples, some_spaces, structured_envs

ONE_PART = 10**9


def in_several_examples(plays: Sequence[Any]) -> Callable[[Any], Any]:
    """Try some plays, in parts of two steps, besides those that are drawn."""

    def decorate(test: Any) -> Any:
        for play_of in plays:
            test = example(
                play_of=play_of,
                steps_in_part=2,
                n_lanes=1,
                max_episode_steps=0,
                on_nan="fail",
                on_out_of_space="fail",
            )(test)
        return test

    return decorate


@dataclass(frozen=True)
class Played:
    """What a player handed over, and what sinks made of it."""

    batches: Sequence[EpisodeBatch]
    directory: Path

    @property
    def rows(self) -> list[EpisodeRow]:
        return sorted(row for batch in self.batches for row in batch.rows)

    @property
    def parts(self) -> list[PartID]:
        return [batch.part_of for batch in self.batches if batch.part_of is not None]

    @property
    def streams(self) -> list[StepsStream]:
        return open_streams(self.directory, Journal(self.directory / "journal.jsonl"))

    @property
    def events(self) -> dict[str, bytes]:
        logs = sorted((self.directory / "event_logs").glob("*"))
        return {path.name: path.read_bytes() for path in logs}

    def trajectory(self, episode_index: int) -> Any:
        trajectory = read_trajectory(self.streams, episode_index)
        return None if trajectory is None else plain(trajectory)

    def assert_digests(self) -> None:
        for row in self.rows:
            assert recorded_digest_in(self.streams, row.episode_index) == row.digest

    def assert_same(self, other: "Played") -> None:
        for one, another in zip(self.rows, other.rows, strict=True):
            # By their text, since a NaN is not equal to itself.
            assert comparable(one) == comparable(another)
            index = one.episode_index
            assert is_same(self.trajectory(index), other.trajectory(index))
        assert self.events == other.events


def comparable(row: EpisodeRow) -> str:
    statistics = dict(sorted(row.statistics.items()))
    return repr(row._replace(digest="", seconds=0.0, statistics=statistics))


def play(
    directory: Path,
    env: Any,
    part_steps: int,
    policy: Any = None,
    *,
    n_episodes: int = 2,
    n_lanes: int = 1,
    max_episode_steps: int = 0,
    checks: CheckOptions | None = None,
) -> Played:
    job = Job(
        EnvRecipe(env),
        policy,
        PlayOptions(max_episode_steps, part_steps),
        checks or CheckOptions(),
        EncoderOptions(),
        n_lanes=n_lanes,
    )
    specs = iter(SEEDING.plan(n_episodes))
    with Player(job) as player:
        batches = list(player.play(lambda _: next(specs, None)))
    ledger = LedgerSink(directory, {}, n_episodes=len(batches), versions={})
    ledger.open()
    for batch in batches:
        ledger.write(batch)
    ledger.close()
    ledger.release()
    return Played(batches, directory)


@dataclass(frozen=True)
class Sized(Event):
    """Its statistics need the values of all events of an episode."""

    kind: str
    size: float

    statistics = (
        EventStatistic("total", sum, "size", group_by="kind"),
        EventStatistic("largest", max, "size"),
    )


@dataclass(frozen=True)
class Unsaid(Event):
    """Is logged, and nothing is measured on it."""

    statistics = ()


@dataclass(frozen=True)
class Divided(Event):
    by: float

    statistics = (EventStatistic("inverse", lambda values: 1.0 / min(values), "by"),)


RESET = -1


class SpoiledEnv(ScriptedEnv):
    """Follows a script, but for what is spoiled in the sub-steps with some numbers."""

    def __init__(
        self, script: Sequence[Turn], is_truncated: bool, spoils: Mapping[int, str], is_flat: bool
    ) -> None:
        box = spaces.Box(0.0, 100.0, (2,), np.float32)
        unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        keys = sorted({turn.actor.step_key for turn in script}, key=str)
        super().__init__(
            {key: spaces.Dict({"x": box, "y": unbounded}) for key in keys},
            {key: spaces.Dict({"go": spaces.Box(-1.0, 1.0, (1,), np.float32)}) for key in keys},
            script,
            is_truncated,
        )
        if is_flat:
            self.agent_counts = {keys[0]: 1}
        self.spoils = spoils

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        spoil = self.spoils.get(RESET, "")
        observation, info = super().reset(seed=seed)
        if spoil == "raise":
            raise ValueError("it does not start")
        if "event" in spoil:
            self.events.append(Sized("reset", 0.5))
        return self._spoiled(observation, spoil), info

    def step(self, action: Action) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        spoil = self.spoils.get(len(self.acted), "")
        step = len(self.acted)
        if spoil == "raise":
            self.events.append(Unsaid())
            raise ValueError("it breaks")
        observation, reward, terminated, truncated, info = super().step(action)
        if spoil == "sized_event":
            self.events += [Sized("ab"[step % 2], float(step)), Unsaid()]
        if spoil == "immeasurable_event":
            self.events.append(Divided(0.0))
        rewards: dict[str, Any] = {"nan_reward": np.nan, "text_reward": "much", "large": 10**400}
        return (
            self._spoiled(observation, spoil),
            rewards.get(spoil, reward),
            1 if spoil == "flag" else terminated,
            truncated,
            info,
        )

    def _spoiled(self, observation: Observation, spoil: str) -> Observation:
        if spoil == "nan_observation":
            observation["x"][1] = np.nan
        if spoil == "nan_unbounded":
            observation["y"][0] = np.nan
        if spoil == "outside_observation":
            observation["x"][0] = 200.0
        if spoil == "wrong_observation":
            observation["x"] = observation["x"].astype(np.float64)
        return observation


ENV_SPOILS = (
    "raise",
    "sized_event",
    "immeasurable_event",
    "nan_reward",
    "text_reward",
    "large",
    "flag",
    "nan_observation",
    "nan_unbounded",
    "outside_observation",
    "wrong_observation",
)
POLICY_SPOILS = ("raise", "nan", "outside", "wrong")


class SpoilingPolicy(StructuredPolicy):
    """Random actions, but for those in the sub-steps with some numbers."""

    def __init__(self, action_spaces: Any, spoils: Mapping[int, str]) -> None:
        self.random, self.spoils = RandomPolicy(action_spaces), spoils

    def start_episode(self, seed: int) -> Any:
        return {"random": self.random.start_episode(seed), "count": 0}

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        action = self.random.act(observation, actor, memory["random"], deterministic)
        spoil = self.spoils.get(memory["count"], "")
        memory["count"] += 1
        if spoil == "raise":
            raise ValueError("no idea")
        if spoil == "wrong":
            return {"go": 0.5}
        numbers = {"nan": np.nan, "outside": 3.0}
        return {"go": np.array([numbers[spoil]], np.float32)} if spoil in numbers else action


@st.composite
def spoiled_plays(draw):
    """A script, flat or structured, and what goes wrong in it."""
    is_flat = draw(st.booleans())
    actors = st.builds(ActorID, st.sampled_from(["a", "b"]), st.integers(0, 1))
    turns = st.builds(
        Turn,
        st.just(ActorID("a", 0)) if is_flat else actors,
        st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 1e308]),
        st.integers(0, 2),
        # As many environment times as it says: some environments leave times out.
        ends_step=st.just(True) if is_flat else st.sampled_from([False, True, 5]),
    )
    script = draw(st.lists(turns, min_size=1, max_size=12))
    steps = st.integers(RESET, len(script) - 1)
    env_spoils = draw(st.dictionaries(steps, st.sampled_from(ENV_SPOILS), max_size=2))
    policy_spoils = draw(st.dictionaries(steps, st.sampled_from(POLICY_SPOILS), max_size=1))
    env = SpoiledEnv(script, draw(st.booleans()), env_spoils, is_flat)
    return env, SpoilingPolicy(env.action_spaces, policy_spoils)


def spoiled_play(
    ends: Sequence[int], env_spoils: Mapping[int, str], policy_spoils: Mapping[int, str]
) -> Any:
    is_flat = set(ends) == {1}
    script = [
        Turn(ActorID("a", 0 if is_flat else i % 2), 1.0, 1, ends_step=end)  # type: ignore[arg-type]
        for i, end in enumerate(ends)
    ]
    env = SpoiledEnv(script, False, env_spoils, is_flat)
    return env, SpoilingPolicy(env.action_spaces, policy_spoils)


# Mostly, what is wrong at the end of a part, and what comes after it if that is noticed later.
AT_THE_END_OF_A_PART = [
    spoiled_play([1] * 6, {1: "nan_reward"}, {2: "outside"}),
    spoiled_play([1] * 6, {1: "nan_reward", 2: "nan_observation"}, {}),
    spoiled_play([0, 1] * 4, {3: "nan_reward", 4: "sized_event"}, {}),
    spoiled_play([0, 1] * 4, {}, {4: "outside"}),
    spoiled_play([3, 1, 1, 0, 2, 5, 1], {}, {}),  # Times that are left out.
]


@several_examples
@in_several_examples(AT_THE_END_OF_A_PART)
@given(
    play_of=spoiled_plays(),
    steps_in_part=st.integers(1, 4),
    n_lanes=st.sampled_from([1, 2]),
    max_episode_steps=st.sampled_from([0, 0, 3, 5, 6]),
    on_nan=st.sampled_from(["fail", "count", "stop"]),
    on_out_of_space=st.sampled_from(["stop", "fail", "allow"]),
)
def test_parts_show_in_nothing(
    play_of,
    steps_in_part,
    n_lanes,
    max_episode_steps,
    on_nan,
    on_out_of_space,
    tmp_path_factory,
):
    env, policy = play_of
    directory = tmp_path_factory.mktemp("parts")
    options: Any = {
        "n_lanes": n_lanes,
        "max_episode_steps": max_episode_steps,
        "checks": CheckOptions(on_nan, on_out_of_space),
    }
    whole = play(directory / "whole", env, ONE_PART, policy, **options)
    in_parts = play(directory / "in_parts", env, steps_in_part, policy, **options)
    assert not whole.parts
    in_parts.assert_same(whole)
    in_parts.assert_digests()
    whole.assert_digests()
    if n_lanes == 1:
        for row in in_parts.rows:
            n_parts = sum(part.episode_index == row.episode_index for part in in_parts.parts)
            assert n_parts <= row.n_steps // steps_in_part


@several_examples
@given(env=structured_envs(), steps_in_part=st.sampled_from([1, 2, 3, ONE_PART]))
def test_the_digest_of_what_was_recorded_is_the_rows(env, steps_in_part, tmp_path_factory):
    played = play(tmp_path_factory.mktemp("structured"), env, steps_in_part)
    assert [row.ending for row in played.rows] == 2 * [
        "truncated" if env.is_truncated else "terminated"
    ]
    played.assert_digests()
    for stream in played.streams:
        assert stream.description["is_flat"] is False
        assert stream.description["part_steps"] == steps_in_part


@pytest.mark.filterwarnings("ignore:.*Casting input x")  # from Gymnasium's own Sequence.contains
@several_examples
@given(
    observation_space=some_spaces(),
    action_space=some_spaces(),
    n_steps=st.integers(1, 7),
    steps_in_part=st.sampled_from([1, 3, ONE_PART]),
)
def test_so_it_is_for_any_spaces(
    observation_space, action_space, n_steps, steps_in_part, tmp_path_factory
):
    env = RememberingEchoEnv(observation_space, action_space, n_steps)
    played = play(tmp_path_factory.mktemp("spaces"), env, steps_in_part)
    assert [row.ending for row in played.rows] == ["terminated", "terminated"]
    played.assert_digests()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (3,), np.float16),
        spaces.Box(-np.inf, np.inf, (3,), np.float32),
        spaces.Box(-np.inf, np.inf, (), np.float64),
        spaces.Sequence(spaces.Box(-np.inf, np.inf, (3,), np.float16)),
    ],
    ids=str,
)
def test_so_it_is_for_any_nan(space, tmp_path):
    inner = getattr(space, "feature_space", space)
    bits = np.full(inner.shape, -7, np.dtype(f"i{inner.dtype.itemsize}")).view(inner.dtype)
    assert np.isnan(bits).all()  # with a sign and a payload
    space.sample = lambda *_: (bits,) if inner is not space else bits
    env = RememberingEchoEnv(space, spaces.Discrete(2), 5)
    played = play(tmp_path, env, 2, checks=CheckOptions(on_nan="count"))
    assert [row.n_nan for row in played.rows] == ([6, 6] if inner is space else [0, 0])
    played.assert_digests()


def test_a_digest_tells_of_what_was_changed(tmp_path):
    played = play(tmp_path, partial(WalkEnv, 7), 3, n_episodes=1)
    (stream,), (row,) = played.streams, played.rows
    table = stream.rows(0)
    assert table is not None
    assert digest_of(stream, [table]) == row.digest
    for name in ("observation", "action", "reward"):
        column = table.column(name)
        pairs = itertools.combinations(range(7), 2)
        one, other = next((i, j) for i, j in pairs if column[i] != column[j])
        order = list(range(8))
        order[one], order[other] = other, one
        position = table.schema.get_field_index(name)
        changed = table.set_column(position, table.schema.field(name), column.take(order))
        assert digest_of(stream, [changed]) != row.digest


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_recorded_digest_can_be_computed_piece_by_piece(size, tmp_path):
    played = play(tmp_path, partial(WalkEnv, 7), 3, n_episodes=1)
    (stream,), (row,) = played.streams, played.rows
    table = stream.rows(0)
    assert table is not None
    pieces = [table.slice(start, size) for start in range(0, 8, size)]
    assert digest_of(stream, pieces) == row.digest


def digest_of(stream: StepsStream, pieces: Sequence[Any]) -> str:
    recorded = RecordedSteps(
        stream.step_key,
        leaves(stream.observation_space, "observation"),
        leaves(stream.action_space, "action"),
        pieces,
    )
    return recorded_digest([recorded], is_flat=True, part_steps=3)


def test_an_episode_of_one_part_of_a_flat_environment_has_the_digest_it_always_had(tmp_path):
    played = play(tmp_path, partial(WalkEnv, 5), ONE_PART, n_episodes=1)
    trajectory = played.trajectory(0)
    observations, actions, rewards, *_ = trajectory[0]
    digest = xxhash.xxh3_128()
    for array in (observations["observation"], actions["action"], rewards):
        digest.update(array.tobytes())
    assert played.rows[0].digest == digest.hexdigest()


# What a part is.


def test_a_part_is_handed_over_every_so_many_structured_steps(tmp_path):
    played = play(tmp_path, partial(TwoStepEnv, 8), 3, n_episodes=1)
    *parts, last = played.batches
    assert [part.rows for part in parts] == [(), ()]
    token = last.parts[0].token
    assert [part.part_of for part in parts] == [PartID(0, token, 0), PartID(0, token, 1)]
    assert last.part_of is None
    assert last.parts == {0: Parts(token, 2)}
    assert [row.n_steps for row in last.rows] == [8]
    times = [
        {key: part_times(batch, key) for key in batch.trajectories} for batch in played.batches
    ]
    assert times == [
        {"select": [0, 1, 2], "place": [0, 1, 2]},
        {"select": [3, 4, 5], "place": [3, 4, 5]},
        {"select": [6, 7, 8], "place": [6, 7]},
    ]
    for batch in played.batches:
        assert {len(events.texts) for events in batch.events.values()} == {1}


def part_times(batch: EpisodeBatch, key: Any) -> Any:
    steps = batch.trajectories[key]
    return pa.ipc.open_stream(steps.schema + steps.batch).read_all()["env_time"].to_pylist()


@pytest.mark.parametrize(("n_steps", "n_parts"), [(2, 0), (3, 0), (4, 1), (6, 1), (7, 2)])
def test_what_remains_at_the_end_is_never_empty(n_steps, n_parts, tmp_path):
    for max_episode_steps, env in ((0, partial(CountingEnv, n_steps)), (n_steps, CountingEnv)):
        played = play(
            tmp_path / str(max_episode_steps), env, 3, max_episode_steps=max_episode_steps
        )
        assert [parts.n_parts for parts in all_parts(played).values()] == [n_parts] * (
            2 if n_parts else 0
        )
        played.assert_digests()


def all_parts(played: Played) -> dict[int, Parts]:
    return {index: parts for batch in played.batches for index, parts in batch.parts.items()}


@pytest.mark.parametrize(
    ("observation", "steps"),
    [
        (spaces.Box(0, 1, (4,), np.float32), 65536),  # small: not for ever
        (spaces.Box(0, 1, (64,), np.float32), 4 * 2**20 // (256 + 8)),
        (spaces.Text(9), 4 * 2**20 // (1024 + 8)),
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), 256),  # large: not for a few steps
    ],
    ids=str,
)
def test_the_size_of_a_part_is_a_function_of_the_spaces(observation, steps):
    action = spaces.Dict({"action": spaces.Discrete(2)})
    assert part_steps({0: spaces.Dict({"observation": observation})}, {0: action}) == steps


def test_all_sub_steps_of_a_structured_step_count_for_the_size_of_a_part():
    observation = spaces.Dict({"x": spaces.Box(0, 1, (64,), np.float32)})
    action = spaces.Dict({"x": spaces.Discrete(2)})
    both = part_steps(dict.fromkeys("ab", observation), dict.fromkeys("ab", action))
    assert both == part_steps({0: observation}, {0: action}) // 2


class InParts(RolloutRunner):
    """Hands episodes over in parts of three steps."""

    def _job(self, *args: Any) -> Job:
        job = super()._job(*args)
        return dataclasses.replace(job, play=dataclasses.replace(job.play, part_steps=3))


class SequentialInParts(InParts, SequentialRolloutRunner):
    pass


class ParallelInParts(InParts, ParallelRolloutRunner):
    pass


@pytest.mark.parametrize("n_lanes", [1, 4])
@pytest.mark.parametrize(
    "env", [partial(WalkEnv, 10), partial(TwoStepEnv, 10)], ids=["flat", "two"]
)
def test_a_run_in_parts_leaves_the_same_files_wherever_it_is_played(env, n_lanes, tmp_path):
    options: Any = {"n_episodes": 9, "n_lanes": n_lanes, "show_progress": False}
    for name, runner in {
        "expected": SequentialRolloutRunner(**options),
        "here": SequentialInParts(**options),
        "in_workers": ParallelInParts(n_processes=2, **options),
    }.items():
        runner.run_with(env, seeding=SEEDING, output_dir=tmp_path / name)
    expected, here = content(tmp_path / "expected"), content(tmp_path / "here")
    assert_equal(content(tmp_path / "in_workers"), here)
    digests = {row["digest"] for row in here.rows}
    assert digests.isdisjoint(row["digest"] for row in expected.rows)
    assert_equal(without_digests(here), without_digests(expected))


def without_digests(found: Content) -> Content:
    return dataclasses.replace(found, rows=[{**row, "digest": ""} for row in found.rows])


# Events and rewards.


def test_statistics_of_events_are_of_the_whole_episode(tmp_path):
    script = [Turn(ActorID("a", 0), 0.1, 1, ends_step=True) for _ in range(10)]
    spoils = dict.fromkeys((RESET, 0, 4, 5, 9), "sized_event")
    env = SpoiledEnv(script, False, spoils, True)
    played = play(tmp_path, env, 3)
    assert len(played.parts) == 6
    for row in played.rows:
        assert row.statistics == {
            "Placed.count": 10.0,
            "Sized.total/a": 4.0,
            "Sized.total/b": 14.0,
            "Sized.total/reset": 0.5,
            "Sized.largest": 9.0,
        }
    log = played.events["Sized.tsv"].decode().splitlines()
    assert [line.split("\t")[1:] for line in log[1:6]] == [
        ["0", "reset", "0.5"],
        ["0", "a", "0.0"],
        ["4", "a", "4.0"],
        ["5", "b", "5.0"],
        ["9", "b", "9.0"],
    ]
    times = [line.split("\t")[1] for line in played.events["Reward.tsv"].decode().splitlines()]
    assert times == ["env_time", *2 * [str(time) for time in range(10)]]


def test_the_return_is_rounded_once(tmp_path):
    rewards = [1e16, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]  # Each 1 alone would get lost.
    script = [Turn(ActorID("a", 0), reward, 0, ends_step=True) for reward in rewards]
    played = play(tmp_path, SpoiledEnv(script, False, {}, True), 3, n_episodes=1)
    assert played.rows[0].episode_return == 1e16 + 2


def test_events_that_are_only_counted_are_not_kept():
    handed_over = HandedOver(token=0)
    for number in range(3):
        part = EpisodePart(
            spec=SEEDING.plan(1)[0],
            episode_id="",
            part_id=PartID(0, 0, number),
            first_step=2 * number,
            first_time=2 * number,
            n_steps=2 * number + 2,
            rewards=np.zeros(2),
            env_times=None,
            columns={},
            events=[
                (2 * number, Placed(1.0)),
                (2 * number, Unsaid()),
                (2 * number, Sized("a", 2.0)),
            ],
        )
        handed_over.add(part, n_nan=0)
    assert [time for time, _ in handed_over.events] == [0, 2, 4]
    assert measure_events(handed_over.events, handed_over.event_counts).numbers == {
        "Placed.count": 3.0,
        "Sized.total/a": 6.0,
        "Sized.largest": 2.0,
    }


class LongEventfulEnv(EventfulEnv):
    def __init__(self, event: Any, seed: int) -> None:
        super().__init__(event, seed)
        self.n_steps = 9


def test_what_is_no_event_ends_the_episode_with_its_part(tmp_path):
    played = play(tmp_path, LongEventfulEnv("a text", SEEDING.plan(2)[1].env_seed), 3)
    fine, failed = played.rows
    assert fine.ending == "terminated"
    assert (failed.ending, failed.n_steps) == ("failed", 3)
    assert failed.failure is not None
    assert failed.failure.is_contract_violation
    assert "a text" in failed.error
    played.assert_digests()


# What is wrong with a part.


def test_an_offence_ends_the_episode_with_the_part_in_which_it_is(tmp_path):
    env = CountsAll(20, {4: np.nan})
    played = play(tmp_path, env, 3, n_episodes=1)
    assert (failure_of(played).place, failure_of(played).step) == ("step", 4)
    assert env.count == 6
    assert [part.number for part in played.parts] == [0]


@pytest.mark.parametrize("steps_in_part", [3, ONE_PART])
def test_an_offence_that_is_allowed_hides_no_other(steps_in_part, tmp_path):
    env = CountsAll(20, {4: -1.0, 5: np.nan, 11: -1.0})
    for checks, step in {
        CheckOptions(on_out_of_space="allow"): 5,
        CheckOptions(on_nan="count", on_out_of_space="fail"): 4,
        CheckOptions(on_nan="fail", on_out_of_space="fail"): 4,
    }.items():
        played = play(tmp_path / str(hash(checks)), env, steps_in_part, n_episodes=1, checks=checks)
        assert failure_of(played).step == step
    env.wrong = {4: np.nan, 11: -1.0}
    checks = CheckOptions(on_nan="count", on_out_of_space="fail")
    played = play(tmp_path / "later", env, steps_in_part, n_episodes=1, checks=checks)
    assert (failure_of(played).step, played.rows[0].n_nan) == (11, 1)


def failure_of(played: Played) -> Failure:
    (row,) = played.rows
    assert row.failure is not None
    return row.failure


class CountsAll(CountingEnv):
    """Observes something else after some numbers of steps."""

    def __init__(self, n_steps: int, wrong: Mapping[int, float]) -> None:
        super().__init__(n_steps)
        self.wrong = wrong

    def _observe(self) -> Any:
        return np.array([self.wrong.get(self.count, self.count)], dtype=np.float32)


# What is played again.


class DrawsLate(GlobalGeneratorsEnv):
    """Draws from the global generators from a step on."""

    def __init__(self, first: int, n_steps: int = 11) -> None:
        super().__init__(n_steps)
        self.first = first

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count += 1
        observation, reward = np.zeros(2, np.float32), 0.0
        if self.count > self.first:
            observation, reward = self._draw(), random.random()
        return observation, reward, self.count == self.n_steps, False, {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        WalkEnv.reset(self, seed=seed)
        return np.zeros(2, np.float32), {}


@pytest.mark.parametrize(
    ("first", "numbers"),
    [
        (0, [[0, 1, 2]]),  # noticed before anything is handed over
        (2, [[0, 1, 2]]),
        (3, [[0], [0, 1, 2]]),
        (8, [[0, 1], [0, 1, 2]]),
        (10, [[0, 1, 2], [0, 1, 2]]),  # noticed at the end
    ],
)
def test_a_play_is_begun_again_as_soon_as_global_generators_are_used(
    first, numbers, tmp_path, monkeypatch
):
    # With torch, generators are set for each episode, as that is known to use them.
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    played = play(tmp_path / "one", partial(DrawsLate, first), 3)
    again = play(tmp_path / "other", partial(DrawsLate, first), 3)
    for found in (played, again):
        found.assert_digests()
        assert [row.n_steps for row in found.rows] == [11, 11]
        by_token: dict[int, list[int]] = {}
        for part in found.parts:
            if part.episode_index == 0:
                by_token.setdefault(part.token, []).append(part.number)
        assert list(by_token.values()) == numbers
        assert all_parts(found)[0] == Parts(list(by_token)[-1], 3)
        # Noticed once, the generators are set at each start.
        assert sum(part.episode_index == 1 for part in found.parts) == 3
    assert [row.digest for row in played.rows] == [row.digest for row in again.rows]


class FailsInBatches(StructuredPolicy):
    def start_episode(self, seed: int) -> Any:
        return []

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        memory.append(0)
        return {"action": 0}

    def act_batch(
        self,
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Any],
        deterministic: bool,
    ) -> Sequence[Action]:
        if len(memories[0]) == 7:
            raise ValueError("too much")
        return super().act_batch(observations, actors, memories, deterministic)


def test_what_a_failed_batch_had_handed_over_can_be_told_from_what_was_played_again(tmp_path):
    env = partial(WalkEnv, 10)
    played = play(tmp_path / "batches", env, 3, FailsInBatches(), n_lanes=2)
    alone = play(tmp_path / "alone", env, 3, FailsInBatches())
    played.assert_same(alone)
    played.assert_digests()
    for index in range(2):
        tokens = [part.token for part in played.parts if part.episode_index == index]
        assert [tokens.count(token) for token in dict.fromkeys(tokens)] == [2, 3]
        assert all_parts(played)[index] == Parts(tokens[-1], 3)


# Memory.

LONG_RUN = """
import sys
from pathlib import Path

import numpy as np
from gymnasium import spaces

from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from tests.envs import CountingEnv

N_STEPS, SIZE = 200_000, 64
DIRECTORY = Path(sys.argv[2])
NOISE = np.random.default_rng(1).random((1000, SIZE), dtype=np.float32)


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


class LongEnv(CountingEnv):
    observation_space = spaces.Box(0.0, np.inf, (SIZE,), np.float32)

    def _observe(self):
        if self.count == N_STEPS // 4:
            self.before = peak()
        if self.count == N_STEPS:
            (DIRECTORY / "env").write_text(str(peak() - self.before))
        observation = NOISE[self.count % len(NOISE)]
        observation[0] = self.count
        return observation


if __name__ == "__main__":
    options = {"n_episodes": 1, "max_episode_steps": None, "show_progress": False}
    runner = (
        SequentialRolloutRunner(**options)
        if sys.argv[1] == "here"
        else ParallelRolloutRunner(n_processes=1, **options)
    )
    result = runner.run_with(lambda: LongEnv(N_STEPS), output_dir=DIRECTORY)
    assert result.mean_return == N_STEPS * (N_STEPS + 1) / 2
    (DIRECTORY / "main").write_text(str(peak()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(("where", "most"), [("here", 200), ("in_a_worker", 140)])
def test_memory_does_not_grow_with_an_episode(where, most, tmp_path):
    (tmp_path / "long_run.py").write_text(LONG_RUN)
    directory = tmp_path / "run"
    subprocess.run(
        [sys.executable, tmp_path / "long_run.py", where, directory],
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    # Megabytes. From the one moment to the other, 38 of observations go through.
    assert int((directory / "env").read_text()) < 16
    assert int((directory / "main").read_text()) < most
    run = maze.load(directory)
    trajectory = run.trajectory(0)
    assert len(trajectory) == 200_000
    assert np.array_equal(trajectory.observations[:, 0], np.arange(200_001))
    assert recorded_digest_in(run.streams, 0) == run.table.row(0).digest
