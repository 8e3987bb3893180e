"""Summaries of numbers, and statistics over the episodes of a run."""

import math
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maze.core.episode import Ending, EpisodeBatch, EpisodeRow, EpisodeTiming, Failure
from maze.core.episode_table import EpisodeTableBuilder
from maze.core.events.event import Event, EventStatistic, measure_events
from maze.core.statistics.run_statistics import N_FAILURES_KEPT, RunStatistics
from maze.core.statistics.summary import Summary, summarize, t_quantile

NUMBERS = st.lists(st.floats(-1e9, 1e9), max_size=30)


def make_row(
    episode_index: int = 0,
    *,
    ending: Ending = "terminated",
    episode_return: float = 1.0,
    n_steps: int = 1,
    **properties: Any,
) -> EpisodeRow:
    failure = Failure("step", 3, "ValueError", "broken", "Traceback ...")
    is_failed = ending == "failed"
    values: dict[str, Any] = {
        "episode_id": f"episode-{episode_index}",
        "env_seed": 10 + episode_index,
        "agent_seed": 20 + episode_index,
        "truncated_by": "",
        "seconds": 1.0,
        "attempts": 1,
        "digest": "d",
        "n_nan": 0,
        "error": str(failure) if is_failed else "",
        "failure": failure if is_failed else None,
        "statistics": {},
    }
    return EpisodeRow(
        episode_index=episode_index,
        ending=ending,
        episode_return=episode_return,
        n_steps=n_steps,
        **(values | properties),
    )


def statistics_of(rows: Iterable[EpisodeRow]) -> RunStatistics:
    statistics = RunStatistics()
    statistics.add(EpisodeBatch(tuple(rows)))
    return statistics


@pytest.mark.parametrize(
    ("degrees_of_freedom", "quantile"),  # of a printed table of Student's t
    [
        (1, 12.706),
        (2, 4.303),
        (5, 2.571),
        (10, 2.228),
        (12, 2.179),  # the last of our own table
        (13, 2.160),  # the first by the expansion
        (30, 2.042),
        (100, 1.984),
        (1_000, 1.962),
        (10_000_000, 1.960),
    ],
)
def test_the_t_quantile_is_that_of_printed_tables(degrees_of_freedom, quantile):
    assert t_quantile(degrees_of_freedom) == pytest.approx(quantile, abs=1e-3)


def test_the_t_quantile_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)


def test_the_confidence_interval_of_a_textbook_sample():
    # Mean 3, standard deviation sqrt(2.5), 2.776 * sqrt(2.5) / sqrt(5) = 1.963
    summary = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    assert summary.ci_low == pytest.approx(3 - 1.963, abs=1e-3)
    assert summary.ci_high == pytest.approx(3 + 1.963, abs=1e-3)


def test_the_confidence_interval_covers_the_mean_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    summaries = [summarize(rng.normal(7.0, 2.0, size=5)) for _ in range(2000)]
    covered = sum(summary.ci_low <= 7.0 <= summary.ci_high for summary in summaries)
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_nan_is_left_out_and_counted():
    assert summarize([math.nan, 2.0, 4.0]) == Summary(**{**vars(summarize([2.0, 4.0])), "n_nan": 1})


def test_nothing_can_be_said_of_no_values():
    summary = summarize([math.nan])
    assert (summary.n, summary.n_nan) == (0, 1)
    assert summary.to_json_dict() == {
        "n": 0,
        "n_nan": 1,
        **dict.fromkeys(("mean", "ci_low", "ci_high", "std", "min", "median", "max")),
    }


def test_a_single_value_has_a_mean_but_no_spread():
    summary = summarize([3.0])
    assert (summary.mean, summary.min, summary.median, summary.max) == (3.0, 3.0, 3.0, 3.0)
    assert all(map(math.isnan, (summary.std, summary.ci_low, summary.ci_high)))


def test_equal_numbers_have_no_spread():
    summary = summarize([0.1, 0.1, 0.1])
    assert (summary.mean, summary.ci_low, summary.ci_high, summary.std) == (0.1, 0.1, 0.1, 0.0)


def test_infinite_values_show_in_the_mean_and_are_null_in_json():
    summary = summarize([1.0, math.inf])
    assert summary.mean == math.inf
    assert math.isnan(summary.std)
    assert summary.to_json_dict()["max"] is None


@given(NUMBERS)
def test_the_plain_parts_are_those_of_numpy(values):
    summary = summarize(values)
    assert summary.n == len(values)
    if values:
        assert summary.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
        assert summary.median == np.median(values)
        assert (summary.min, summary.max) == (min(values), max(values))
    if len(values) > 1:
        assert summary.std == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-6)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=10))
