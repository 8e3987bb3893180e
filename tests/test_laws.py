"""The laws of rollouts, as docs/architecture.md states them. Real processes, whole runs."""

import json
import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from maze.core.env.structured_env import ActorID
from maze.core.errors import ConfigError
from maze.core.rollout.result import RolloutResult
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from tests.envs import (
    FaultyEnv,
    GlobalGeneratorsEnv,
    RememberingEchoEnv,
    ReusedBufferEnv,
    ScriptedEnv,
    Turn,
    TwoStepEnv,
    WalkEnv,
    raise_error,
)
from tests.runs import (
    EVERYWHERE,
    HERE,
    RUNNERS,
    SEEDING,
    WORKERS,
    WORKERS_LANES,
    Where,
    assert_equal,
    content,
    is_same,
    numbered,
    open_run,
    sequential,
)

# Law 1: the same plan gives equal episodes for any runner, number of processes and of lanes.

ELSEWHERE = [Where(0, 8), *(Where(n, lanes) for n in (1, 2, 5) for lanes in (1, 8))]
PLAYED_EVERYWHERE = {
    "cartpole": ("CartPole-v1", SEEDING),
    "two_sub_steps": (TwoStepEnv, SEEDING),
    "with_failures": (partial(FaultyEnv, raise_error, {0, 7, 8, 22}, step=4), numbered(23)),
}


@pytest.fixture(scope="module")
def play_once(tmp_path_factory):
    """Play an environment in a way, once for all tests that ask for it."""
    played = {}

    def play(name, where, env, seeding):
        if (name, where) not in played:
            directory = tmp_path_factory.mktemp(name) / "run"
            runner = where.runner(n_episodes=23, max_episode_steps=25, output_dir=directory)
            result = runner.run_with(env, seeding=seeding)
            played[name, where] = result, content(directory)
        return played[name, where]

    return play


@pytest.mark.parametrize("where", ELSEWHERE, ids=str)
@pytest.mark.parametrize("name", PLAYED_EVERYWHERE)
def test_the_same_seeds_give_the_same_files_wherever_episodes_are_played(name, where, play_once):
    expected_result, expected = play_once(name, HERE, *PLAYED_EVERYWHERE[name])
    result, found = play_once(name, where, *PLAYED_EVERYWHERE[name])
    assert_equal(found, expected)
    assert result.episodes.has_equal_episodes(expected_result.episodes)
    assert len({row["digest"] for row in found.rows}) == 23


@pytest.mark.parametrize("n_processes", [1, 2, 5])
def test_an_env_that_draws_from_global_generators_reproduces_in_one_lane(n_processes, play_once):
    played = GlobalGeneratorsEnv, SEEDING
    expected_result, expected = play_once("global_generators", HERE, *played)
    result, found = play_once("global_generators", Where(n_processes), *played)
    assert_equal(found, expected)
    assert len({row["digest"] for row in found.rows}) == 23
    assert not result.warnings
    assert not expected_result.warnings


@pytest.mark.parametrize("n_processes", [0, 2])
def test_with_several_lanes_such_an_env_is_warned_about(n_processes, play_once):
    where = Where(n_processes, 8)
    result, found = play_once("global_generators", where, GlobalGeneratorsEnv, SEEDING)
    (warning,) = result.warnings
    assert "n_lanes=1" in warning
    directory_says = open_run(result).statistics["run"]["warnings"]
    assert directory_says == [warning]
    assert len(found.rows) == 23


@pytest.mark.parametrize("name", PLAYED_EVERYWHERE)
def test_no_other_env_is_warned_about(name, play_once):
    for where in (Where(0, 8), Where(2, 8)):
        assert not play_once(name, where, *PLAYED_EVERYWHERE[name])[0].warnings


def test_other_seeds_give_other_episodes(tmp_path):
    one = sequential(output_dir=tmp_path / "one").run_with(WalkEnv, seeding=numbered(12))
    other = sequential(output_dir=tmp_path / "other").run_with(WalkEnv, seeding=SEEDING)
    assert {row.digest for row in one.episodes}.isdisjoint(row.digest for row in other.episodes)


def test_a_shorter_run_plays_the_first_episodes_of_a_longer_one(tmp_path):
    short = sequential(n_episodes=5, output_dir=tmp_path / "short")
    long = sequential(n_episodes=9, output_dir=tmp_path / "long")
    short.run_with("CartPole-v1", seeding=SEEDING)
    long.run_with("CartPole-v1", seeding=SEEDING)
    rows, longer_rows = content(tmp_path / "short").rows, content(tmp_path / "long").rows
    assert rows == longer_rows[:5]
    assert len(longer_rows) == 9


