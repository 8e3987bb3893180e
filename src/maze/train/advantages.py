"""Advantages and value targets of chains of decisions.

Here, away from networks, since this is where an off-by-one hides best: at the ends of episodes, at
time limits, at the seams of segments and between sub-steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maze.train.collect import CUT, GOES_ON, TERMINATED


class Advantages(NamedTuple):
    """Of the decisions of a segment."""

    advantage: NDArray[np.float32]
    """Shape (n,); 0 for decisions that are cut."""
    value_target: NDArray[np.float32]
    """Shape (n,): advantage plus value."""


def generalized_advantages(
    rewards: NDArray[np.float64],
    values: NDArray[np.float32],
    times: NDArray[np.int64],
    follows: NDArray[np.int64],
    discount: float,
    gae_lambda: float,
) -> Advantages:
    """Estimate how much better each decision was than the value of its state.

    delta[i] = reward[i] + g[i] * value[i + 1] - value[i]
    advantage[i] = delta[i] + g[i] * l[i] * advantage[i + 1]

    along a chain, where g[i] = discount ** (time[i + 1] - time[i]) and likewise l[i] of lambda:
    sub-steps of the same structured step are neither discounted nor forgotten. After a decision
    that terminates its episode both terms with i + 1 are 0. A decision that is cut, by a time limit
    or by the end of the segment, has no advantage; its value stands for all that would have come.

    Args:
        rewards: shape (n,), what followed each decision, chain after chain.
        values: shape (n,), of the state before it.
        times: shape (n,), structured steps from the start of the episode.
        follows: shape (n,), ``GOES_ON``, ``TERMINATED`` or ``CUT``.
        discount: per structured step, in [0, 1].
        gae_lambda: in [0, 1]; 1 for Monte Carlo returns, 0 for one step.

    Source: Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
    Estimation (2016), eq. 16; Pardo et al., Time Limits in Reinforcement Learning (2018).
    """
    n = len(rewards)
    advantages = [0.0] * n
    reward_list: Sequence[float] = rewards.tolist()
    value_list: Sequence[float] = values.tolist()
    time_list: Sequence[int] = times.tolist()
    following = 0.0
    # Backwards, since each needs the one after it.
    for i, what in zip(range(n - 1, -1, -1), reversed(follows.tolist()), strict=True):
        if what == GOES_ON:
            elapsed = time_list[i + 1] - time_list[i]
            if elapsed == 1:
                g, k = discount, gae_lambda
            else:
                g, k = discount**elapsed, gae_lambda**elapsed
            delta = reward_list[i] + g * value_list[i + 1] - value_list[i]
            following = delta + g * k * following
        elif what == TERMINATED:
            following = reward_list[i] - value_list[i]
        else:
            assert what == CUT
            following = 0.0
        advantages[i] = following
    advantage = np.array(advantages, np.float32)
    return Advantages(advantage, advantage + values)


def explained_variance(predicted: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Return how much of the variance of targets a critic explains: 1 is all, 0 none of it."""
    variance = float(np.var(actual))
    return float("nan") if variance == 0 else 1 - float(np.var(actual - predicted)) / variance
