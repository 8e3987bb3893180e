"""Wrappers: each changes one thing, on a single actor and on several; stacks come from configs."""

import copy
import pickle
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from maze.core.env.structured_env import ActorID, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.wrappers.apply import apply_wrappers
from maze.core.wrappers.dict_action_wrapper import DictActionWrapper
from maze.core.wrappers.dict_observation_wrapper import DictObservationWrapper
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.observation_stack_wrapper import ObservationStackWrapper
from maze.core.wrappers.reward_clipping_wrapper import RewardClippingWrapper
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from maze.core.wrappers.step_skip_wrapper import StepSkipWrapper
from maze.core.wrappers.time_limit_wrapper import TimeLimitWrapper
from maze.core.wrappers.wrapper import ActionWrapper, ObservationWrapper, Wrapper
from maze_envs.logistics.cutting_2d.env import cutting_2d_structured_masked
from tests.commands import REPOSITORY
from tests.contracts import WrapperContract, play, same
from tests.core_envs import tank_env
from tests.envs import CountingEnv, EchoEnv, TwoStepEnv

SCALING = "maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper"

CONF = REPOSITORY / "src" / "maze" / "conf"

ACTION = {"action": 0}


def counting(n_steps: int | None = None) -> GymMazeEnv:
    """An environment whose observations and rewards are 1, 2, 3, ..."""
    return GymMazeEnv(CountingEnv(n_steps))


def rewards(env: StructuredEnv, n_steps: int) -> list[float]:
    env.reset(seed=0)
    return [env.step(ACTION)[1] for _ in range(n_steps)]


class TestWrapperContract(WrapperContract):
    def wrap(self, env):
        return Wrapper(env)


class TestRewardScaling(WrapperContract):
    def wrap(self, env):
        return RewardScalingWrapper(env, scale=0.1)


class TestRewardClipping(WrapperContract):
    def wrap(self, env):
        return RewardClippingWrapper(env, min_val=0.2, max_val=0.4)


class TestTimeLimit(WrapperContract):
    def wrap(self, env):
        return TimeLimitWrapper(env, max_episode_steps=2)


class TestObservationStack(WrapperContract):
    def wrap(self, env):
        config = [
            {"observation": "sizes", "stack_steps": 3},
            {"observation": "size", "stack_steps": 2, "keep_original": True, "tag": "change"},
        ]
        return ObservationStackWrapper(env, config)


class TestStepSkip(WrapperContract):
    def make_inner(self):
        return counting(n_steps=5)

    def wrap(self, env):
        return StepSkipWrapper(env, n_steps=2)


def test_a_wrapper_goes_around_a_structured_environment():
    with pytest.raises(ConfigError, match=r"wraps a StructuredEnv, got CountingEnv.*GymMazeEnv"):
        Wrapper(CountingEnv())  # type: ignore[arg-type]


def test_an_observation_wrapper_changes_the_first_and_the_last_observation_too():
    class Negative(ObservationWrapper):
        def observation(self, observation):
            return {"observation": -observation["observation"]}

    env = Negative(counting(n_steps=2))
    steps = play(env)
    assert steps[0].observation["observation"] == [0.0]
    assert [step.next_observation["observation"][0] for step in steps] == [-1.0, -2.0]


def test_an_action_wrapper_changes_what_the_environment_gets():
    class Flipped(ActionWrapper):
        def action(self, action):
            return {"action": 1 - action["action"]}

    inner = CountingEnv()
    env = Flipped(GymMazeEnv(inner))
    env.reset()
    env.step({"action": 0})
    assert inner.actions == [1]


def test_rewards_are_scaled():
    assert rewards(RewardScalingWrapper(counting(), 0.5), 3) == [0.5, 1.0, 1.5]


def test_rewards_are_clipped():
    assert rewards(RewardClippingWrapper(counting(), 2, 3), 4) == [2.0, 2.0, 3.0, 3.0]


def test_clipping_keeps_what_is_not_a_number():
    assert np.isnan(RewardClippingWrapper(counting(), 0, 1).reward(float("nan")))


