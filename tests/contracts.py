"""What every environment, wrapper and policy has to keep.

A test class inherits the contract and says how to make the thing:

    class TestCutting(EnvContract):
        def make_env(self):
            return CuttingEnv()
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from maze.core.agent.policy import StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import (
    UNKNOWN_COUNT,
    Action,
    ActorID,
    Observation,
    StructuredEnv,
)
from maze.core.wrappers.wrapper import Wrapper
from tests.envs import TwoStepEnv

MAX_STEPS = 30
"""Sub-steps after which a contract stops to play an episode."""


class Played(NamedTuple):
    """One sub-step."""

    actor: ActorID
    observation: Observation
    action: Action
    reward: float
    is_last: bool
    next_observation: Observation
    env_time: int
    events: tuple[Any, ...]


def play(env: StructuredEnv, policy: StructuredPolicy | None = None, seed: int = 0) -> list[Played]:
    """Play one episode, of ``MAX_STEPS`` sub-steps at most; by default with random actions."""
    policy = policy or RandomPolicy(env.action_spaces)
    memory = policy.start_episode(seed + 1)
    observation, _ = env.reset(seed=seed)
    env.events.clear()
    played: list[Played] = []
    is_last = False
    while not is_last and len(played) < MAX_STEPS:
        actor = env.actor_id()
        action = policy.act(observation, actor, memory, False)
        following, reward, terminated, truncated, _ = env.step(action)
        is_last = bool(terminated or truncated)
        env_time = 0 if env.is_flat else env.env_time()
        played.append(
            Played(
                actor,
                copy.deepcopy(observation),
                copy.deepcopy(action),
                float(reward),
                is_last,
                copy.deepcopy(following),
                env_time,
                tuple(env.events),
            )
        )
        env.events.clear()
        observation = following
    return played


def same(one: Any, other: Any) -> bool:
    """Return whether two values of spaces are equal, types and dtypes included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other, equal_nan=True))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class EnvContract:
    def make_env(self) -> StructuredEnv:
        raise NotImplementedError

    def test_reset_is_reproducible_by_seed(self):
        env = self.make_env()
        first, _ = env.reset(seed=7)
        first = copy.deepcopy(first)
        env.reset(seed=8)
        assert same(env.reset(seed=7)[0], first)
        assert same(self.make_env().reset(seed=7)[0], first)

    def test_an_episode_is_reproducible_by_its_seeds(self):
        env = self.make_env()
        first = play(env, seed=3)
        play(env, seed=4)
        assert same(play(env, seed=3), first)

    def test_it_can_be_reset_in_the_middle_of_an_episode(self):
        env = self.make_env()
        undisturbed = play(env, seed=3)
        env.reset(seed=9)
        env.step(undisturbed[0].action)
        assert same(play(env, seed=3), undisturbed)

    def test_each_step_key_has_two_dictionary_spaces_and_a_number_of_agents(self):
        env = self.make_env()
        assert set(env.observation_spaces) == set(env.action_spaces) == set(env.agent_counts)
        for space in (*env.observation_spaces.values(), *env.action_spaces.values()):
            assert isinstance(space, spaces.Dict)
        assert all(count == UNKNOWN_COUNT or count >= 1 for count in env.agent_counts.values())

    def test_observations_are_in_the_space_of_the_actor_that_comes_next(self):
        env = self.make_env()
        observation, info = env.reset(seed=5)
        assert isinstance(info, dict)
        assert env.observation_space.contains(observation)
        policy = RandomPolicy(env.action_spaces)
        memory = policy.start_episode(5)
        for _ in range(MAX_STEPS):
            actor = env.actor_id()
            assert env.observation_space is env.observation_spaces[actor.step_key]
            action = policy.act(observation, actor, memory, False)
            observation, _, terminated, truncated, info = env.step(action)
            assert isinstance(info, dict)
            assert env.observation_space.contains(observation)
            if terminated or truncated:
                break

    def test_rewards_are_finite_numbers(self):
        assert all(np.isfinite(step.reward) for step in play(self.make_env(), seed=2))

    def test_a_flat_environment_has_one_actor(self):
        env = self.make_env()
        actors = {step.actor for step in play(env)}
        if env.is_flat:
            assert actors == {ActorID(next(iter(env.agent_counts)), 0)}

    def test_env_time_starts_at_zero_and_never_goes_back(self):
        env = self.make_env()
        if env.is_flat:
            return
        env.reset(seed=1)
        assert env.env_time() == 0
        times = [0, *(step.env_time for step in play(env))]
        assert times == sorted(times)

    def test_the_list_of_events_stays_the_same_object(self):
        env = self.make_env()
        events = env.events
        play(env)
        env.reset(seed=2)
        assert env.events is events

    def test_it_comes_out_of_a_pickle_as_it_went_in(self):
        env = self.make_env()
        expected = play(env, seed=6)
        assert same(play(pickle.loads(pickle.dumps(env)), seed=6), expected)

    def test_a_copy_goes_its_own_way(self):
        env = self.make_env()
        expected = play(env, seed=6)
        copied = copy.deepcopy(env)
        assert same(play(copied, seed=6), expected)
        assert copied.events is not env.events

    def test_it_can_be_closed_twice(self):
        env = self.make_env()
        env.reset(seed=1)
        env.close()
        env.close()