def test_the_mean_lies_in_its_interval_and_in_the_range_for_any_finite_numbers(values):
    summary = summarize(values)
    assert summary.ci_low <= summary.mean <= summary.ci_high
    assert summary.min <= summary.mean <= summary.max


@given(st.lists(st.floats(), max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_values_does_not_change_a_bit_of_their_summary(values, rng):
    shuffled = rng.sample(values, len(values))
    assert repr(summarize(shuffled)) == repr(summarize(values))


def test_failed_episodes_are_counted_and_not_averaged_in():
    statistics = statistics_of(
        [
            make_row(0, episode_return=1.0, n_steps=10),
            make_row(1, episode_return=3.0, n_steps=20),
            make_row(2, ending="failed", episode_return=100.0, n_steps=5),
        ]
    )
    assert statistics.endings == {"terminated": 2, "truncated": 0, "failed": 1}
    assert statistics.summaries()["return"] == summarize([1.0, 3.0])
    assert statistics.summaries()["n_steps"] == summarize([10, 20])
    assert statistics.mean_return == 2.0
    assert (statistics.n_episodes, statistics.n_steps) == (3, 35)


def test_truncations_by_the_runner_are_counted_apart():
    statistics = statistics_of(
        [
            make_row(0, ending="truncated", truncated_by="env"),
            make_row(1, ending="truncated", truncated_by="runner"),
        ]
    )
    assert statistics.endings["truncated"] == 2
    assert statistics.n_truncated_by_runner == 1


@pytest.mark.parametrize(
    ("reduce", "values"),
    [
        (len, [2.0, 0.0]),  # a count of nothing
        (sum, [3.0, 0.0]),  # a sum of nothing
        (max, [2.0]),  # nothing has no largest
    ],
)
def test_a_count_or_a_sum_of_events_that_did_not_happen_is_zero(reduce, values):
    @dataclass(frozen=True)
    class Cut(Event):
        waste: float
        statistics: ClassVar = (EventStatistic("number", reduce, "waste"),)

    numbers, zero_statistics = measure_events([(0, Cut(1.0)), (1, Cut(2.0))])
    rows = (make_row(0, statistics=numbers), make_row(1), make_row(2, ending="failed"))
    statistics, table = RunStatistics(), EpisodeTableBuilder()
    statistics.add(EpisodeBatch(rows, zero_statistics=zero_statistics))
    table.add(rows, zero_statistics)
    assert statistics.summaries()["Cut.number"] == summarize(values)
    assert table.build().to_arrow()["Cut.number"].drop_null().to_pylist() == values


def test_the_failures_kept_are_those_of_lowest_index():
    rows = [make_row(index, ending="failed") for index in (9, 3, 7, 1, 8, 0, 5)]
    statistics = statistics_of(rows)
    assert [row.episode_index for row in statistics.failures] == [0, 1, 3, 5, 7]
    assert len(statistics.failures) == N_FAILURES_KEPT


def test_time_is_split_without_gaps():
    statistics = RunStatistics()
    # Two episodes of a second each, of which one was measured.
    timings = (EpisodeTiming(1.0, env_seconds=0.5, policy_seconds=0.25),)
    statistics.add(EpisodeBatch(rows=(make_row(0), make_row(1)), timings=timings))
    assert statistics.time_split() == {"environment": 1.0, "policy": 0.5, "recording": 0.5}
    statistics.add(EpisodeBatch(rows=(), encoding_seconds=1.0))
    assert statistics.time_split() == {"environment": 1.0, "policy": 0.5, "recording": 1.5}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["terminated", "truncated", "failed"]),
            st.floats(),
            st.dictionaries(st.sampled_from(["A.count", "A.mean", "kpi"]), st.floats()),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_and_grouping_of_batches_does_not_show(episodes, rng):
    rows = [
        make_row(index, ending=ending, episode_return=value, statistics=statistics)
        for index, (ending, value, statistics) in enumerate(episodes)
    ]
    expected = statistics_of(rows)
    rng.shuffle(rows)
    actual = RunStatistics()
    while rows:
        size = rng.randint(1, 4)
        actual.add(EpisodeBatch(tuple(rows[:size])))
        rows = rows[size:]
    assert list(actual.summaries().items()) == list(expected.summaries().items())
    assert actual.endings == expected.endings
    assert [row.episode_index for row in actual.failures] == [
        row.episode_index for row in expected.failures
    ]


def test_an_episode_takes_few_bytes():
    statistics = statistics_of(
        make_row(index, episode_return=random.random(), statistics={"kpi": random.random()})
        for index in range(2000)
    )
    held = [value for value in vars(statistics).values() if not isinstance(value, dict)]
    held += statistics._statistics.values()
    assert sum(map(sys.getsizeof, held)) / 2000 < 40
