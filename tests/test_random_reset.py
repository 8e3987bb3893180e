"""Episodes that begin after some random steps, and steps that are played for trial."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import maze
from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, ContractError
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.random_reset_wrapper import MAX_TRIES, RandomResetWrapper
from maze.core.wrappers.return_normalization_reward_wrapper import (
    ReturnNormalizationRewardWrapper,
    estimate_return_variance,
)
from maze.core.wrappers.sampling import SampledStep, random_policy, sample_steps
from maze.core.wrappers.time_limit_wrapper import TimeLimitWrapper
from tests.contracts import WrapperContract, play, same
from tests.core_envs import Sold, market_env, tank_env
from tests.envs import CountingEnv, EchoEnv, Placed, TwoStepEnv, WalkEnv

RESET_PATH = "maze.core.wrappers.random_reset_wrapper.RandomResetWrapper"


class TestRandomResetOfSubSteps(WrapperContract):
    def make_inner(self):
        return TwoStepEnv(n_steps=5)

    def wrap(self, env):
        return RandomResetWrapper(env, 0, 3)


class TestRandomResetOfAFlatEnvironment(WrapperContract):
    def make_inner(self):
        return GymMazeEnv(WalkEnv(n_steps=8))

    def wrap(self, env):
        return RandomResetWrapper(env, 1, 4)


class TestRandomResetWithMasks(WrapperContract):
    def make_inner(self):
        return tank_env()

    def wrap(self, env):
        return RandomResetWrapper(env, 1, 2)


class TestReturnNormalizationOfSubSteps(WrapperContract):
    def wrap(self, env):
        return ReturnNormalizationRewardWrapper(env, n_samples=20)


class TestReturnNormalizationOfAFlatEnvironment(WrapperContract):
    def make_inner(self):
        return GymMazeEnv(WalkEnv())

    def wrap(self, env):
        return ReturnNormalizationRewardWrapper(env, n_samples=20)


# Random resets.


def counting(low: int, high: int, n_steps: int | None = None) -> RandomResetWrapper:
    return RandomResetWrapper(GymMazeEnv(CountingEnv(n_steps)), low, high)


def first_counts(env: StructuredEnv, seeds: range) -> list[int]:
    return [int(env.reset(seed=seed)[0]["observation"][0]) for seed in seeds]


def test_each_number_of_steps_is_skipped_about_as_often():
    counts = first_counts(counting(2, 5), range(400))
    shares = np.bincount(counts, minlength=6) / len(counts)
    assert shares[:2].tolist() == [0.0, 0.0]
    assert np.all(np.abs(shares[2:] - 0.25) < 0.1)


def test_what_is_skipped_depends_on_the_seed_alone():
    def starts(env: StructuredEnv, seeds: Any) -> dict[int, Any]:
        return {seed: copy.deepcopy(env.reset(seed=seed)[0]) for seed in seeds}

    one = starts(RandomResetWrapper(GymMazeEnv(WalkEnv(9)), 0, 4), range(10))
    env = RandomResetWrapper(GymMazeEnv(WalkEnv(9)), 0, 4)
    env.reset()
    play(env)
    assert same(one, dict(sorted(starts(env, reversed(range(10))).items())))


def test_without_a_seed_each_reset_is_another():
    env = counting(0, 1000)
    assert len({env.reset()[0]["observation"][0] for _ in range(10)}) > 5


def test_without_steps_to_skip_it_is_the_environment_inside():
    assert same(play(RandomResetWrapper(tank_env(), 0, 0)), play(tank_env()))


def test_structured_steps_are_skipped_and_time_starts_at_zero():
    env = RandomResetWrapper(market_env(), 2, 2)
    env.reset(seed=1)
    assert (env.actor_id(), env.env_time(), env.env.env_time()) == (("scout", 0), 0, 2)
    assert [step.env_time for step in play(env)] == [0, 0, 0, 1]


def test_time_starts_at_zero_in_a_run(tmp_path):
    wrappers = {RESET_PATH: {"min_skip_steps": 1, "max_skip_steps": 1}}
    result = maze.rollout(
        market_env, wrappers=wrappers, n_episodes=2, seed=1, output_dir=tmp_path / "run"
    )
    assert list(result.episodes["n_steps"]) == [2, 2]
    lines = (tmp_path / "run" / "event_logs" / "Asked.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == ["0", "0", "1", "1", "1"] * 2


def test_a_time_limit_around_it_counts_from_the_first_step_that_is_seen():
    env = TimeLimitWrapper(RandomResetWrapper(TwoStepEnv(9), 3, 3), 2)
    assert len(play(env)) == 4
    assert len(play(TimeLimitWrapper(counting(3, 3), 2))) == 2


def test_events_of_skipped_steps_are_dropped_and_those_of_the_reset_kept():
    inner = tank_env()
    inner.reset(seed=1)
    of_reset = list(inner.events)
    assert of_reset  # with this seed it rains
    env = RandomResetWrapper(tank_env(), 3, 3)
    earlier = Sold(7)
    env.events.append(earlier)
    env.reset(seed=1)
    assert env.events == [earlier, *of_reset]
    env.step({"sell": 0})
    assert [event for event in env.events if isinstance(event, Sold)] == [earlier, Sold(0)]


def test_skipped_actions_keep_to_the_masks():
    class Strict(EchoEnv):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"allowed": np.array([0, 0, 1], np.int8)}, {}

        def step(self, action):
            assert action == 2
            return {"allowed": np.array([0, 0, 1], np.int8)}, 0.0, False, False, {}

    space = spaces.Dict({"allowed": spaces.MultiBinary(3)})
    inner = GymMazeEnv(Strict(space, spaces.Discrete(3)), action_masks={"action": "allowed"})
    RandomResetWrapper(inner, 30, 30).reset(seed=1)


class EndsEarlyEnv(CountingEnv):
    """Ends with the first step, unless the seed of the reset is one in four."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int | None] = []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.n_steps = None if seed is not None and seed % 4 == 0 else 1
        return super().reset(seed=seed, options=options)


