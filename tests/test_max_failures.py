"""Stopping when too many episodes have failed."""

from functools import partial

import pytest

import maze
from maze.core.errors import ConfigError, RunStoppedError
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.resume import resume_run
from tests.envs import FaultyEnv, raise_error
from tests.runs import RUNNERS, numbered, sequential

in_both_runners = pytest.mark.parametrize("where", RUNNERS, ids=str)
THREE_FAIL = partial(FaultyEnv, raise_error, {1, 4, 7})


@in_both_runners
@pytest.mark.parametrize("limit", [3, 5, 0.25, 0.9, None])
def test_a_run_goes_on_while_no_more_episodes_fail_than_may(where, limit):
    runner = where.runner(max_failures=limit, record_trajectory=False, record_event_logs=False)
    result = runner.run_with(THREE_FAIL, seeding=numbered(12))
    assert result.n_done == 12
    assert result.endings["failed"] == 3


@in_both_runners
@pytest.mark.parametrize(("limit", "n_failed"), [(0, 1), (1, 2), (2, 3), (0.1, 2), (0.0, 1)])
def test_one_more_ends_it_and_what_was_finished_is_kept(where, limit, n_failed, tmp_path):
    runner = where.runner(max_failures=limit, output_dir=tmp_path)
    message = f"{n_failed} episodes failed, more than runner.max_failures={limit} allows"
    with pytest.raises(RunStoppedError, match=message) as raised:
        runner.run_with(THREE_FAIL, seeding=numbered(12))
    result = raised.value.result
    assert isinstance(result, RolloutResult)
    assert result.endings["failed"] == n_failed
    assert result.stopped_because.startswith(message)
    assert not result.request_met
    run = maze.load(tmp_path)
    assert len(run) == result.n_done < 12
    assert run.statistics["run"]["stopped_because"].startswith(message)


def test_it_can_be_gone_on_with_when_more_may_fail(tmp_path):
    with pytest.raises(RunStoppedError):
        sequential(max_failures=1, output_dir=tmp_path).run_with(THREE_FAIL, seeding=numbered(12))
    result = resume_run(tmp_path, {"runner.max_failures": 3}, env=THREE_FAIL)
    assert (result.n_done, result.endings["failed"]) == (12, 3)


def test_failures_from_before_count_too(tmp_path):
    sequential(n_episodes=5, output_dir=tmp_path).run_with(THREE_FAIL, seeding=numbered(12))
    with pytest.raises(RunStoppedError, match="3 episodes failed"):
        resume_run(tmp_path, {"runner.n_episodes": 12, "runner.max_failures": 2}, env=THREE_FAIL)


@pytest.mark.parametrize("limit", [-1, 1.5, -0.1, "many", True])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises(ConfigError, match=r"runner.max_failures"):
        sequential(max_failures=limit)