def test_an_episode_does_not_depend_on_those_before_it():
    alone = sequential(n_episodes=1, record_trajectory=False, record_event_logs=False)
    seeding = numbered(12)
    together = sequential(n_episodes=12, record_trajectory=False, record_event_logs=False)
    rows = list(together.run_with("CartPole-v1", seeding=seeding).episodes)
    again = alone.run_with(
        "CartPole-v1",
        seeding=Seeding(
            explicit_env_seeds=[rows[7].env_seed], explicit_agent_seeds=[rows[7].agent_seed]
        ),
    )
    assert again.episodes.row(0).digest == rows[7].digest


# Law 2: each spec yields exactly one episode.


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
@pytest.mark.parametrize("n_episodes", [1, 2, 7, 40])  # fewer and more than workers and lanes
def test_each_spec_yields_exactly_one_episode(where, n_episodes, tmp_path):
    runner = where.runner(n_episodes=n_episodes, max_episode_steps=4, output_dir=tmp_path)
    env = partial(FaultyEnv, raise_error, range(0, 40, 3), n_steps=3)
    result = runner.run_with(env, seeding=numbered(n_episodes))
    assert [row.episode_index for row in result.episodes] == list(range(n_episodes))
    assert [row.env_seed for row in result.episodes] == list(range(n_episodes))
    endings = [row.ending for row in result.episodes]
    assert endings == ["terminated" if i % 3 else "failed" for i in range(n_episodes)]
    assert sum(result.endings.values()) == result.n_done == result.n_requested == n_episodes
    assert [t.episode_index for t in open_run(result)] == list(range(n_episodes))


# Law 3: statistics are a function of the set of episodes; failed ones are counted apart.


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_failed_episodes_are_counted_apart_and_never_averaged_in(where):
    env = partial(FaultyEnv, raise_error, {1, 6}, step=3)
    runner = where.runner(record_trajectory=False, record_event_logs=False)
    result = runner.run_with(env, seeding=numbered(12))
    good = [row for row in result.episodes if row.ending != "failed"]
    assert result.endings == {"terminated": 10, "truncated": 0, "failed": 2}
    assert result.statistics["return"].n == 10
    assert result.mean_return == pytest.approx(np.mean([row.episode_return for row in good]))
    assert result.statistics["n_steps"].max == 5
    assert [row.n_steps for row in result.failures] == [3, 3]
    assert not result.request_met


# Law 4: a run leaves nothing behind in the process.


