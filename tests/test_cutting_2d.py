"""Cutting rectangles from stock: the rules, what is seen of them, and the policies for them."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import maze
from maze.core.agent.flat_policies import FlatPolicies
from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, ContractError
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.rollout_runner import RolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze_envs.logistics.cutting_2d.core_env import CUT, SELECT, Cutting2DCoreEnv
from maze_envs.logistics.cutting_2d.demand import (
    MixedPeriodicDemand,
    RandomMixedDemand,
    StaticDemand,
)
from maze_envs.logistics.cutting_2d.env import (
    cutting_2d_flat,
    cutting_2d_structured,
    cutting_2d_structured_masked,
)
from maze_envs.logistics.cutting_2d.events import (
    InvalidCut,
    InvalidPieceSelected,
    PieceDiscarded,
    PieceReplenished,
    PiecesInInventory,
    ValidCut,
)
from maze_envs.logistics.cutting_2d.greedy_policy import GreedyPolicy
from maze_envs.logistics.cutting_2d.lookahead_policy import LookaheadPolicy
from maze_envs.logistics.cutting_2d.pieces import fits, fits_somehow, leftovers, rotated
from maze_envs.logistics.cutting_2d.state import CutAction
from tests.commands import REPOSITORY
from tests.contracts import EnvContract, PolicyContract, play

TUTORIAL: dict[str, Any] = {
    "max_pieces_in_inventory": 50,
    "raw_piece_size": [4, 3],
    "static_demand": [[1, 2], [1, 2], [1, 1], [2, 2], [1, 2], [1, 1]],
}
BY_CHANCE: dict[str, Any] = {
    "max_pieces_in_inventory": 30,
    "raw_piece_size": [20, 15],
    "demand": RandomMixedDemand([[3, 2], [5, 5], [7, 4], [1, 6]], rotate=True),
}
VARIANTS = [cutting_2d_flat, cutting_2d_structured, cutting_2d_structured_masked]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)


def rules(*orders: tuple[int, int], slots: int = 50) -> Cutting2DCoreEnv:
    core_env = Cutting2DCoreEnv([4, 3], slots, StaticDemand(orders or [(1, 2)]))
    core_env.reset(np.random.default_rng(0))
    return core_env


def cut(core_env: Cutting2DCoreEnv, *action: Any) -> list[Any]:
    """Cut, and return what happened."""
    core_env.events.clear()
    core_env.step(CutAction(*action))
    return list(core_env.events)


def greedy(env: StructuredEnv) -> FlatPolicies:
    return FlatPolicies({key: GreedyPolicy(space) for key, space in env.action_spaces.items()})


def run(env: Any, policy: Any, n_episodes: int = 1, **options: Any) -> Any:
    runner = SequentialRolloutRunner(
        n_episodes=n_episodes, max_episode_steps=0, record_trajectory=False, **options
    )
    return runner.run_with(env, policy, seeding=Seeding(1, 2))


# Contracts.


class TestFlat(EnvContract):
    def make_env(self):
        return cutting_2d_flat(**TUTORIAL)


class TestStructured(EnvContract):
    def make_env(self):
        return cutting_2d_structured(**BY_CHANCE)


class TestStructuredMasked(EnvContract):
    def make_env(self):
        return cutting_2d_structured_masked(**BY_CHANCE)


class TestGreedyPolicy(PolicyContract):
    def make_env(self):
        return cutting_2d_flat(**BY_CHANCE, max_episode_steps=12)

    def make_policy(self, env):
        return greedy(env)


class TestLookaheadPolicy(PolicyContract):
    def make_env(self):
        return cutting_2d_structured(**BY_CHANCE, max_episode_steps=12)

    def make_policy(self, env):
        return LookaheadPolicy(env.action_spaces)


# Rules.


def test_the_order_of_the_cuts_decides_what_is_left():
    assert leftovers((4, 3), (1, 2), False) == [(3, 3), (1, 1)]
    assert leftovers((4, 3), (1, 2), True) == [(4, 1), (3, 2)]
    assert leftovers((4, 3), (4, 2), False) == leftovers((4, 3), (4, 2), True) == [(4, 1)]
    assert leftovers((4, 3), (4, 3), False) == []


SIDES = st.integers(1, 30)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans())
def test_cutting_neither_makes_nor_loses_area(piece, demand, is_reversed):
    if not fits(piece, demand):
        return
    left = leftovers(piece, demand, is_reversed)
    areas = [x * y for x, y in (demand, *left)]
    assert sum(areas) == piece[0] * piece[1]
    assert all(area > 0 for area in areas)


def test_a_raw_piece_that_is_cut_is_replaced_after_the_leftovers():
    core_env = rules()
    assert core_env.events == [PieceReplenished()]
    assert cut(core_env, 0, False, False) == [
        ValidCut(4, 3, 1, 2, False, False),
        PieceReplenished(),
        PiecesInInventory(3),
    ]
    assert core_env.state.inventory == ((3, 3), (1, 1), (4, 3))
    assert core_env.state.n_raw_pieces == 2


def test_a_piece_that_is_not_raw_is_not_replaced():
    core_env = rules()
    cut(core_env, 0, False, False)
    assert cut(core_env, 0, True, True) == [
        ValidCut(3, 3, 1, 2, True, True),
        PiecesInInventory(4),
    ]
    assert core_env.state.inventory == ((1, 1), (4, 3), (3, 2), (1, 1))


def test_what_cannot_be_done_changes_nothing_but_the_order():
    core_env = rules((1, 2), (1, 1))
    before = core_env.state
    assert cut(core_env, 1, False, False) == [InvalidPieceSelected(1), PiecesInInventory(1)]
    assert core_env.state.inventory == before.inventory
    assert core_env.state.current_demand == (1, 1)
    assert core_env.state.n_steps == 1
    upright = rules((3, 4))
    assert cut(upright, 0, False, False) == [
        InvalidCut(4, 3, 3, 4, False),
        PiecesInInventory(1),
    ]
    assert cut(upright, 0, True, False)[0] == ValidCut(4, 3, 3, 4, True, False)


def test_the_oldest_piece_is_discarded_when_the_inventory_is_full():
    core_env = rules(slots=3)
    cut(core_env, 0, False, False)
    assert core_env.state.inventory == ((3, 3), (1, 1), (4, 3))
    happened = cut(core_env, 2, False, False)
    assert happened[1:] == [
        PieceDiscarded(3, 3),
        PieceDiscarded(1, 1),
        PieceReplenished(),
        PiecesInInventory(3),
    ]
    assert core_env.state.inventory == ((3, 3), (1, 1), (4, 3))


def test_the_raw_piece_is_replaced_when_it_is_the_oldest_one():
    core_env = rules((1, 2), (1, 1), (1, 1), slots=3)
    cut(core_env, 0, False, False)
    cut(core_env, 0, False, False)
    assert core_env.state.inventory == ((4, 3), (2, 3), (1, 2))
    assert cut(core_env, 1, False, False)[1:] == [
        PieceDiscarded(4, 3),
        PieceDiscarded(1, 2),
        PieceReplenished(),
        PiecesInInventory(3),
    ]
    assert core_env.state.inventory == ((1, 3), (1, 2), (4, 3))


def test_a_raw_piece_that_is_cut_pushes_out_its_own_leftovers():
    core_env = rules(slots=1)
    # The leftovers push each other out, and then the raw one pushes out the last of them.
    assert cut(core_env, 0, False, False)[-2:] == [PieceReplenished(), PiecesInInventory(1)]
    assert core_env.state.inventory == ((4, 3),)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), max_size=60))
def test_there_is_always_one_raw_piece_and_never_more_than_fit(actions):
    core_env = rules((1, 2), (2, 2), (1, 1), (3, 1), slots=4)
    for action in actions:
        cut(core_env, *action)
        state = core_env.state
        assert state.inventory.count((4, 3)) == 1
        assert 1 <= len(state.inventory) <= 4
        assert any(fits_somehow(piece, state.current_demand) for piece in state.inventory)


def test_rewards_are_minus_one_for_a_raw_piece_and_minus_two_for_what_cannot_be_done():
    env = cutting_2d_flat(**TUTORIAL)
    env.reset(seed=0)

    def reward(piece: int, rotation: int = 0) -> Any:
        return env.step({"piece_idx": piece, "cut_rotation": rotation, "cut_order": 0})[1]

    assert reward(0) == -2.0  # The raw piece of the reset, and the one in place of it.
    assert reward(0) == 0.0
    assert reward(40) == -2.0


def test_both_sub_steps_share_the_reward():
    env = cutting_2d_structured(**TUTORIAL)
    env.reset(seed=0)
    assert env.step({"piece_idx": 0})[1] == 0.0
    assert env.step({"cut_rotation": 0, "cut_order": 0})[1] == -2.0
    assert env.actor_rewards() == [-1.0, -1.0]


@pytest.mark.parametrize("make", VARIANTS)
def test_an_episode_of_the_tutorial_ends_after_180_orders(make):
    result = run(lambda: make(**TUTORIAL), greedy(make(**TUTORIAL)))
    (row,) = result.episodes
    assert (row.n_steps, row.ending, row.truncated_by) == (180, "truncated", "env")
    statistics = row.statistics
    assert statistics["ValidCut.count"] == 180
    raw_pieces = statistics["PieceReplenished.count"]
    assert row.episode_return == -raw_pieces
    assert statistics["kpi.raw_piece_usage_per_step"] == pytest.approx(raw_pieces / 180)


# Demand.


def demanded(generator: Any, n: int, seed: int = 0) -> list[Any]:
    generator.reset(np.random.default_rng(seed))
    return [generator.next_demand() for _ in range(n)]


def test_a_list_is_gone_through_again_and_again():
    generator = StaticDemand([[1, 2], [1, 1]])
    assert demanded(generator, 5) == [(1, 2), (1, 1), (1, 2), (1, 1), (1, 2)]
    assert demanded(generator, 1) == [(1, 2)]


def test_orders_by_chance_depend_on_the_seed_alone():
    generator = RandomMixedDemand([[3, 2], [5, 5]], rotate=True)
    one = demanded(generator, 200)
    assert demanded(generator, 3, seed=1)
    assert demanded(generator, 200) == one
    assert set(one) == {(3, 2), (2, 3), (5, 5)}


def test_weights_say_how_often_a_size_comes():
    orders = demanded(RandomMixedDemand([[1, 1], [2, 2], [3, 3]], weights=[3, 1, 0]), 4000)
    assert orders.count((1, 1)) == pytest.approx(3000, abs=150)
    assert orders.count((3, 3)) == 0


@given(st.integers(0, 1000))
def test_periodic_demand_uses_up_raw_pieces_and_comes_again(seed):
    n_raw, n_orders = 2, 7
    generator = MixedPeriodicDemand([6, 5], n_raw, n_orders)
    orders = demanded(generator, 3 * n_orders, seed)
    assert orders[:n_orders] == orders[n_orders : 2 * n_orders] == orders[2 * n_orders :]
    assert sum(x * y for x, y in orders[:n_orders]) == n_raw * 30


# What is seen.


@pytest.mark.parametrize("seed", range(3))
def test_masks_allow_exactly_what_can_be_cut(seed):
    env = cutting_2d_structured_masked(**BY_CHANCE)
    policy = RandomPolicy(env.action_spaces)
    memory = policy.start_episode(seed)
    observation, _ = env.reset(seed=seed)
    for _ in range(200):
        state = cast(Any, env.unwrapped).core_env.state
        order = state.current_demand
        if env.actor_id().step_key == SELECT:
            n = len(state.inventory)
            assert observation["inventory_size"] == n
            assert observation["inventory"][:n].tolist() == [list(p) for p in state.inventory]
            assert not observation["inventory"][n:].any()
            expected = [float(fits_somehow(piece, order)) for piece in state.inventory]
            assert observation["inventory_mask"].tolist() == expected + [0.0] * (30 - n)
        else:
            piece = state.piece_selected or (0, 0)
            assert observation["cutting_mask"].tolist() == [
                fits(piece, order),
                fits(piece, rotated(order)),
            ]
        action = policy.act(observation, env.actor_id(), memory, False)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset(seed=seed + 100)


def test_within_the_masks_every_order_is_cut():
    env = cutting_2d_structured_masked(**BY_CHANCE)
    assert env.action_masks == {
        SELECT: {"piece_idx": "inventory_mask"},
        CUT: {"cut_rotation": "cutting_mask"},
    }
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    statistics = next(iter(run(env, policy).episodes)).statistics
    assert statistics["ValidCut.count"] == 180
    assert "InvalidCut.count" not in statistics or not statistics["InvalidCut.count"]


# Policies.


@pytest.mark.parametrize("make_policy", [greedy, lambda env: LookaheadPolicy(env.action_spaces)])
def test_policies_do_the_same_in_all_variants(make_policy):
    returns = [
        [row.episode_return for row in run(env, make_policy(env), n_episodes=2).episodes]
        for env in (make(**BY_CHANCE, max_episode_steps=60) for make in VARIANTS)
    ]
    assert returns[0] == returns[1] == returns[2]


BIG: dict[str, Any] = {"max_pieces_in_inventory": 100, "raw_piece_size": [100, 100]}


@pytest.mark.parametrize(
    "demand",
    [
        MixedPeriodicDemand([100, 100], 3, 12),
        RandomMixedDemand([[60, 45], [35, 35], [50, 20], [25, 70], [40, 40], [15, 55]]),
    ],
    ids=["periodic", "by chance"],
)
def test_looking_ahead_uses_fewer_raw_pieces_than_the_greedy_policy(demand):
    env = cutting_2d_flat(**BIG, demand=demand, max_episode_steps=100)
    ahead = run(env, LookaheadPolicy(env.action_spaces), n_episodes=4).mean_return
    assert ahead > run(env, greedy(env), n_episodes=4).mean_return + 0.5


def test_with_the_orders_of_the_tutorial_the_greedy_policy_does_its_best():
    # Six orders fill a raw piece: 30 of them for 180 orders, and the one that is left over.
    env = cutting_2d_flat(**TUTORIAL)
    assert run(env, greedy(env)).mean_return == -31.0
    # Until it has seen that they come again, the other one may cut up a piece for nothing.
    assert run(env, LookaheadPolicy(env.action_spaces)).mean_return >= -32.0


def test_the_greedy_policy_does_not_care_for_the_unit():
    env = cutting_2d_flat(**BY_CHANCE)
    policy = greedy(env)
    for step in play(env, policy):
        observation = {
            key: value / 7.0 if key != "inventory_size" else value
            for key, value in step.observation.items()
        }
        assert policy.act(observation, step.actor, policy.start_episode(0), True) == step.action


def test_policies_say_what_they_miss():
    policy = GreedyPolicy(cutting_2d_flat(**TUTORIAL).action_spaces[0])
    with pytest.raises(ContractError, match=r"no 'ordered_piece'.*It has: observation"):
        policy.act({"observation": np.zeros(2)}, None, True)


# Laws.


def run_recorded(directory: Any, runner: RolloutRunner) -> Any:
    env = {
        "_target_": "maze_envs.logistics.cutting_2d.env.cutting_2d_structured_masked",
        **TUTORIAL,
        "static_demand": None,
        "demand": {
            "_target_": "maze_envs.logistics.cutting_2d.demand.RandomMixedDemand",
            "sizes": [[1, 2], [2, 2], [1, 1]],
            "rotate": True,
        },
        "max_episode_steps": 25,
    }
    policy = {"_target_": "maze.core.agent.masked_random_policy.MaskedRandomPolicy"}
    return runner.run_with(env, policy, seeding=Seeding(5, 6), output_dir=directory)


def test_episodes_do_not_depend_on_processes_and_lanes_and_play_again(tmp_path):
    one = run_recorded(tmp_path / "one", SequentialRolloutRunner(n_episodes=6))
    lanes = run_recorded(tmp_path / "lanes", SequentialRolloutRunner(n_episodes=6, n_lanes=4))
    two = run_recorded(tmp_path / "two", ParallelRolloutRunner(n_processes=2, n_episodes=6))
    digests = [[row.digest for row in result.episodes] for result in (one, lanes, two)]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests[0])) == 6
    assert maze.verify(tmp_path / "two", replay="all").is_good


def test_a_policy_for_step_keys_that_are_numbers_plays_again(tmp_path):
    greedy_path = "maze_envs.logistics.cutting_2d.greedy_policy.GreedyPolicy"
    policy = {
        "_target_": "maze.core.agent.flat_policies.FlatPolicies",
        "policies": {0: {"_target_": greedy_path}, 1: {"_target_": greedy_path}},
    }
    env = {
        "_target_": "maze_envs.logistics.cutting_2d.env.cutting_2d_structured",
        **TUTORIAL,
        "max_episode_steps": 9,
    }
    SequentialRolloutRunner(n_episodes=2).run_with(
        env, policy, seeding=Seeding(1, 2), output_dir=tmp_path / "run"
    )
    assert maze.verify(tmp_path / "run", replay="all").is_good
    assert len(maze.resume(tmp_path / "run", n_episodes=3).episodes) == 3
    assert maze.verify(tmp_path / "run", replay="all").is_good


# Drawings.


@pytest.mark.parametrize("make", VARIANTS)
def test_each_state_can_be_drawn(make):
    pytest.importorskip("matplotlib")
    env = make(**TUTORIAL, render_mode="rgb_array")
    env.reset(seed=0)
    frames = [env.render()]
    policy = RandomPolicy(env.action_spaces)
    memory = policy.start_episode(3)
    for _ in range(6):
        env.step(policy.act({}, env.actor_id(), memory, False))
        frames.append(env.render())
    assert {frame.shape for frame in frames} == {(450, 800, 3)}
    assert not np.array_equal(frames[0], frames[-1])


# Bad input.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"static_demand": [[5, 5]]}, "an order of .5, 5. cannot be cut from raw pieces of .4, 3."),
        ({"static_demand": None}, "exactly one of them"),
        ({"static_demand": []}, "'static_demand'"),
        ({"raw_piece_size": [4]}, "'raw_piece_size' has to be a size of two whole numbers"),
        ({"max_pieces_in_inventory": 0}, "'max_pieces_in_inventory'.*got 0"),
        ({"demand": {"_target_": "builtins.dict"}}, "exactly one of them"),
    ],
)
def test_bad_arguments_are_told(changes, message):
    with pytest.raises(ConfigError, match=message):
        cutting_2d_flat(**{**TUTORIAL, **changes})


def test_the_config_files_are_there():
    names = {path.stem for path in (REPOSITORY / "src/maze/conf/env").glob("*cutting*")}
    variants = ("flat", "struct", "struct_masked")
    assert names == {f"{kind}_2d_{v}" for kind in ("cutting", "tutorial_cutting") for v in variants}
