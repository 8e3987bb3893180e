"""Gymnasium environments in Maze: nothing is lost, little is added, mistakes are answered."""

import copy
import pickle
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from maze.core.env.structured_env import ActorID
from maze.core.errors import ConfigError, ContractError, MissingExtraError
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv, make_gym_maze_env
from tests.contracts import EnvContract, play, same
from tests.envs import CountingEnv, EchoEnv, TwoStepEnv

gym.register("tests/Counting-v0", entry_point="tests.envs:CountingEnv", max_episode_steps=3)
gym.register("tests/Renamed-v2", entry_point="tests.envs:CountingEnv")


class TestCartPole(EnvContract):
    def make_env(self):
        return GymMazeEnv("CartPole-v1")


class TestTwoStepEnv(EnvContract):
    def make_env(self):
        return TwoStepEnv()


class TestAnEnvironmentObject(EnvContract):
    def make_env(self):
        return GymMazeEnv(CountingEnv(n_steps=4))


class TestAnEnvironmentWithDictSpaces(EnvContract):
    def make_env(self):
        space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))})
        return GymMazeEnv(EchoEnv(space, space))


class TestAWrappedEnvironment(EnvContract):
    def make_env(self):
        return GymMazeEnv("CartPole-v1").with_gymnasium_wrapper(
            gym.wrappers.FrameStackObservation, {"stack_size": 2}
        )


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Taxi-v4", "Blackjack-v1", "LunarLander-v3", "Pendulum-v1"]
)
def test_it_plays_what_gymnasium_plays(name):
    ours, theirs = GymMazeEnv(name), gym.make(name)
    steps = play(ours, seed=11)
    observation, _ = theirs.reset(seed=11)
    for step in steps:
        assert np.array_equal(step.observation["observation"], observation)
        observation, reward, terminated, truncated, _ = theirs.step(step.action["action"])
        assert (step.reward, step.is_last) == (reward, terminated or truncated)
    assert np.array_equal(steps[-1].next_observation["observation"], observation)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3)),
        spaces.Box(0, 255, (2, 2), np.uint8),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary([2, 2]),
        spaces.Text(5),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)),
        spaces.OneOf((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))),
    ],
    ids=lambda space: type(space).__name__,
)
def test_any_space_works(space):
    inner = EchoEnv(space, space)
    env = GymMazeEnv(inner)
    steps = play(env, seed=1)
    assert all(env.observation_spaces[0].contains(step.next_observation) for step in steps)
    action = steps[-1].action
    plain = action if isinstance(space, spaces.Dict) else action["action"]
    assert inner.last_action in space
    assert str(inner.last_action) == str(plain)


def test_plain_spaces_become_dictionaries_with_one_entry():
    env = GymMazeEnv("CartPole-v1")
    assert list(env.observation_spaces[0]) == ["observation"]
    assert list(env.action_spaces[0]) == ["action"]
    assert env.actor_id() == ActorID(0, 0)
    assert env.is_flat


def test_dict_spaces_are_passed_through():
    space = spaces.Dict({"a": spaces.Discrete(2)})
    env = GymMazeEnv(EchoEnv(space, space))
    assert env.observation_spaces == {0: space}
    assert env.action_spaces == {0: space}
    mixed = GymMazeEnv(EchoEnv(spaces.Discrete(2), space))
    assert list(mixed.observation_spaces[0]) == ["observation"]
    assert mixed.action_spaces == {0: space}


def test_checking_and_counting_layers_are_taken_off_what_is_made_here():
    env = GymMazeEnv("CartPole-v1")
    assert env.gym_env is env.gym_env.unwrapped
    assert env.spec is not None
    assert env.spec.max_episode_steps == 500


def test_layers_of_an_environment_object_are_left_as_they_are():
    made = gym.make("CartPole-v1")
    assert GymMazeEnv(made).gym_env is made


@pytest.mark.parametrize("n_steps", [None, 3])  # the task goes on; the task ends at the limit
def test_the_time_limit_truncates_as_gymnasium_does(n_steps):
    ours = GymMazeEnv("tests/Counting-v0", kwargs={"n_steps": n_steps})
    theirs = gym.make("tests/Counting-v0", n_steps=n_steps)
    expected = [(False, False), (False, False), (n_steps == 3, True)]
    theirs.reset()
    assert [theirs.step(0)[2:4] for _ in range(3)] == expected
    for _ in range(2):
        ours.reset()
        assert [ours.step({"action": 0})[2:4] for _ in range(3)] == expected
    assert ours.env_time() == 3