def process_state() -> dict[str, Any]:
    return {
        "random": random.getstate(),
        "numpy.random": repr(np.random.get_state(legacy=False)),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "main": sys.modules["__main__"],
        "path": list(sys.path),
        "threads": threading.active_count(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "print options": np.get_printoptions(),
        "error state": np.geterr(),
    }


def workers() -> list[psutil.Process]:
    """The processes below this one that play: the fork server's children."""
    me = psutil.Process()
    servers = me.children()
    return [p for p in me.children(recursive=True) if p not in servers]


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
@pytest.mark.parametrize("env", ["CartPole-v1", GlobalGeneratorsEnv], ids=["cartpole", "global"])
def test_a_run_leaves_the_process_as_it_was(where, env):
    runner = where.runner(n_episodes=3, record_trajectory=False, record_event_logs=False)
    runner.run_with(env)  # The first one may import modules and start the fork server.
    random.seed(1)
    np.random.seed(2)
    before = process_state()
    runner.run_with(env)
    assert process_state() == before
    assert workers() == []


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_so_does_a_run_that_ends_in_an_error(where):
    options = {"record_trajectory": False, "record_event_logs": False}
    where.runner(**options).run_with("CartPole-v1")
    before = process_state()
    with pytest.raises(Exception, match="the pole broke"):
        where.runner(on_error="stop", **options).run_with(
            partial(FaultyEnv, raise_error, {4}), seeding=numbered(12)
        )
    assert process_state() == before
    assert workers() == []


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
@pytest.mark.parametrize(
    ("env", "policy"), [(FaultyEnv, None), ("CartPole-v1", FaultyEnv)], ids=["env", "policy"]
)
def test_so_does_a_run_that_cannot_begin(where, env, policy):
    runner = where.runner(record_trajectory=False, record_event_logs=False)
    runner.run_with("CartPole-v1")
    before = process_state()
    with pytest.raises(ConfigError):
        runner.run_with(env, policy)
    assert process_state() == before
    assert workers() == []


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_an_environment_object_is_left_open_and_can_be_played_again(where):
    env = GymMazeEnv("CartPole-v1")
    runner = where.runner(n_episodes=3, record_trajectory=False, record_event_logs=False)
    first = runner.run_with(env, seeding=SEEDING)
    second = runner.run_with(env, seeding=SEEDING)
    assert first.episodes.has_equal_episodes(second.episodes)
    env.reset(seed=0)
    env.step({"action": 1})


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_two_runs_in_a_row_are_equal(where, tmp_path):
    runner = where.runner(max_episode_steps=10)
    for name in ("one", "two"):
        runner.run_with("CartPole-v1", seeding=SEEDING, output_dir=tmp_path / name)
    assert_equal(content(tmp_path / "one"), content(tmp_path / "two"))


@pytest.mark.parametrize("where", RUNNERS, ids=str)
def test_runs_at_once_in_threads_equal_fresh_ones_and_leave_nothing_behind(where, tmp_path):
    runner = where.runner(n_episodes=30)
    runner.run_with("CartPole-v1", seeding=SEEDING, output_dir=tmp_path / "alone")
    before = process_state()
    barrier, names, errors = threading.Barrier(3), ("one", "two", "three"), []

    def run(name):
        try:
            barrier.wait()
            runner.run_with("CartPole-v1", seeding=SEEDING, output_dir=tmp_path / name)
        except BaseException as error:  # or the thread would swallow it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for name in names:
        assert_equal(content(tmp_path / name), content(tmp_path / "alone"))
    assert process_state() == before


# Law 6: replayed from seeds and actions, an episode gives the same observations and rewards.


@pytest.mark.parametrize("name", ["CartPole-v1", "LunarLander-v3", "InvertedPendulum-v5"])
@pytest.mark.parametrize("where", [HERE, WORKERS_LANES], ids=str)
def test_an_episode_replayed_from_its_seed_and_actions_is_the_same(name, where, tmp_path):
    runner = where.runner(n_episodes=3, max_episode_steps=40, output_dir=tmp_path)
    result = runner.run_with(name, seeding=SEEDING)
    assert_replayable(gym.make(name), result)


def assert_replayable(env: gym.Env[Any, Any], result: RolloutResult) -> None:
    run = open_run(result)
    for row in result.episodes:
        trajectory = run.trajectory(row.episode_index)
        assert len(trajectory) == row.n_steps > 0
        observation, _ = env.reset(seed=row.env_seed)
        assert is_same(np.asarray(observation), trajectory.observations[0])
        for t, action in enumerate(trajectory.actions):
            observation, reward, _, _, _ = env.step(action)
            assert is_same(np.asarray(observation), trajectory.observations[t + 1])
            assert reward == trajectory.rewards[t]


# Law 7: what is stored equals what happened.


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_an_env_that_reuses_its_observation_buffer_is_recorded_as_it_was(where, tmp_path):
    result = where.runner(output_dir=tmp_path).run_with(ReusedBufferEnv)
    for trajectory in open_run(result):
        assert trajectory.observations.tolist() == [[0.0], [1.0], [2.0], [3.0], [4.0]]
        assert trajectory.rewards.tolist() == [1.0, 2.0, 3.0, 4.0]


DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int64", "bool")


def boxes(dtypes: Sequence[str] = DTYPES) -> st.SearchStrategy[spaces.Space[Any]]:
    shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)

    def box(dtype: str, shape: tuple[int, ...], bounds: tuple[int, int]) -> spaces.Box:
        low, high = (0, 1) if dtype == "bool" else bounds
        return spaces.Box(low, high, shape, np.dtype(dtype).type)

    bounds = st.sampled_from([(0, 1), (0, 100), (7, 8)])
    return st.builds(box, st.sampled_from(dtypes), shapes, bounds) | st.sampled_from(
        [
            spaces.Box(-np.inf, np.inf, (2,), np.float32),
            spaces.Box(-np.inf, 0.0, (2, 1), np.float64),
            spaces.Box(0, 255, (2, 3), np.uint8),
            spaces.Box(-(2**62), 2**62, (2,), np.int64),
            spaces.Box(0, 2**62, (1,), np.uint64),
            spaces.Box(0, 2**32 - 1, (), np.uint32),
            spaces.Box(0.0, 1.0, (0,), np.float32),
            spaces.Box(0.0, 1.0, (2, 0), np.float32),
        ]
    )


