"""The plan of episodes is a function of the base seeds."""

import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maze.core.episode import EpisodeSpec
from maze.core.errors import ConfigError
from maze.core.seeding import Seeding, seed_range

base_seeds = st.integers(min_value=0, max_value=2**70)
seed_lists = st.lists(st.integers(min_value=0, max_value=2**32 - 1), min_size=1, max_size=30)


@given(base_seeds, base_seeds, st.integers(0, 50), st.integers(0, 200))
def test_a_shorter_plan_is_the_beginning_of_a_longer_one(env_seed, agent_seed, n_short, n_more):
    seeding = Seeding(env_seed, agent_seed)
    assert list(seeding.plan(n_short)) == seeding.plan(n_short + n_more)[:n_short]


@given(base_seeds, seed_lists, st.integers(0, 30))
def test_a_shorter_plan_of_shuffled_explicit_seeds_is_the_beginning_of_a_longer_one(
    base_seed, seeds, n_short
):
    seeding = Seeding(base_seed, 0, explicit_env_seeds=seeds, shuffle_seeds=True)
    plan = seeding.plan(len(seeds))
    assert sorted(spec.env_seed for spec in plan) == sorted(seeds)
    assert list(seeding.plan(min(n_short, len(seeds)))) == plan[: min(n_short, len(seeds))]


@given(base_seeds)
def test_derived_seeds_are_integers_that_every_environment_accepts(base_seed):
    for index, spec in enumerate(Seeding(base_seed, base_seed).plan(20)):
        assert spec.index == index
        assert type(spec.env_seed) is int
        assert 0 <= spec.env_seed < 2**31
        assert 0 <= spec.agent_seed < 2**31


def test_the_plan_of_known_base_seeds_never_changes():
    # Stored runs are repeated from their base seeds: changing these numbers breaks that.
    assert list(Seeding(1, 2).plan(2)) == [
        EpisodeSpec(0, 1501165260, 1989260168),
        EpisodeSpec(1, 374382681, 470613700),
    ]


def test_env_and_policy_have_separate_streams():
    plan = Seeding(7, 7).plan(100)
    assert not {spec.env_seed for spec in plan} & {spec.agent_seed for spec in plan}


def test_another_agent_seed_leaves_the_environments_as_they_are():
    one, other = Seeding(1, 2).plan(10), Seeding(1, 3).plan(10)
    assert [spec.env_seed for spec in one] == [spec.env_seed for spec in other]
    assert [spec.agent_seed for spec in one] != [spec.agent_seed for spec in other]


def test_seeds_seldom_repeat():
    seeds = {spec.env_seed for spec in Seeding(1, 2).plan(10_000)}
    assert len(seeds) > 9_990  # about 0.02 pairs expected among 2**31


def test_base_seeds_that_are_not_given_are_drawn_and_kept():
    seeding = Seeding(agent_base_seed=5).resolved()
    assert seeding.env_base_seed is not None
    assert seeding.agent_base_seed == 5
    assert seeding.resolved() == seeding
    assert list(seeding.plan(5)) == list(Seeding(seeding.env_base_seed, 5).plan(5))
    assert Seeding().resolved() != Seeding().resolved()


def test_the_base_seed_of_an_explicit_list_does_not_count():
    assert Seeding(1, 2, explicit_env_seeds=[5]).seeds() == {
        "env_base_seed": None,
        "agent_base_seed": 2,
    }


def test_a_plan_needs_base_seeds():
    with pytest.raises(ValueError, match="resolved"):
        Seeding().plan(1)


def test_explicit_seeds_are_taken_in_their_order():
    plan = Seeding(1, 2, explicit_env_seeds=[30, 10, 20]).plan(2)
    assert [spec.env_seed for spec in plan] == [30, 10]
    assert [spec.agent_seed for spec in plan] == [spec.agent_seed for spec in Seeding(1, 2).plan(2)]
    assert plan.warning is None


def test_a_plan_is_as_short_as_an_explicit_list_and_says_so():
    plan = Seeding(1, 2, explicit_env_seeds=[1, 2, 3], explicit_agent_seeds=seed_range(2, 5)).plan(
        9
    )
    assert [(spec.env_seed, spec.agent_seed) for spec in plan] == [(1, 5), (2, 6)]
    assert plan.warning == (
        "9 episodes were asked for, but seeding.explicit_env_seeds has 3 seeds and"
        " seeding.explicit_agent_seeds has 2 seeds: 2 episodes are played."
    )


def test_numpy_arrays_of_seeds_are_accepted():
    array: Any = np.array([1, 2])
    assert Seeding(explicit_env_seeds=array) == Seeding(explicit_env_seeds=[1, 2])


def test_shuffling_depends_on_the_base_seed():
    lists = [
        [spec.env_seed for spec in Seeding(base, 0, range(20), shuffle_seeds=True).plan(20)]
        for base in (1, 1, 2)
    ]
    assert lists[0] == lists[1] != lists[2]
    assert lists[0] != list(range(20))


def test_a_plan_is_indexed_like_a_list():
    plan = Seeding(1, 2).plan(5)
    specs = list(plan)
    assert plan[-1] == specs[-1]
    assert plan[1:4:2] == specs[1:4:2]
    assert list(pickle.loads(pickle.dumps(plan))) == specs
    with pytest.raises(IndexError):
        plan[5]


def test_a_million_episodes_are_planned_at_once():
    begin = time.perf_counter()
    plan = Seeding(1, 2).plan(1_000_000)
    assert plan[999_999].index == 999_999
    assert time.perf_counter() - begin < 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_base_seed": -1}, "'seeding.env_base_seed' has to be at least 0, got -1"),
        ({"agent_base_seed": "x"}, "'seeding.agent_base_seed' has to be an integer, got 'x'"),
        ({"env_base_seed": 1.5}, "has to be an integer, got 1.5"),
        ({"env_base_seed": True}, "has to be an integer, got True"),
        (
            {"explicit_env_seeds": 5},
            "'seeding.explicit_env_seeds' has to be a list of seeds, got 5",
        ),
        ({"explicit_env_seeds": "123"}, "has to be a list of seeds, got '123'"),
        (
            {"explicit_agent_seeds": [1, None]},
            r"explicit_agent_seeds\[1\]' has to be an integer",
        ),
        ({"explicit_agent_seeds": [2**32]}, "below 4294967296"),
        ({"explicit_env_seeds": []}, "is an empty list"),
        ({"shuffle_seeds": "yes"}, "'seeding.shuffle_seeds' has to be true or false"),
    ],
)
def test_what_is_no_seed_is_explained(options, message):
    with pytest.raises(ConfigError, match=message):
        Seeding(**options)