def test_an_episode_that_ends_meanwhile_is_replaced_by_another_with_a_derived_seed():
    def tried(seed: int) -> list[int | None]:
        inner = EndsEarlyEnv()
        env = RandomResetWrapper(GymMazeEnv(inner), 1, 1)
        assert env.reset(seed=seed)[0]["observation"] == [1.0]
        assert not env.step({"action": 0})[2]
        return inner.seeds

    assert tried(4) == [4]
    seeds = tried(5)
    assert len(seeds) > 1
    assert seeds[0] == 5
    assert len(set(seeds)) == len(seeds)
    assert tried(5) == seeds
    assert tried(6)[1:] != seeds[1:]


def test_events_of_an_episode_that_was_replaced_are_dropped():
    class Full(TwoStepEnv):
        def reset(self, *, seed=None, options=None):
            self.n_steps = 1 if seed == 5 else 9
            self.events.append(Placed(float(seed or 0)))
            return super().reset(seed=seed)

    env = RandomResetWrapper(Full(), 2, 2)
    env.reset(seed=5)
    assert len(env.events) == 1
    assert env.events != [Placed(5.0)]


def test_it_gives_up_where_every_episode_ends():
    inner = EndsEarlyEnv()
    inner.reset = lambda **options: CountingEnv.reset(inner)  # type: ignore[method-assign]
    inner.n_steps = 3
    env = RandomResetWrapper(GymMazeEnv(inner), 3, 9)
    with pytest.raises(ContractError, match=rf"each of {MAX_TRIES} episodes .*smaller"):
        env.reset(seed=1)


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (-1, 2, "'min_skip_steps' .* at least 0, got -1"),
        (0, 2.0, "'max_skip_steps' .* got 2.0"),
        (True, 2, "got True"),
        (3, 2, "is 3, more than 'max_skip_steps', which is 2"),
    ],
)
def test_odd_numbers_of_steps_are_refused(low, high, answer):
    with pytest.raises(ConfigError, match=answer):
        counting(low, high)


# Steps played for trial.


def plain(steps: list[SampledStep]) -> list[Any]:
    return [copy.deepcopy(tuple(step)) for step in steps]


@pytest.mark.parametrize("make", [TwoStepEnv, market_env, tank_env, lambda: GymMazeEnv(WalkEnv())])
def test_trial_steps_depend_on_their_seed_alone(make):
    env = make()
    one = plain(list(sample_steps(env, 7)))
    play(env, seed=5)
    assert same(plain(list(sample_steps(env, 7))), one)
    assert same(plain(list(sample_steps(make(), 7))), one)
    assert not same(plain(list(sample_steps(make(), 7, seed=1))), one)


def test_trial_steps_are_structured_ones_of_episode_after_episode():
    steps = list(sample_steps(TwoStepEnv(n_steps=3), 4))
    assert [step.action is None for step in steps] == [True, *[False] * 6, True, *[False] * 2]
    played = [step for step in steps if step.action is not None]
    assert [step.actor.step_key for step in played[:5]] == ["place", "select"] * 2 + ["place"]
    assert [step.completes_step for step in played] == [False, True] * 4
    assert [step.episode_index for step in played] == [0] * 6 + [1] * 2
    assert [step.is_last for step in played] == [False] * 5 + [True] + [False] * 2


def test_nobody_hears_of_trial_steps():
    env = tank_env()
    list(sample_steps(env, 5))
    assert env.events == []
    steps = sample_steps(env, 5)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert env.events == []
    expected = play(tank_env())
    list(sample_steps(env, 5))
    assert same(play(env), expected)