def test_the_limit_can_be_given_as_to_gymnasium_make():
    env = make_gym_maze_env("tests/Counting-v0", kwargs={"max_episode_steps": 1})
    env.reset()
    assert env.step({"action": 0})[3] is True


def test_gymnasium_wrappers_see_the_end_of_the_episode():
    env = GymMazeEnv("tests/Counting-v0").with_gymnasium_wrapper(
        gym.wrappers.RecordEpisodeStatistics
    )
    env.reset()
    infos = [env.step({"action": 0})[4] for _ in range(3)]
    assert infos[2]["episode"]["l"] == 3


def test_stepping_before_the_first_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded, match="before reset"):
        GymMazeEnv("CartPole-v1").step({"action": 0})


def test_reset_options_of_the_call_go_first():
    inner = CountingEnv()
    env = GymMazeEnv(inner, reset_options={"a": 1, "b": 1})
    env.reset(options={"b": 2})
    assert inner.options == {"a": 1, "b": 2}
    env.reset()
    assert inner.options == {"a": 1, "b": 1}


def test_without_options_none_are_passed():
    inner = CountingEnv()
    GymMazeEnv(inner).reset()
    assert inner.options is None


class OldGymEnv(CountingEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]

    def step(self, action):
        return self._observe(), 0.0, False, {}


class OldResetEnv(CountingEnv):
    def reset(self):  # type: ignore[override]
        return super().reset()


def test_four_values_are_answered_with_the_five_that_are_expected():
    env = GymMazeEnv(CountingEnv())
    env.reset()
    env.gym_env.step = lambda action: (0, 0.0, False, {})  # type: ignore[method-assign, return-value, assignment]
    env.reset()
    with pytest.raises(ContractError, match=r"CountingEnv returned 4 values .*five.*shimmy"):
        env.step({"action": 0})


def test_a_reset_without_info_is_answered():
    with pytest.raises(ContractError, match=r"returned a single ndarray.*observation and info"):
        GymMazeEnv(OldGymEnv()).reset()


def test_a_reset_that_returns_an_observation_of_two_numbers_is_answered():
    class TwoNumbers(CountingEnv):
        def reset(self, *, seed=None, options=None):
            return np.zeros(2, dtype=np.float32)

    with pytest.raises(ContractError, match="observation and info"):
        GymMazeEnv(TwoNumbers()).reset()


def test_a_reset_without_keywords_is_answered():
    with pytest.raises(ContractError, match=r"keywords 'seed' and 'options'"):
        GymMazeEnv(OldResetEnv()).reset(seed=1)


def test_a_plain_action_is_answered():
    env = GymMazeEnv("CartPole-v1")
    env.reset(seed=1)
    with pytest.raises(ContractError, match=r"dictionary \{'action': \.\.\.\}, got int"):
        env.step(1)  # type: ignore[arg-type]


def test_errors_of_the_environment_are_its_own():
    class Broken(CountingEnv):
        def step(self, action):
            raise ValueError("broken gear")

    env = GymMazeEnv(Broken())
    env.reset()
    with pytest.raises(ValueError, match="broken gear"):
        env.step({"action": 0})


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("CartPole-v9", r"CartPole-v0, CartPole-v1"),  # an unknown version
        ("cartpole-v1", r"CartPole-v0, CartPole-v1"),  # other letters
        ("CartPoel-v1", r"Did you mean 'CartPole-v\d'"),  # a slip
        ("nowhere/CartPole-v1", r"there is no environment 'nowhere/CartPole-v1'"),
        ("tests/Renamed-v1", r"out of date.*tests/Renamed-v2"),  # an old version that is gone
        ("Cart Pole", r"Malformed"),
        ("no_such_module:Mine-v0", r"no_such_module"),
    ],
)
def test_an_unknown_id_is_answered_with_those_that_exist(name, answer):
    with pytest.raises(ConfigError, match=answer):
        GymMazeEnv(name)


def test_an_id_may_name_the_module_that_registers_it():
    assert isinstance(GymMazeEnv("tests.envs:CartPole-v1"), GymMazeEnv)


def test_an_old_version_that_exists_is_made_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GymMazeEnv("CartPole-v0")


def test_wrong_arguments_are_named():
    with pytest.raises(
        ConfigError, match=r"'CartPole-v1' cannot be made with gravity=2.*'gravity'"
    ):
        GymMazeEnv("CartPole-v1", kwargs={"gravity": 2})