class WrapperContract(EnvContract):
    """A wrapper is an environment; ``make_env`` is made of the two methods below."""

    def make_inner(self) -> StructuredEnv:
        return TwoStepEnv()

    def wrap(self, env: StructuredEnv) -> Wrapper:
        raise NotImplementedError

    def make_env(self) -> StructuredEnv:
        return self.wrap(self.make_inner())

    def test_it_has_the_environment_that_it_wraps(self):
        inner = self.make_inner()
        wrapper = self.wrap(inner)
        assert wrapper.env is inner
        assert wrapper.unwrapped is inner.unwrapped

    def test_it_shares_the_list_of_events(self):
        inner = self.make_inner()
        assert self.wrap(inner).events is inner.events
        restored = pickle.loads(pickle.dumps(self.wrap(inner)))
        assert restored.events is restored.env.events

    def test_it_has_the_actors_of_the_environment_inside(self):
        inner = self.make_inner()
        wrapper = self.wrap(inner)
        assert wrapper.agent_counts == inner.agent_counts
        wrapper.reset(seed=1)
        assert wrapper.actor_id() == inner.actor_id()

    def test_closing_it_closes_the_environment_inside(self):
        inner = self.make_inner()
        closed = []
        inner.close = lambda: closed.append(True)  # type: ignore[method-assign]
        self.wrap(inner).close()
        assert closed == [True]


class PolicyContract:
    def make_env(self) -> StructuredEnv:
        return TwoStepEnv()

    def make_policy(self, env: StructuredEnv) -> StructuredPolicy:
        raise NotImplementedError

    def test_actions_are_in_the_space_of_the_actor(self):
        env = self.make_env()
        for step in play(env, self.make_policy(env)):
            assert env.action_spaces[step.actor.step_key].contains(step.action)

    def test_the_same_seed_plays_the_same_actions(self):
        env = self.make_env()
        policy = self.make_policy(env)
        first = play(env, policy, seed=3)
        play(env, policy, seed=4)
        assert same(play(env, policy, seed=3), first)
        assert same(play(env, self.make_policy(env), seed=3), first)

    def test_episodes_that_are_played_at_once_do_not_disturb_each_other(self):
        env = self.make_env()
        policy = self.make_policy(env)
        alone = [play(env, policy, seed=seed) for seed in (3, 4)]
        memories = [policy.start_episode(seed + 1) for seed in (3, 4)]
        for steps in zip(*alone, strict=False):
            for step, memory in zip(steps, memories, strict=True):
                action = policy.act(step.observation, step.actor, memory, False)
                assert same(action, step.action)

    def test_a_batch_gets_the_actions_that_its_members_would(self):
        env = self.make_env()
        policy = self.make_policy(env)
        alone = [play(env, policy, seed=seed) for seed in (3, 4, 5)]
        memories = [policy.start_episode(seed + 1) for seed in (3, 4, 5)]
        for steps in zip(*alone, strict=False):
            actions = policy.act_batch(
                [step.observation for step in steps],
                [step.actor for step in steps],
                memories,
                False,
            )
            assert same(list(actions), [step.action for step in steps])

    def test_it_gives_a_new_action_each_time(self):
        env = self.make_env()
        policy = self.make_policy(env)
        observation, _ = env.reset(seed=1)
        memory = policy.start_episode(1)
        actor = env.actor_id()
        first = policy.act(observation, actor, memory, True)
        assert policy.act(observation, actor, memory, True) is not first

    def test_it_leaves_the_observation_as_it_is(self):
        env = self.make_env()
        policy = self.make_policy(env)
        observation, _ = env.reset(seed=1)
        before = copy.deepcopy(observation)
        policy.act(observation, env.actor_id(), policy.start_episode(1), False)
        assert same(observation, before)

    def test_it_comes_out_of_a_pickle_as_it_went_in(self):
        env = self.make_env()
        policy = self.make_policy(env)
        expected = play(env, policy, seed=6)
        assert same(play(env, pickle.loads(pickle.dumps(policy)), seed=6), expected)