def test_trial_steps_take_a_policy_and_keep_to_masks_without_one():
    class Lazy(StructuredPolicy):
        def act(self, observation, actor, memory, deterministic):
            return {"sell": 0}

    env = tank_env()
    actions = [step.action for step in sample_steps(env, 9, Lazy())]
    assert {action["sell"] for action in actions if action is not None} == {0}
    allowed: Any = None
    for step in sample_steps(env, 50):
        assert step.action is None or allowed[step.action["sell"]] == 1
        allowed = step.observation["allowed"].copy()


def test_trial_steps_open_no_window():
    env = tank_env(render_mode="human")

    def refuse() -> None:
        raise AssertionError("a window was opened")

    env.render = refuse  # type: ignore[method-assign]
    assert len(list(sample_steps(env, 3))) == 4


# Return normalisation.


def test_the_variance_is_that_of_the_discounted_sums():
    # Rewards 1, 2, 3 in each episode: sums 1, 2 + 1/2, 3 + 5/4.
    env = GymMazeEnv(CountingEnv(n_steps=3))
    sums = [1.0, 2.5, 4.25]
    assert estimate_return_variance(env, 0.5, 6) == pytest.approx(np.var(sums * 2))
    # After a truncation too.
    limited = TimeLimitWrapper(GymMazeEnv(CountingEnv()), 3)
    assert estimate_return_variance(limited, 0.5, 6) == pytest.approx(np.var(sums * 2))


def test_sub_steps_share_one_discount():
    rewards = [step.reward for step in sample_steps(TwoStepEnv(3), 3) if step.completes_step]
    sums = [rewards[0], rewards[1] + 0.5 * rewards[0]]
    sums.append(rewards[2] + 0.5 * sums[1])
    assert estimate_return_variance(TwoStepEnv(3), 0.5, 3) == pytest.approx(np.var(sums))


def test_rewards_are_divided_by_the_spread_of_the_returns():
    env = ReturnNormalizationRewardWrapper(
        GymMazeEnv(CountingEnv(3)), gamma=0.5, epsilon=0.0, n_samples=3
    )
    expected = np.arange(1, 4) / np.std([1.0, 2.5, 4.25])
    assert [step.reward for step in play(env)] == pytest.approx(expected)


@given(st.floats(-1e3, 1e3), st.floats(0.0, 1e6), st.floats(1e-8, 10.0))
def test_a_given_variance_is_used_as_it_is(reward, variance, epsilon):
    env = ReturnNormalizationRewardWrapper(
        GymMazeEnv(CountingEnv()), epsilon=epsilon, return_variance=variance
    )
    assert env.reward(reward) == pytest.approx(reward / np.sqrt(variance + epsilon))


def test_shares_of_the_reward_are_normalised_too():
    env = ReturnNormalizationRewardWrapper(market_env(), epsilon=0.0, return_variance=4.0)
    env.reset(seed=0)
    rewards = [env.step({"price": price})[1] for price in (0, 3, 0, 1, 2)]
    assert rewards == [0.0, 1.5, 0.0, 0.0, 1.5]
    assert env.actor_rewards() == [0.0, 0.5, 1.0]


def test_episodes_do_not_depend_on_those_before_them():
    wrappers = {
        "maze.core.wrappers.return_normalization_reward_wrapper.ReturnNormalizationRewardWrapper": {
            "n_samples": 50
        }
    }
    results = [
        maze.rollout(lambda: GymMazeEnv(WalkEnv()), wrappers=wrappers, n_episodes=n, seed=3)
        for n in (2, 5)
    ]
    returns = [list(result.episodes["return"]) for result in results]
    assert returns[0] == returns[1][:2]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"gamma": 1.5}, r"'gamma' .* in \[0, 1\], got 1.5"),
        ({"epsilon": -1.0}, "'epsilon' .* at least 0"),
        ({"return_variance": -1.0}, "'return_variance' .* at least 0"),
        ({"return_variance": float("nan")}, "finite"),
        ({"return_variance": 0.0, "epsilon": 0.0}, "both 0"),
        ({"n_samples": 0}, "'n_samples' .* at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, answer):
    with pytest.raises(ConfigError, match=answer):
        ReturnNormalizationRewardWrapper(GymMazeEnv(CountingEnv()), **arguments)


def test_returns_without_a_spread_are_refused():
    env = GymMazeEnv(EchoEnv(spaces.Discrete(2), spaces.Discrete(2)))  # all rewards are 0
    with pytest.raises(ConfigError, match=r"variance 0\.0.*Give 'return_variance'"):
        ReturnNormalizationRewardWrapper(env, n_samples=5)


def test_the_default_policy_is_masked_where_masks_are_declared():
    assert type(random_policy(tank_env())).__name__ == "MaskedRandomPolicy"
    assert type(random_policy(TwoStepEnv())).__name__ == "RandomPolicy"
