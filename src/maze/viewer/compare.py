"""Two runs side by side: episodes that began alike, and where they went different ways.

Episodes with the same environment seed make a pair. What one start makes easier or harder for both
cancels in the difference of a pair, so that its mean is mostly known more exactly than each of the
two means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maze.core.rollout.run_directory import RunDirectory
from maze.core.statistics.summary import summarize
from maze.viewer.runs import finite_or_none


def compare_runs(one: RunDirectory, other: RunDirectory) -> dict[str, Any]:
    """Pair the episodes of two runs by environment seed, the n-th of a seed with the n-th.

    Failed episodes are paired, and left out of the differences.

    Returns:
        ``pairs``: positions in the two tables, in the order of the first; ``n_alone``: episodes
        without a partner in each; ``statistics``: for each that both have, the summary of
        ``other - one``, both means over the pairs, and in how many pairs it is higher, equal and
        lower.
    """
    tables = one.table, other.table
    places: list[list[int]] = [[], []]
    by_seed: dict[int, list[int]] = {}
    for position, seed in enumerate(np.asarray(tables[1]["env_seed"]).tolist()):
        by_seed.setdefault(seed, []).append(position)
    for seed_positions in by_seed.values():
        seed_positions.reverse()
    for position, seed in enumerate(np.asarray(tables[0]["env_seed"]).tolist()):
        if by_seed.get(seed):
            places[0].append(position)
            places[1].append(by_seed[seed].pop())
    rows = [np.array(of_run, dtype=np.int64) for of_run in places]
    is_played = np.ones(len(rows[0]), dtype=np.bool_)
    for table, positions in zip(tables, rows, strict=True):
        endings = np.array(list(table["ending"]), dtype=object)
        is_played &= endings[positions] != "failed"
    names = ["return", "n_steps"]
    names += [name for name in tables[0].statistic_names if name in tables[1].statistic_names]
    statistics = []
    for name in names:
        a, b = (
            np.asarray(table[name], dtype=np.float64)[positions][is_played]
            for table, positions in zip(tables, rows, strict=True)
        )
        is_there = ~(np.isnan(a) | np.isnan(b))
        a, b = a[is_there], b[is_there]
        difference = summarize(b - a)
        statistics.append(
            {
                "name": name,
                **difference.to_json_dict(),
                "ci_half_width": finite_or_none(difference.ci_half_width),
                "means": [finite_or_none(float(v.mean())) if len(v) else None for v in (a, b)],
                "n_higher": int(np.sum(b > a)),
                "n_equal": int(np.sum(b == a)),
                "n_lower": int(np.sum(b < a)),
            }
        )
    return {
        "pairs": [positions.tolist() for positions in rows],
        "n_alone": [
            len(table) - len(positions) for table, positions in zip(tables, rows, strict=True)
        ],
        "statistics": statistics,
    }


def first_divergence(
    one: RunDirectory, one_index: int, other: RunDirectory, other_index: int
) -> dict[str, Any]:
    """Find the first sub-step in which two episodes differ.

    Returns:
        ``step``: of the first difference, ``None`` if there is none; ``what`` differs there:
        ``observation``, ``action``, ``reward``, ``actor`` or ``length``.

    Raises:
        OutputError: If one of them was not recorded.
    """
    a, b = one.trajectory(one_index), other.trajectory(other_index)
    found: list[tuple[int, int, str]] = []
    if set(a.by_step_key) != set(b.by_step_key):
        return {"step": 0, "what": "actor"}
    for key, part in a.by_step_key.items():
        partner = b.by_step_key[key]
        n = min(len(part.steps), len(partner.steps))
        actors = [np.stack([p.steps[:n], p.agent_ids[:n]], axis=1) for p in (part, partner)]
        values: list[tuple[int, str, Any, Any]] = [
            (0, "actor", actors[0], actors[1]),
            (1, "observation", part.observations, partner.observations),
            (2, "action", part.actions, partner.actions),
            (3, "reward", part.rewards, partner.rewards),
        ]
        for order, what, x, y in values:
            row = _first_difference(x, y)
            if row is not None and row < n:
                found.append((int(part.steps[row]), order, what))
    if found:
        step, _, what = min(found)
        return {"step": step, "what": what}
    if len(a) != len(b):
        return {"step": min(len(a), len(b)), "what": "length"}
    return {"step": None, "what": ""}


def _first_difference(x: Any, y: Any) -> int | None:
    """Return the first row in which two nested values differ."""
    if isinstance(x, dict | tuple) and type(x) is type(y):
        if isinstance(x, dict):
            if set(x) != set(y):
                return 0
            pairs = [(x[key], y[key]) for key in x]
        else:
            if len(x) != len(y):
                return 0
            pairs = list(zip(x, y, strict=True))
        rows = [row for a, b in pairs if (row := _first_difference(a, b)) is not None]
        return min(rows, default=None)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        if x.shape[1:] != y.shape[1:]:
            return 0
        n = min(len(x), len(y))
        differs = (x[:n] != y[:n]) & ~((x[:n] != x[:n]) & (y[:n] != y[:n]))
        rows_that_differ = differs.reshape(n, -1).any(axis=1) if n else np.zeros(0, dtype=bool)
        return int(rows_that_differ.argmax()) if rows_that_differ.any() else None
    for row, (a, b) in enumerate(zip(x, y, strict=False)):
        if repr(a) != repr(b):
            return row
    return None