@pytest.mark.parametrize("make", [
    lambda env: RewardScalingWrapper(env, "much"),  # type: ignore[arg-type]
    lambda env: RewardScalingWrapper(env, float("inf")),
    lambda env: RewardClippingWrapper(env, 1, 0),
    lambda env: RewardClippingWrapper(env, float("nan"), 0),
    lambda env: RewardClippingWrapper(env, None, 0),  # type: ignore[arg-type]
    lambda env: TimeLimitWrapper(env, 0),
    lambda env: TimeLimitWrapper(env, 2.5),  # type: ignore[arg-type]
    lambda env: StepSkipWrapper(env, 0),
    lambda env: StepSkipWrapper(env, 2, skip_mode="other"),  # type: ignore[arg-type]
    lambda env: StepSkipWrapper(TwoStepEnv(), 2),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match=r"got|needs|several|single actor"):
        make(counting())


def test_a_time_limit_truncates_and_leaves_terminated_alone():
    env = TimeLimitWrapper(counting(n_steps=3), max_episode_steps=3)
    for _ in range(2):
        env.reset()
        flags = [env.step(ACTION)[2:4] for _ in range(3)]
        assert flags == [(False, False), (False, False), (True, True)]
    env = TimeLimitWrapper(counting(), max_episode_steps=2)
    env.reset()
    assert [env.step(ACTION)[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_a_time_limit_counts_structured_steps():
    steps = play(TimeLimitWrapper(TwoStepEnv(n_steps=9), max_episode_steps=2))
    assert [step.is_last for step in steps] == [False, False, False, True]


def test_a_skipped_step_repeats_the_action_and_sums_the_rewards():
    inner = CountingEnv()
    env = StepSkipWrapper(GymMazeEnv(inner), n_steps=3)
    assert rewards(env, 2) == [1.0 + 2.0 + 3.0, 4.0 + 5.0 + 6.0]
    assert len(inner.actions) == 6


def test_nothing_is_done_in_between_if_the_environment_says_how():
    env = tank_env()
    env.reset(seed=1)
    expected = 0.0
    for action in ({"sell": 1}, env.noop_action(), env.noop_action()):
        expected += float(env.step(action)[1])
    skipping = StepSkipWrapper(tank_env(), n_steps=3, skip_mode="noop")
    skipping.reset(seed=1)
    assert skipping.step({"sell": 1})[1] == expected
    with pytest.raises(ConfigError, match="does not say which of its actions does nothing"):
        StepSkipWrapper(counting(), 2, skip_mode="noop")


def test_skipping_stops_at_the_end_of_the_episode():
    env = StepSkipWrapper(counting(n_steps=4), n_steps=3)
    env.reset()
    env.step(ACTION)
    observation, reward, terminated, _, _ = env.step(ACTION)
    assert (observation["observation"][0], reward, terminated) == (4.0, 4.0, True)


def stacks(env: StructuredEnv, key: str, n_steps: int = 3) -> list[list[float]]:
    observation, _ = env.reset(seed=0)
    observations = [observation] + [env.step(ACTION)[0] for _ in range(n_steps)]
    return [observation[key][:, 0].tolist() for observation in observations]


def test_a_stack_has_the_newest_last_and_zeros_before_the_start():
    env = ObservationStackWrapper(counting(), [{"observation": "observation", "stack_steps": 3}])
    expected = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    assert stacks(env, "observation") == expected
    assert stacks(env, "observation") == expected  # a new episode has no past


def test_the_older_entries_of_a_delta_stack_are_changes():
    config = [{"observation": "observation", "stack_steps": 3, "delta": True}]
    env = ObservationStackWrapper(GymMazeEnv(SquaresEnv()), config)
    # Observations 0, 1, 4, 9.
    expected = [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 3.0, 4.0], [3.0, 5.0, 9.0]]
    assert stacks(env, "observation") == expected


class SquaresEnv(CountingEnv):
    def _observe(self):
        return np.array([self.count**2], dtype=np.float32)


def test_a_tagged_stack_may_stand_beside_the_original():
    config = [
        {"observation": "observation", "stack_steps": 2, "keep_original": True, "tag": "past"}
    ]
    env = ObservationStackWrapper(counting(), config)
    assert set(env.observation_spaces[0]) == {"observation", "observation-past"}
    observation, _ = env.reset()
    assert observation["observation"].shape == (1,)
    assert observation["observation-past"].shape == (2, 1)


def test_the_space_of_a_stack_admits_the_zeros_before_the_start():
    class FromFive(CountingEnv):
        observation_space = spaces.Box(5.0, 9.0, (1,), np.float32)

        def _observe(self):
            return np.array([7.0], dtype=np.float32)

    env = ObservationStackWrapper(
        GymMazeEnv(FromFive()), [{"observation": "observation", "stack_steps": 2}]
    )
    space = env.observation_spaces[0]["observation"]
    assert isinstance(space, spaces.Box)
    assert (space.low[:, 0].tolist(), space.high[:, 0].tolist()) == ([0.0, 5.0], [9.0, 9.0])
    assert env.observation_space.contains(env.reset()[0])


def test_each_actor_has_a_history_of_its_own():
    class TwoAgents(TwoStepEnv):
        """The selection is made by two agents in turn."""

        def __init__(self) -> None:
            super().__init__(n_steps=4)
            self.agent_counts = {"select": 2, "place": 1}

        def actor_id(self):
            step_key, _ = super().actor_id()
            return ActorID(step_key, self._time % 2 if step_key == "select" else 0)

    plain = [step for step in play(TwoAgents(), seed=1) if step.actor == ("select", 1)]
    env = ObservationStackWrapper(TwoAgents(), [{"observation": "sizes", "stack_steps": 2}])
    stacked = [step for step in play(env, seed=1) if step.actor == ("select", 1)]
    expected = [np.zeros(4, np.float32), *(step.observation["sizes"] for step in plain)]
    assert len(stacked) == 2
    for index, step in enumerate(stacked):
        assert np.array_equal(step.observation["sizes"], np.stack(expected[index : index + 2]))


def test_a_stack_survives_an_environment_that_reuses_its_buffer():
    class Reusing(CountingEnv):
        buffer = np.zeros(1, dtype=np.float32)

        def _observe(self):
            self.buffer[0] = self.count
            return self.buffer

    env = ObservationStackWrapper(
        GymMazeEnv(Reusing()), [{"observation": "observation", "stack_steps": 2}]
    )
    assert stacks(env, "observation", n_steps=2) == [[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        ({"observation": "observatoin", "stack_steps": 2}, "Did you mean 'observation'"),
        ({"observation": "observation", "stack_step": 2}, "Did you mean"),
        ({"observation": "observation"}, "has no 'stack_steps'"),
        ({"observation": "observation", "stack_steps": 0}, "at least 1"),
        ({"observation": "observation", "stack_steps": 2, "keep_original": True}, "'tag'"),
        ("observation", "has to be a mapping"),
    ],
)
def test_a_wrong_stack_config_is_answered(entry, answer):
    with pytest.raises(ConfigError, match=answer):
        ObservationStackWrapper(counting(), [entry])


def test_two_stacks_of_one_name_are_refused():
    config = [{"observation": "observation", "stack_steps": n} for n in (2, 3)]
    with pytest.raises(ConfigError, match="exists already"):
        ObservationStackWrapper(counting(), config)


def test_only_boxes_are_stacked_and_only_floats_subtracted():
    env = GymMazeEnv(EchoEnv(spaces.Discrete(3), spaces.Discrete(2)))
    with pytest.raises(ConfigError, match="is a Discrete"):
        ObservationStackWrapper(env, [{"observation": "observation", "stack_steps": 2}])
    env = GymMazeEnv(EchoEnv(spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(2)))
    with pytest.raises(ConfigError, match="overflow its dtype uint8"):
        ObservationStackWrapper(
            env, [{"observation": "observation", "stack_steps": 2, "delta": True}]
        )


def test_tuple_spaces_become_dictionaries_with_an_entry_for_each_part():
    space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,))))
    inner = EchoEnv(space, space)
    env = GymMazeEnv(DictObservationWrapper(DictActionWrapper(inner)))
    assert set(env.observation_spaces[0]) == {"observation_0", "observation_1"}
    assert set(env.action_spaces[0]) == {"action_0", "action_1"}
    steps = play(env)
    assert all(env.observation_spaces[0].contains(step.next_observation) for step in steps)
    last = steps[-1].action
    assert same(inner.last_action, (last["action_0"], last["action_1"]))