def test_a_fault_inside_of_the_constructor_is_not_reworded():
    class Broken(CountingEnv):
        def __init__(self, render_mode=None):
            self.size = 1 + "1"  # type: ignore[operator]

    gym.register("tests/Broken-v0", entry_point=Broken)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unsupported operand"):
        GymMazeEnv("tests/Broken-v0")


@pytest.mark.parametrize("name", ["CartPole-v1", "tests/Counting-v0"])
def test_an_unknown_render_mode_is_answered_with_those_that_exist(name):
    with pytest.raises(ConfigError, match=r"no render mode 'ascii'. It has: .*'rgb_array'"):
        GymMazeEnv(name, render_mode="ascii")


def test_a_render_mode_can_be_added_later():
    env = GymMazeEnv("tests/Counting-v0", kwargs={"n_steps": 7}).with_gymnasium_wrapper(
        gym.wrappers.ClipReward, {"max_reward": 1.0}
    )
    rendering = env.with_render_mode("rgb_array")
    assert (env.render_mode, rendering.render_mode) == (None, "rgb_array")
    rendering.reset()
    assert [rendering.step({"action": 0})[1] for _ in range(2)] == [1.0, 1.0]
    assert rendering.render().max() == 2
    assert rendering.gym_env.unwrapped.n_steps == 7  # type: ignore[attr-defined]


def test_a_render_mode_cannot_be_added_to_an_object():
    with pytest.raises(ConfigError, match=r"was not made from an id.*render_mode=None"):
        GymMazeEnv(CountingEnv()).with_render_mode("rgb_array")


@pytest.mark.parametrize("arguments", [{"render_mode": "rgb_array"}, {"kwargs": {"n_steps": 2}}])
def test_an_object_takes_no_arguments_for_making_it(arguments):
    with pytest.raises(ConfigError, match="made from its id"):
        GymMazeEnv(CountingEnv(), **arguments)


def test_something_else_than_an_environment_is_answered():
    with pytest.raises(ConfigError, match=r"got builtins.int.*shimmy"):
        GymMazeEnv(3)  # type: ignore[arg-type]


def test_an_environment_without_spaces_is_answered():
    class Spaceless(gym.Env[int, int]):
        pass

    with pytest.raises(ContractError, match="'observation_space' of Spaceless"):
        GymMazeEnv(Spaceless())


@pytest.mark.parametrize(
    ("name", "module", "gym_module", "extra"),
    [
        ("LunarLander-v3", "Box2D", "gymnasium.envs.box2d", "box2d"),
        ("Hopper-v5", "mujoco", "gymnasium.envs.mujoco", "mujoco"),
        ("ALE/Pong-v5", "ale_py", "ale_py", "atari"),
        ("PongNoFrameskip-v4", "ale_py", "ale_py", "atari"),
    ],
)
def test_a_missing_package_is_answered_with_the_extra(monkeypatch, name, module, gym_module, extra):
    for loaded in list(sys.modules):
        if loaded.partition(".")[0] == module or loaded.startswith(gym_module):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"'{name}' needs.*maze-rollouts\[{extra}\]"):
        GymMazeEnv(name)


def test_a_package_that_is_missing_for_rendering_is_answered_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = GymMazeEnv("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=1)
    with pytest.raises(MissingExtraError, match=r"pygame.*maze-rollouts\[render\]"):
        env.render()


def test_an_unregistered_environment_travels_with_its_spec(monkeypatch):
    pickled = pickle.dumps(GymMazeEnv("tests/Counting-v0", kwargs={"n_steps": 2}))
    monkeypatch.delitem(gym.registry, "tests/Counting-v0")
    restored = pickle.loads(pickled)
    assert len(play(restored)) == 2


def test_a_copy_goes_on_from_the_same_state():
    env = GymMazeEnv("tests/Counting-v0")
    env.reset()
    env.step({"action": 0})
    copied = copy.deepcopy(env)
    for goes_on in (env, copied):
        assert goes_on.step({"action": 0})[:4] == (
            {"observation": np.array([2.0], dtype=np.float32)},
            2.0,
            False,
            False,
        )
        assert goes_on.step({"action": 0})[3] is True


def test_a_pickle_holds_how_it_was_made():
    env = GymMazeEnv("CartPole-v1", reset_options={"low": -0.01, "high": 0.01})
    restored = pickle.loads(pickle.dumps(env))
    assert same(restored.reset(seed=1)[0], env.reset(seed=1)[0])
    assert abs(restored.reset(seed=2)[0]["observation"]).max() <= 0.01