discretes = st.builds(
    lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)
)
multi_discretes = st.sampled_from(
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
        spaces.MultiDiscrete([3, 3], start=[-1, 5]),
        spaces.MultiDiscrete([2, 2], dtype=np.int8),
    ]
)
multi_binaries = st.sampled_from([spaces.MultiBinary(3), spaces.MultiBinary([2, 2])])
texts = st.sampled_from(
    [
        spaces.Text(5),
        spaces.Text(4, min_length=0, charset="\t\n\r\"',\\ab\0"),
        spaces.Text(3, charset="äß漢😀"),
    ]
)
graphs = st.sampled_from(
    [
        spaces.Graph(spaces.Box(0, 1, (2,), np.float16), spaces.Discrete(3)),
        spaces.Graph(spaces.Discrete(3, start=-1), None),
        spaces.Graph(spaces.Box(-1, 1, (1,)), spaces.Box(0, 255, (2, 2), np.uint8)),
    ]
)
keys = st.text("ab.:/ä ", min_size=1, max_size=4)


def composed(
    children: st.SearchStrategy[spaces.Space[Any]],
) -> st.SearchStrategy[spaces.Space[Any]]:
    dicts = st.dictionaries(keys, children, min_size=1, max_size=3).map(spaces.Dict)
    tuples = st.lists(children, min_size=1, max_size=3).map(spaces.Tuple)
    one_of = st.lists(children, min_size=1, max_size=3).map(spaces.OneOf)
    sequences = st.builds(
        lambda child, stack: spaces.Sequence(child, stack=stack), children, st.booleans()
    )
    return dicts | tuples | one_of | sequences


def some_spaces() -> st.SearchStrategy[spaces.Space[Any]]:
    plain = st.one_of(boxes(), discretes, multi_discretes, multi_binaries, texts, graphs)
    return st.recursive(plain, composed, max_leaves=5)


def value_at(space: spaces.Space[Any], nested: Any, t: int) -> Any:
    """Take one value out of the columns that a trajectory consists of."""
    if isinstance(space, spaces.Dict):
        return {key: value_at(child, nested[key], t) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(value_at(s, n, t) for s, n in zip(space.spaces, nested, strict=True))
    return nested[t]


several_examples = settings(
    # Each example is a whole run: shrinking one would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.filterwarnings("ignore:.*Casting input x")  # from Gymnasium's own Sequence.contains
@several_examples
@given(observation_space=some_spaces(), action_space=some_spaces(), n_steps=st.integers(1, 3))
def test_values_of_any_space_come_back_exactly(
    observation_space, action_space, n_steps, tmp_path_factory
):
    env = RememberingEchoEnv(observation_space, action_space, n_steps)
    directory = tmp_path_factory.mktemp("spaces") / "run"
    runner = sequential(n_episodes=2, output_dir=directory, on_error="stop")
    result = runner.run_with(env, seeding=SEEDING)
    assert result.endings["terminated"] == 2
    run = open_run(result)
    for (observations, actions), trajectory in zip(env.episodes, run, strict=True):
        assert len(observations) == n_steps + 1
        assert len(trajectory) == len(actions) == n_steps
        for t, observation in enumerate(observations):
            assert is_same(value_at(observation_space, trajectory.observations, t), observation)
        for t, action in enumerate(actions):
            assert is_same(value_at(action_space, trajectory.actions, t), action)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        # What samples never are: NaN, infinities, negative zero, empty, in another memory order.
        (
            spaces.Box(-np.inf, np.inf, (4,), np.float32),
            np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
        ),
        (
            spaces.Sequence(spaces.Box(-np.inf, np.inf, (3,), np.float16)),
            (np.array([np.inf, -np.inf, -0.0], np.float16),),
        ),
        (spaces.Sequence(spaces.Discrete(2)), ()),
        (
            spaces.Sequence(spaces.Box(0.0, 1.0, (2,), np.float32), stack=True),
            np.zeros((0, 2), np.float32),
        ),
        (spaces.Text(3, min_length=0), ""),
        (spaces.Box(0, 255, (2, 3), np.uint8), np.arange(6, dtype=np.uint8).reshape(3, 2).T),
        (spaces.Box(0, 255, (3,), np.uint8), np.arange(6, dtype=np.uint8)[::-2]),
        (spaces.Box(0, 2**64 - 1, (1,), np.uint64), np.array([2**64 - 1], np.uint64)),
        (
            spaces.Sequence(spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64)),
            (np.array([2**63 - 1]), np.array([-(2**63)])),
        ),
        (spaces.Box(0.0, 1.0, (0,), np.float32), np.zeros(0, np.float32)),
    ],
    ids=lambda part: str(part) if isinstance(part, spaces.Space) else "",
)
def test_so_do_values_that_samples_never_are(space, value, tmp_path):
    space.sample = lambda *_: value
    env = RememberingEchoEnv(space, spaces.Discrete(2))
    runner = sequential(n_episodes=1, output_dir=tmp_path, on_error="stop", on_nan="count")
    trajectory = open_run(runner.run_with(env)).trajectory(0)
    for t in range(4):
        assert is_same(value_at(space, trajectory.observations, t), value)


