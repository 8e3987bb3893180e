"""Statistics over the episodes of a run, taken in as they finish.

Each value costs eight bytes, so they can all be kept until the end. Nothing that describes the
episodes depends on the order in which they were added: summaries are computed from correctly
rounded sums, names come out sorted, and the failures that are kept are those with the lowest
episode index.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from maze.core.episode import ENDINGS, Ending, EpisodeBatch, EpisodeRow
from maze.core.statistics.summary import Summary, summarize

N_FAILURES_KEPT = 5


class RunStatistics:
    """Sums up finished episodes.

    Failed episodes are counted, and are left out of the summaries.

    An episode in which nothing happened that a statistic is about has no value for it. For counts
    and sums (``EpisodeBatch.zero_statistics``) that is a 0. For any other, as the mean of an
    attribute, it is not a number of any kind, and the summary covers only the episodes that have
    one (see ``Summary.n``).
    """

    endings: dict[Ending, int]
    """Number of episodes by how they ended."""
    n_truncated_by_runner: int
    """Truncated episodes that the runner's own step limit cut off."""
    n_nan: int
    """Observations and rewards with a NaN, in all episodes."""
    n_steps: int
    """Structured steps of all episodes, the failed ones' included."""
    n_steps_before: int
    """Those of them that were played in an earlier session of the run."""
    seconds: float
    """Sum of the times spent on the episodes of this session, without waiting for those beside
    them."""
    encoding_seconds: float
    """Time spent on checking and encoding batches of episodes."""

    def __init__(self) -> None:
        self.endings = dict.fromkeys(ENDINGS, 0)
        self.n_truncated_by_runner = 0
        self.n_nan = 0
        self.n_steps = self.n_steps_before = 0
        self.seconds = 0.0
        self._timed_seconds = self._env_seconds = self._policy_seconds = 0.0
        self.encoding_seconds = 0.0
        self._returns = array("d")
        self._step_counts = array("d")
        self._statistics: dict[str, array[float]] = {}
        self._zero_statistics: frozenset[str] = frozenset()
        self._sum_of_returns = 0.0
        self._failures: list[EpisodeRow] = []

    def add(self, batch: EpisodeBatch) -> None:
        """Take in the episodes of a batch. Each episode is to be added once."""
        self.add_rows(batch.rows)
        self.encoding_seconds += batch.encoding_seconds
        self._zero_statistics |= batch.zero_statistics
        for seconds, env_seconds, policy_seconds in batch.timings:
            self._timed_seconds += seconds
            self._env_seconds += env_seconds
            self._policy_seconds += policy_seconds

    def add_rows(self, rows: Iterable[EpisodeRow]) -> None:
        """Take in episodes by their rows."""
        rows = tuple(rows)
        if rows:
            columns = dict(zip(EpisodeRow._fields, zip(*rows, strict=True), strict=True))
            self._add(columns)
            self.seconds += sum(columns["seconds"])

    def add_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take in episodes of an earlier session of the run, as they are in its journal.

        They count as if they had been played now, but for the time they took: that belongs to a
        session whose other times are not known.

        Args:
            columns: the attributes of ``EpisodeRow``, and ``zero_statistics`` if there are any.
                Each episode is to be added once: without rows that a later one has replaced, and
                without those that are going to be played again.
        """
        self._zero_statistics |= frozenset(columns.get("zero_statistics", ()))
        self._add(columns)
        self.n_steps_before += sum(columns["n_steps"])

    def _add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        endings, returns = columns["ending"], columns["episode_return"]
        step_counts, statistics = columns["n_steps"], columns["statistics"]
        for ending in ENDINGS:
            self.endings[ending] += endings.count(ending)
        self.n_truncated_by_runner += columns["truncated_by"].count("runner")
        self.n_steps += sum(step_counts)
        self.n_nan += sum(columns["n_nan"])
        if "failed" in endings:
            self._add_failures(columns)
            is_played = [ending != "failed" for ending in endings]
            returns, step_counts, statistics = (
                tuple(compress(column, is_played)) for column in (returns, step_counts, statistics)
            )
        self._returns.extend(returns)
        self._step_counts.extend(step_counts)
        self._sum_of_returns += sum(returns)
        if any(statistics):
            for values_by_name in statistics:
                for name, value in values_by_name.items():
                    values = self._statistics.get(name)
                    if values is None:
                        values = self._statistics[name] = array("d")
                    values.append(value)

    def _add_failures(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Keep the failed episodes of lowest index."""
        for position, ending in enumerate(columns["ending"]):
            if ending == "failed":
                row = EpisodeRow(*[columns[name][position] for name in EpisodeRow._fields])
                bisect.insort(self._failures, row, key=lambda row: row.episode_index)
        del self._failures[N_FAILURES_KEPT:]

    @property
    def n_episodes(self) -> int:
        """Number of episodes added, failed ones included."""
        return sum(self.endings.values())

    @property
    def mean_return(self) -> float:
        """Mean return of the episodes so far without the failed ones; NaN if there are none."""
        return self._sum_of_returns / len(self._returns) if self._returns else float("nan")

    @property
    def failures(self) -> tuple[EpisodeRow, ...]:
        """The first few failed episodes, by episode index."""
        return tuple(self._failures)

    def summaries(self) -> dict[str, Summary]:
        """Summarise ``return``, ``n_steps`` and then each episode statistic, sorted by name."""
        summaries = {"return": summarize(self._returns), "n_steps": summarize(self._step_counts)}
        for name in sorted(self._statistics):
            values = self._statistics[name]
            is_zero = name in self._zero_statistics
            n_zeros = len(self._returns) - len(values) if is_zero else 0
            summaries[name] = summarize(values, n_zeros)
        return summaries

    def time_split(self) -> dict[str, float]:
        """Split time into the ``environment``'s, the ``policy``'s and ``recording``.

        Estimated from the episodes in which it was measured.

        Returns:
            Seconds. ``recording`` is all that is left, the episode loop included.
        """
        scale = self.seconds / self._timed_seconds if self._timed_seconds else 0.0
        environment, policy = self._env_seconds * scale, self._policy_seconds * scale
        rest = self.seconds + self.encoding_seconds - environment - policy
        return {"environment": environment, "policy": policy, "recording": max(0.0, rest)}
