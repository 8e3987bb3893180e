"""The cutting environments, as configs name them.

    cutting_2d_flat                 piece and cut are chosen at once
    cutting_2d_structured           first the piece (step key 0), then the cut (step key 1)
    cutting_2d_structured_masked    the same, and observations say which choices are valid

All take the same arguments; those of the first one are described there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maze.core.env.maze_env import MazeEnv
from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError
from maze.core.factory import Factory
from maze.core.wrappers.time_limit_wrapper import TimeLimitWrapper
from maze_envs.logistics.cutting_2d.conversions import (
    CutConversion,
    CutObservation,
    InventoryObservation,
    SelectAndCutConversion,
    SelectConversion,
)
from maze_envs.logistics.cutting_2d.core_env import (
    CUT,
    SELECT,
    Cutting2DCoreEnv,
    SelectThenCutCoreEnv,
)
from maze_envs.logistics.cutting_2d.demand import DemandGenerator, StaticDemand
from maze_envs.logistics.cutting_2d.pieces import to_piece
from maze_envs.logistics.cutting_2d.renderer import Cutting2DRenderer
from maze_envs.logistics.cutting_2d.reward import Cutting2DReward
from maze_envs.logistics.cutting_2d.state import Cutting2DState

RewardSource = RewardAggregator[Cutting2DState] | Mapping[str, Any] | None
DemandSource = DemandGenerator | Mapping[str, Any] | None


def cutting_2d_flat(
    max_pieces_in_inventory: int,
    raw_piece_size: Sequence[int],
    static_demand: Sequence[Sequence[int]] | None = None,
    demand: DemandSource = None,
    max_episode_steps: int = 180,
    reward: RewardSource = None,
    render_mode: str | None = None,
) -> StructuredEnv:
    """Make the environment in which a step chooses the piece and the cut.

    Args:
        max_pieces_in_inventory: how many pieces the inventory takes.
        raw_piece_size: size (x, y) of the pieces that come from outside, in whole units.
        static_demand: sizes of the orders, which come in turn, again and again.
        demand: generates the orders instead, an object or a config. The config of one that takes
            a ``raw_piece_size`` gets it.
        max_episode_steps: orders after which an episode is truncated. 0: never.
        reward: an object or a config. ``None``: -1 for a raw piece, -2 for an invalid choice.
        render_mode: ``human``, ``rgb_array``, or ``None`` for no rendering.

    Raises:
        ConfigError: If an argument makes no sense, or if there is not exactly one of
            ``static_demand`` and ``demand``.
    """
    core_env = _rules(max_pieces_in_inventory, raw_piece_size, static_demand, demand)
    env = MazeEnv(
        core_env,
        InventoryObservation(core_env.raw_piece_size, core_env.max_pieces_in_inventory),
        SelectAndCutConversion(core_env.max_pieces_in_inventory),
        _reward(reward),
        Cutting2DRenderer(),
        render_mode,
    )
    return _limited(env, max_episode_steps)


def cutting_2d_structured(
    max_pieces_in_inventory: int,
    raw_piece_size: Sequence[int],
    static_demand: Sequence[Sequence[int]] | None = None,
    demand: DemandSource = None,
    max_episode_steps: int = 180,
    reward: RewardSource = None,
    render_mode: str | None = None,
) -> StructuredEnv:
    """Make the environment in which a piece is selected first, and then cut.

    Arguments and errors are those of ``cutting_2d_flat``.
    """
    core_env = _rules(max_pieces_in_inventory, raw_piece_size, static_demand, demand)
    return _limited(_structured(core_env, reward, render_mode, False), max_episode_steps)


def cutting_2d_structured_masked(
    max_pieces_in_inventory: int,
    raw_piece_size: Sequence[int],
    static_demand: Sequence[Sequence[int]] | None = None,
    demand: DemandSource = None,
    max_episode_steps: int = 180,
    reward: RewardSource = None,
    render_mode: str | None = None,
) -> StructuredEnv:
    """Make the environment with a selection and a cut whose valid choices are observed.

    Arguments and errors are those of ``cutting_2d_flat``.
    """
    core_env = _rules(max_pieces_in_inventory, raw_piece_size, static_demand, demand)
    return _limited(_structured(core_env, reward, render_mode, True), max_episode_steps)


def _rules(
    max_pieces_in_inventory: int,
    raw_piece_size: Sequence[int],
    static_demand: Sequence[Sequence[int]] | None,
    demand: DemandSource,
) -> Cutting2DCoreEnv:
    if (static_demand is None) == (demand is None):
        raise ConfigError(
            "the cutting environment takes its orders either from 'static_demand', a list of"
            " sizes, or from 'demand', a generator: give exactly one of them, and null for the"
            f" other. Got static_demand={static_demand!r}, demand={demand!r}."
        )
    raw = to_piece(raw_piece_size, "raw_piece_size")
    generator: DemandGenerator = (
        Factory(DemandGenerator, "env.demand").build(demand, raw_piece_size=raw)
        if static_demand is None
        else StaticDemand(static_demand)
    )
    return Cutting2DCoreEnv(raw, max_pieces_in_inventory, generator)


def _structured(
    core_env: Cutting2DCoreEnv, reward: RewardSource, render_mode: str | None, with_masks: bool
) -> StructuredEnv:
    raw, slots = core_env.raw_piece_size, core_env.max_pieces_in_inventory
    return MazeEnv(
        SelectThenCutCoreEnv(core_env),
        {
            SELECT: InventoryObservation(raw, slots, with_masks),
            CUT: CutObservation(raw, with_masks),
        },
        {SELECT: SelectConversion(slots), CUT: CutConversion()},
        _reward(reward),
        Cutting2DRenderer(),
        render_mode,
    )


def _reward(reward: RewardSource) -> RewardAggregator[Cutting2DState] | Mapping[str, Any]:
    return Cutting2DReward() if reward is None else reward


def _limited(env: StructuredEnv, max_episode_steps: int) -> StructuredEnv:
    return env if max_episode_steps == 0 else TimeLimitWrapper(env, max_episode_steps)