def test_plain_spaces_become_dictionaries_and_dictionaries_stay():
    plain = DictObservationWrapper(DictActionWrapper(CountingEnv()))
    assert plain.action_space == spaces.Dict({"action": spaces.Discrete(2)})
    assert plain.reset()[0] == {"observation": np.array([0.0])}
    plain.step({"action": 1})
    again = DictObservationWrapper(DictActionWrapper(plain))
    assert again.observation_space is plain.observation_space
    again.reset()
    assert again.step({"action": 1})[0] == {"observation": np.array([1.0])}


def test_a_stack_of_wrappers_can_be_made_again_with_a_render_mode():
    gym.register("tests/Rendered-v0", entry_point="tests.envs:CountingEnv")
    inner = GymMazeEnv("tests/Rendered-v0")
    env = TimeLimitWrapper(RewardScalingWrapper(inner, 0.5), 2)
    rendering = env.with_render_mode("rgb_array")
    assert (env.render_mode, rendering.render_mode) == (None, "rgb_array")
    assert rewards(rendering, 2) == [0.5, 1.0]
    assert rendering.render().max() == 2
    assert isinstance(rendering.env, Wrapper)
    assert rendering.events is rendering.env.env.events
    assert inner.gym_env.unwrapped.count == 0  # type: ignore[attr-defined]


def test_an_environment_that_cannot_be_made_again_says_so():
    with pytest.raises(ConfigError, match="TwoStepEnv does not say how it is made"):
        Wrapper(TwoStepEnv()).with_render_mode("rgb_array")


# --- apply_wrappers


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_no_wrappers_leave_the_environment_as_it_is(nothing):
    env = counting()
    assert apply_wrappers(env, nothing) is env