@st.composite
def structured_envs(draw):
    """Some step keys with small spaces, and a script of who acts when."""
    step_keys = draw(st.lists(st.sampled_from([0, 1, "a", "b/c"]), min_size=1, unique=True))
    leaves = boxes(("float32", "uint8")) | discretes | texts
    dict_spaces = st.dictionaries(keys, leaves, min_size=1, max_size=2).map(spaces.Dict)
    actors = st.builds(ActorID, st.sampled_from(step_keys), st.integers(0, 2))
    turns = st.builds(
        Turn, actors, st.floats(-1e6, 1e6), st.integers(0, 2), ends_step=st.booleans()
    )
    return ScriptedEnv(
        {key: draw(dict_spaces) for key in step_keys},
        {key: draw(dict_spaces) for key in step_keys},
        draw(st.lists(turns, min_size=1, max_size=7)),
        is_truncated=draw(st.booleans()),
    )


@several_examples
@given(env=structured_envs(), n_lanes=st.sampled_from([1, 2]))
def test_structured_episodes_come_back_exactly(env, n_lanes, tmp_path_factory):
    directory = tmp_path_factory.mktemp("structured") / "run"
    runner = sequential(
        n_episodes=2, n_lanes=n_lanes, output_dir=directory, max_episode_steps=0, on_error="stop"
    )
    # The given environment plays the first episode only if there are two lanes, else both.
    result = runner.run_with(env, seeding=SEEDING)
    run = open_run(result)
    trajectory = run.trajectory(2 - n_lanes)
    script = env.script
    assert [(t.terminated, t.truncated) for t in run] == 2 * [
        (not env.is_truncated, env.is_truncated)
    ]
    assert trajectory.rewards.tolist() == [turn.reward for turn in script]
    n_times = [sum(turn.ends_step for turn in script[:t]) for t in range(len(script) + 1)]
    assert [row.n_steps for row in result.episodes] == 2 * [n_times[-1]]
    found = []
    for key, part in trajectory.by_step_key.items():
        actions = [turn.reward for turn in script if turn.actor.step_key == key]
        assert part.rewards.tolist() == actions
        for row, step in enumerate(part.steps.tolist()):
            observation = value_at(env.observation_spaces[key], part.observations, row)
            has_action = row < len(part.rewards)
            action = value_at(env.action_spaces[key], part.actions, row) if has_action else None
            seen_by = ActorID(key, int(part.agent_ids[row])), int(part.env_times[row])
            found.append((step, seen_by, observation, action))
    found.sort(key=lambda entry: entry[0])
    assert [entry[0] for entry in found] == list(range(len(script) + 1))
    for (_, seen_by, observation, action), seen, acted in zip(
        found, env.observed, [*env.acted, None], strict=True
    ):
        assert seen_by == seen[:2]
        assert is_same(observation, seen[2])
        assert is_same(action, acted)
    n_events = sum(turn.n_events for turn in script)
    if n_events:
        events = run.events("Placed")
        assert len(events) == 2 * n_events
        times = [t for t, turn in zip(n_times, script, strict=False) for _ in range(turn.n_events)]
        assert events["env_time"].tolist() == 2 * times
        assert result.statistics["Placed.count"].mean == n_events


def test_statistics_in_the_file_are_those_of_the_result(tmp_path):
    result = sequential(output_dir=tmp_path).run_with(TwoStepEnv)
    found = json.loads((tmp_path / "statistics.json").read_text())
    assert found == json.loads(json.dumps(result.to_json_dict()))


def test_workers_is_able_to_see_a_worker(tmp_path):
    # The check of law 4 would pass for ever if it looked in the wrong place.
    seen: list[psutil.Process] = []

    def look() -> None:
        while not (seen or ended.is_set()):
            seen.extend(workers())

    ended = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    WORKERS.runner(n_episodes=3000, output_dir=tmp_path).run_with(WalkEnv)
    ended.set()
    watcher.join()
    assert seen
