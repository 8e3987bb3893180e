"""Actions in another form: split into heads, chosen among bins; and recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.env.structured_env import ActorID, StructuredEnv
from maze.core.errors import ConfigError, OutputError, SpaceError
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.core.wrappers.action_recording_wrapper import (
    ActionRecordingWrapper,
    RecordedAction,
    load_recorded_actions,
)
from maze.core.wrappers.discretize_actions_wrapper import DiscretizeActionsWrapper
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.split_actions_wrapper import SplitActionsWrapper
from tests.contracts import WrapperContract, play, same
from tests.envs import EchoEnv, TwoStepEnv

SPLIT_POSITION = {"position": {"x": {"indices": [0]}, "y": {"indices": [1]}}}


class TestSplitSubSteps(WrapperContract):
    def wrap(self, env):
        return SplitActionsWrapper(env, SPLIT_POSITION)


class TestSplitMaskedActions(WrapperContract):
    def make_inner(self):
        return masked_env(MULTI_DISCRETE, 9)

    def wrap(self, env):
        config = {"action": {"a": {"indices": [2, 0]}, "b": {"indices": [1]}}}
        return SplitActionsWrapper(env, config)


class TestDiscretizedSubSteps(WrapperContract):
    def wrap(self, env):
        return DiscretizeActionsWrapper(env, {"position": {"num_bins": [3, 4]}})


class TestDiscretizedFlatActions(WrapperContract):
    def make_inner(self):
        return acting(spaces.Box(-2.0, 2.0, (1,)))

    def wrap(self, env):
        return DiscretizeActionsWrapper(env, {"action": {"num_bins": 5}})


class TestRecordingSubSteps(WrapperContract):
    def wrap(self, env):
        return ActionRecordingWrapper(env)


class TestRecordingFlatActions(WrapperContract):
    def make_inner(self):
        return acting(spaces.Box(-2.0, 2.0, (1,)))

    def wrap(self, env):
        return ActionRecordingWrapper(env)


MULTI_DISCRETE: spaces.Space[Any] = spaces.MultiDiscrete([2, 4, 3], start=[0, 5, -1])


def acting(space: spaces.Space[Any]) -> GymMazeEnv:
    return GymMazeEnv(EchoEnv(spaces.Discrete(2), space))


class MaskedEnv(EchoEnv):
    """Its mask allows something of each number: first this, then that."""

    def __init__(self, space: spaces.Space[Any], size: int) -> None:
        super().__init__(spaces.Dict({"allowed": spaces.MultiBinary(size)}), space)
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"allowed": np.array([1, 0, 1, 1, 0, 0, 0, 1, 1][: self.size], np.int8)}, {}

    def step(self, action):
        _, *rest = super().step(action)
        allowed = np.array([0, 1, 0, 0, 1, 0, 1, 0, 0][: self.size], np.int8)
        return ({"allowed": allowed}, *rest)


def masked_env(space: spaces.Space[Any], size: int) -> GymMazeEnv:
    return GymMazeEnv(MaskedEnv(space, size), action_masks={"action": "allowed"})


def inner_action(env: StructuredEnv, action: dict[str, Any]) -> Any:
    """What the environment inside gets."""
    env.reset(seed=0)
    env.step(action)
    return env.unwrapped.gym_env.last_action  # type: ignore[attr-defined]


# Splitting.


def test_parts_of_a_box_keep_their_bounds_and_their_order():
    box = spaces.Box(np.array([0, 1, 2]), np.array([10, 11, 12]), dtype=np.float32)
    config = {"action": {"a": {"indices": [2, 0]}, "b": {"indices": [1]}}}
    env = SplitActionsWrapper(acting(box), config)
    assert env.action_spaces[0] == spaces.Dict(
        {
            "a": spaces.Box(np.array([2, 0]), np.array([12, 10]), dtype=np.float32),
            "b": spaces.Box(1, 11, (1,), np.float32),
        }
    )
    got = inner_action(env, {"a": np.array([7.0, 5.0], np.float32), "b": [6.0]})
    assert got.tolist() == [5.0, 6.0, 7.0]
    assert got.dtype == np.float32


def test_a_part_of_one_index_of_a_multi_discrete_is_a_discrete():
    config = {"action": {"pair": {"indices": [2, 0]}, "one": {"indices": [1]}}}
    env = SplitActionsWrapper(acting(MULTI_DISCRETE), config)
    assert env.action_spaces[0] == spaces.Dict(
        {"one": spaces.Discrete(4, start=5), "pair": spaces.MultiDiscrete([3, 2], start=[-1, 0])}
    )
    got = inner_action(env, {"pair": np.array([-1, 1]), "one": 8})
    assert got.tolist() == [1, 8, -1]


def test_bits_are_split():
    config = {"action": {"action": {"indices": [0, 2]}, "other": {"indices": [1]}}}
    env = SplitActionsWrapper(acting(spaces.MultiBinary(3)), config)
    assert env.action_spaces[0] == spaces.Dict(
        {"action": spaces.MultiBinary(2), "other": spaces.MultiBinary(1)}
    )
    action = {"action": np.array([1, 0], np.int8), "other": np.array([1], np.int8)}
    assert inner_action(env, action).tolist() == [1, 1, 0]


SPACES = st.integers(1, 6).flatmap(
    lambda n: st.sampled_from(
        [
            spaces.Box(-np.arange(1.0, n + 1), np.arange(1.0, n + 1), dtype=np.float64),
            spaces.MultiDiscrete(np.arange(1, n + 1), start=np.arange(n) - 2),
            spaces.MultiBinary(n),
        ]
    )
)


@given(SPACES, st.randoms(use_true_random=False))
def test_split_and_joined_is_what_it_was(space, random):
    indices = list(range(space.shape[0]))
    random.shuffle(indices)
    cut = random.randint(0, len(indices))
    parts = {"a": indices[:cut], "b": indices[cut:]}
    config = {"action": {name: {"indices": part} for name, part in parts.items() if part}}
    env = SplitActionsWrapper(acting(space), config)
    space.seed(random.randint(0, 99))
    for _ in range(3):
        action = {"action": space.sample()}
        split = env.split(action)
        assert env.action_space.contains(split)
        assert same(env.action(split), action)
        joined = env.action(env.action_space.sample())
        assert env.env.action_space.contains(joined)


def test_other_step_keys_and_heads_are_left_alone():
    inner = TwoStepEnv()
    env = SplitActionsWrapper(inner, SPLIT_POSITION)
    assert env.action_spaces["select"] == inner.action_spaces["select"]
    assert list(env.action_spaces["place"]) == ["rotation", "x", "y"]


def test_the_parts_of_a_masked_head_have_masks_of_their_own():
    # Two, four and three values; the parts are the third and the first, and the second.
    config = {"action": {"a": {"indices": [2, 0]}, "b": {"indices": [1]}}}
    env = SplitActionsWrapper(masked_env(MULTI_DISCRETE, 9), config)
    assert env.action_masks == {0: {"a": "allowed-a", "b": "allowed-b"}}
    observation, _ = env.reset(seed=1)
    assert observation["allowed"].tolist() == [1, 0, 1, 1, 0, 0, 0, 1, 1]
    assert observation["allowed-a"].tolist() == [0, 1, 1, 1, 0]
    assert observation["allowed-b"].tolist() == [1, 1, 0, 0]
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    for step in play(env, policy)[:10]:
        assert step.observation["allowed-b"][step.action["b"] - 5] == 1
        assert step.observation["allowed-a"][:3][step.action["a"][0] + 1] == 1


def test_masks_of_bits_are_split_and_others_stay():
    space = spaces.Dict({"bits": spaces.MultiBinary(3), "one": spaces.Discrete(2)})
    observed = spaces.Dict({"free": spaces.MultiBinary(3), "open": spaces.MultiBinary(2)})
    inner = GymMazeEnv(EchoEnv(observed, space), action_masks={"bits": "free", "one": "open"})
    config = {"bits": {"a": {"indices": [1]}, "b": {"indices": [2, 0]}}}
    env = SplitActionsWrapper(inner, config)
    assert env.action_masks == {0: {"one": "open", "a": "free-a", "b": "free-b"}}
    assert inner.action_masks == {0: {"bits": "free", "one": "open"}}
    observation, _ = env.reset(seed=3)
    assert observation["free-a"].tolist() == observation["free"][[1]].tolist()
    assert observation["free-b"].tolist() == observation["free"][[2, 0]].tolist()


class NoopEnv(TwoStepEnv):
    def noop_action(self):
        if self.actor_id().step_key == "select":
            return {"piece": 0}
        return {"position": np.array([0.0, 0.5], np.float32), "rotation": 1}


def test_the_action_that_does_nothing_is_split_too():
    env = SplitActionsWrapper(NoopEnv(), SPLIT_POSITION)
    env.reset()
    assert env.noop_action() == {"piece": 0}
    env.step({"piece": 0})
    assert same(
        env.noop_action(),
        {"rotation": 1, "x": np.array([0.0], np.float32), "y": np.array([0.5], np.float32)},
    )


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ({"postion": {}}, "Did you mean 'position'"),
        ({"position": {"x": {"indices": [0]}}}, r"exactly once, .* but 1 is in none"),
        ({"position": {"x": {"indices": [0, 1]}, "y": {"indices": [1]}}}, "1 is used twice"),
        ({"position": {"x": {"indices": [0, 2]}, "y": {"indices": [1]}}}, "the index 2"),
        ({"position": {"x": {"indices": [-1, 0]}, "y": {"indices": [1]}}}, "the index -1"),
        ({"position": {"x": {"indexes": [0, 1]}}}, "Did you mean '.*indices'"),
        ({"position": {"x": {}}}, "has to be a list of whole numbers"),
        ({"position": {"x": {"indices": []}}}, "one at least"),
        ({"position": {"x": {"indices": "01"}}}, "has to be a list"),
        ({"position": [0, 1]}, "'split_config.position' has to be a mapping"),
        ([], "'split_config' has to be a mapping"),
        ({"rotation": {"x": {"indices": [0]}}}, r"'rotation' is Discrete\(2\)"),
        (
            {"position": {"x": {"indices": [0]}, "rotation": {"indices": [1]}}},
            "'rotation' .* another part",
        ),
    ],
)
def test_a_wrong_split_config_is_answered(config, answer):
    with pytest.raises(ConfigError, match=answer):
        SplitActionsWrapper(TwoStepEnv(), config)


def test_masks_that_cannot_be_split_are_answered():
    config = {"action": {"a": {"indices": [0, 1]}, "b": {"indices": [2]}}}
    with pytest.raises(ConfigError, match="has 4 entries, expected 9"):
        SplitActionsWrapper(masked_env(MULTI_DISCRETE, 4), config)
    observed = spaces.Dict({"m": spaces.MultiBinary(9), "m-a": spaces.MultiBinary(5)})
    inner = GymMazeEnv(EchoEnv(observed, MULTI_DISCRETE), action_masks={"action": "m"})
    with pytest.raises(ConfigError, match="'m-a', which is an observation already"):
        SplitActionsWrapper(inner, config)


def test_a_part_that_is_missing_is_answered():
    env = SplitActionsWrapper(acting(spaces.Box(0, 1, (2,))), {
        "action": {"a": {"indices": [0]}, "b": {"indices": [1]}}
    })  # fmt: skip
    env.reset()
    for wrong in ({"a": [0.5]}, {"a": [0.5], "b": [1, 2]}, {"a": [0.5], "b": "x"}):
        with pytest.raises(SpaceError, match="'b' that could be a part of 'action'"):
            env.step(wrong)


# Discretising.


def discretized(box: spaces.Box, **options: Any) -> DiscretizeActionsWrapper:
    return DiscretizeActionsWrapper(acting(box), {"action": options})


def test_a_choice_is_the_middle_of_its_bin():
    env = discretized(spaces.Box(-1.0, 1.0, (1,), np.float32), num_bins=4)
    assert env.action_spaces[0] == spaces.Dict({"action": spaces.Discrete(4)})
    chosen = [inner_action(env, {"action": choice}) for choice in range(4)]
    assert [action.tolist() for action in chosen] == [[-0.75], [-0.25], [0.25], [0.75]]
    assert {action.dtype for action in chosen} == {np.dtype(np.float32)}


def test_one_bin_is_the_middle():
    env = discretized(spaces.Box(0.0, 3.0, (1,)), num_bins=1)
    assert inner_action(env, {"action": 0}).tolist() == [1.5]


def test_dimensions_may_have_bins_of_their_own():
    box = spaces.Box(np.array([0.0, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64)
    env = discretized(box, num_bins=[2, 3], low=[0.0, -3.0], high=[2.0, 3.0])
    assert env.action_spaces[0] == spaces.Dict({"action": spaces.MultiDiscrete([2, 3])})
    assert inner_action(env, {"action": np.array([1, 2])}).tolist() == [1.5, 2.0]
    assert inner_action(env, {"action": np.array([0, 1])}).tolist() == [0.5, 0.0]


def test_bounds_can_be_narrower_than_the_space():
    env = discretized(spaces.Box(-9.0, 9.0, (2,)), num_bins=2, low=-1, high=1)
    assert inner_action(env, {"action": np.array([0, 1])}).tolist() == [-0.5, 0.5]


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(
    st.lists(st.tuples(finite, finite), min_size=1, max_size=3),
    st.integers(1, 9),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.data(),
)
def test_every_choice_is_an_action_of_the_environment_inside(pairs, n, dtype, data):
    with np.errstate(over="ignore"):
        bounds = np.sort(np.array(pairs).astype(dtype), axis=1)
    bounds = np.clip(bounds, np.finfo(dtype).min, np.finfo(dtype).max)
    if not np.all(bounds[:, 0] < bounds[:, 1]):
        return
    box = spaces.Box(bounds[:, 0], bounds[:, 1], dtype=dtype)
    env = discretized(box, num_bins=n)
    choices = data.draw(st.lists(st.integers(0, n - 1), min_size=len(pairs), max_size=len(pairs)))
    inner = env.action({"action": np.array(choices) if len(choices) > 1 else choices[0]})
    assert box.contains(inner["action"])


def test_the_action_that_does_nothing_needs_a_bin_of_its_own():
    env = DiscretizeActionsWrapper(
        NoopEnv(), {"position": {"num_bins": [3, 2]}}
    )  # middles: -2/3, 0, 2/3 and -0.5, 0.5
    env.reset()
    assert env.noop_action() == {"piece": 0}
    env.step({"piece": 0})
    assert same(env.noop_action(), {"position": np.array([1, 1]), "rotation": 1})
    env = DiscretizeActionsWrapper(NoopEnv(), {"position": {"num_bins": 2}})
    env.reset()
    env.step({"piece": 0})
    with pytest.raises(ConfigError, match="in the middle of none of the bins"):
        env.noop_action()


BOX = spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize(
    ("space", "options", "answer"),
    [
        (BOX, {"num_bin": 3}, "Did you mean '.*num_bins'"),
        (BOX, {}, "has no 'num_bins'"),
        (BOX, {"num_bins": 0}, "num_bins' .* at least 1, got 0"),
        (BOX, {"num_bins": [2, 3, 4]}, "has 3 entries, expected .* 2 dimensions"),
        (BOX, {"num_bins": [2, 2.5]}, "got 2.5"),
        (BOX, {"num_bins": 2, "low": "none"}, "low' .* a number, got 'none'"),
        (BOX, {"num_bins": 2, "low": -2}, "within the bounds of the space, -1.0 and 1.0"),
        (BOX, {"num_bins": 2, "low": 0.5, "high": 0.5}, "less than 'high'"),
        (spaces.Box(0, np.inf, (2,)), {"num_bins": 2}, r"not bounded: give '.*high'"),
        (spaces.Box(0, 1, (2, 2)), {"num_bins": 2}, "only a Box of floats of one dimension"),
        (spaces.Box(0, 9, (2,), np.int32), {"num_bins": 2}, "only a Box of floats"),
        (spaces.Discrete(3), {"num_bins": 2}, r"'action' is Discrete\(3\)"),
        (BOX, 3, "has to be a mapping with 'num_bins', got 3"),
    ],
)
def test_a_wrong_discretization_config_is_answered(space, options, answer):
    with pytest.raises(ConfigError, match=answer):
        DiscretizeActionsWrapper(acting(space), {"action": options})


def test_an_unknown_head_is_answered():
    with pytest.raises(ConfigError, match="Did you mean 'position'"):
        DiscretizeActionsWrapper(TwoStepEnv(), {"postion": {"num_bins": 2}})
    with pytest.raises(ConfigError, match="'discretization_config' has to be a mapping"):
        DiscretizeActionsWrapper(TwoStepEnv(), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", [3, -1, None, 0.5, [1, 1]])
def test_a_choice_that_is_no_bin_is_answered(choice):
    env = discretized(spaces.Box(-1.0, 1.0, (1,)), num_bins=3)
    env.reset()
    with pytest.raises(SpaceError, match=r"no choice for 'action' that is in Discrete\(3\)"):
        env.step({"action": choice})


# Recorded.


def test_actions_are_recorded_as_they_pass_and_can_be_played_again(tmp_path):
    wrappers = {ActionRecordingWrapper: {}, SplitActionsWrapper: {"split_config": SPLIT_POSITION}}
    runner = SequentialRolloutRunner(n_episodes=3)
    result = runner.run_with(
        TwoStepEnv, wrappers=wrappers, seeding=Seeding(1, 2), output_dir=tmp_path
    )
    for row in result.episodes:
        env = TwoStepEnv()
        recorded = load_recorded_actions(tmp_path, row.episode_index, env.action_spaces)
        env.reset(seed=row.env_seed)
        rewards = []
        for time, actor, action in recorded:
            assert (env.env_time(), env.actor_id()) == (time, actor)
            assert env.action_space.contains(action)
            rewards.append(env.step(action)[1])
        assert sum(rewards) == pytest.approx(row.episode_return)


def test_each_kind_of_action_comes_out_as_it_went_in():
    space = spaces.Dict(
        a=spaces.Discrete(5, start=-2),
        b=spaces.Box(-1.0, 1.0, (2, 2)),
        c=spaces.MultiBinary(3),
        d=spaces.Tuple([spaces.MultiDiscrete([3, 4]), spaces.Text(5)]),
    )
    space.seed(3)
    for _ in range(20):
        action = space.sample()
        event = RecordedAction.of(ActorID(0, 0), action, space)
        assert same(event.value(space), action)


def test_what_was_not_recorded_is_told(tmp_path):
    runner = SequentialRolloutRunner(n_episodes=1)
    runner.run_with(TwoStepEnv, seeding=Seeding(1, 2), output_dir=tmp_path)
    with pytest.raises(OutputError, match=r"no recorded actions in .*ActionRecordingWrapper"):
        load_recorded_actions(tmp_path, 0, TwoStepEnv().action_spaces)
    runner.run_with(
        TwoStepEnv,
        wrappers={ActionRecordingWrapper: {}},
        seeding=Seeding(1, 2),
        output_dir=tmp_path / "other",
    )
    with pytest.raises(OutputError, match="no recorded actions of episode 7"):
        load_recorded_actions(tmp_path / "other", 7, TwoStepEnv().action_spaces)