@pytest.mark.parametrize(
    "wrappers",
    [
        {SCALING: {"scale": 0.5}},
        {RewardScalingWrapper: {"scale": 0.5}},
        [{SCALING: {"scale": 0.5}}],
        [{"_target_": SCALING, "scale": 0.5}],
    ],
)
def test_wrappers_are_given_by_path_or_class(wrappers):
    assert rewards(apply_wrappers(counting(), wrappers), 2) == [0.5, 1.0]


def test_the_first_wrapper_is_the_innermost():
    wrappers = {
        RewardScalingWrapper: {"scale": 10},
        RewardClippingWrapper: {"min_val": 0, "max_val": 5},
    }
    env = apply_wrappers(counting(), wrappers)
    assert rewards(env, 1) == [5.0]


def test_a_list_may_hold_a_wrapper_twice():
    env = apply_wrappers(
        counting(), [{SCALING: {"scale": 0.5}}, {SCALING: {"scale": 0.1}}, Wrapper]
    )
    assert rewards(env, 1) == [0.05]


def test_gymnasium_wrappers_go_underneath():
    wrappers = {
        "gymnasium.wrappers.TransformReward": {"func": abs},
        "gymnasium.wrappers.FrameStackObservation": {"stack_size": 2},
        SCALING: {"scale": 0.5},
    }
    env = apply_wrappers(counting(), wrappers)
    assert isinstance(env, RewardScalingWrapper)
    assert isinstance(env.env, GymMazeEnv)
    assert isinstance(env.env.gym_env, gym.wrappers.FrameStackObservation)
    assert env.observation_space["observation"].shape == (2, 1)
    assert rewards(env, 2) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("wrappers", "answer"),
    [
        ({SCALING: {"scael": 1}}, "Did you mean 'wrappers.RewardScalingWrapper.scale'"),
        ({SCALING: None}, "needs 'wrappers.RewardScalingWrapper.scale'"),
        ({SCALING: 0.1}, "have to be a mapping, got 0.1"),
        ({SCALING: {"env": 1, "scale": 1}}, "is the environment that it is put around"),
        ({SCALING + "s": {}}, "RewardScalingWrapper"),
        ({"gymnasium.wrappers.ClipReward": {"max": 1}}, "'wrappers.ClipReward.max' is not"),
        ({Wrapper: {}, gym.wrappers.ClipReward: {}}, r"after Wrapper.*list them first"),
        ({"maze.core.errors.ConfigError": {}}, "is no wrapper class"),
        ([{SCALING: {}, "scale": 0.1}], "indented"),
        (SCALING, "has to be a mapping"),
    ],
)
def test_a_wrong_wrappers_config_is_answered(wrappers, answer):
    with pytest.raises(ConfigError, match=answer):
        apply_wrappers(counting(), wrappers)


def test_gymnasium_wrappers_need_a_gymnasium_environment():
    with pytest.raises(ConfigError, match=r"TwoStepEnv is a structured environment of its own"):
        apply_wrappers(TwoStepEnv(), [gym.wrappers.ClipReward])


def test_a_stack_travels_by_pickle():
    env = apply_wrappers(
        GymMazeEnv("CartPole-v1"),
        {"gymnasium.wrappers.FrameStackObservation": {"stack_size": 2}, SCALING: {"scale": 0.5}},
    )
    restored = pickle.loads(pickle.dumps(env))
    assert same(play(restored), play(env))
    assert same(play(copy.deepcopy(env)), play(env))


# Config files.


def composed(name: str) -> dict[str, Any]:
    """Return an option of the group ``wrappers``, with what it inherits."""
    text = yaml.safe_load((CONF / "wrappers" / f"{name}.yaml").read_text())
    inherited = [entry for entry in text.pop("defaults", []) if entry != "_self_"]
    return {**{k: v for parent in inherited for k, v in composed(parent).items()}, **text}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "wrappers").glob("*.yaml")))
def test_each_option_of_the_group_can_be_put_around_an_environment_it_is_for(name):
    if name.startswith("pixel"):
        pytest.importorskip("PIL")
        env = GymMazeEnv(EchoEnv(spaces.Box(0, 255, (120, 100, 3), np.uint8), spaces.Discrete(2)))
    elif name.startswith("tutorial"):
        env = cast(Any, cutting_2d_structured_masked(20, [4, 3], [[1, 2], [2, 2]]))
    else:
        env = GymMazeEnv("CartPole-v1")
    wrapped = apply_wrappers(env, composed(name))
    for step in play(wrapped):
        assert wrapped.observation_spaces[step.actor.step_key].contains(step.observation)
    if name == "pixel_obs":
        assert wrapped.observation_space["observation-rgb2gray-resize_img-unsqueeze"].shape == (
            1, 96, 96
        )  # fmt: skip
    if name == "vector_obs_rnn":
        assert wrapped.observation_space["observation"].shape == (4, 4)
