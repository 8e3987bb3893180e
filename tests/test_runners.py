"""What runners, ``maze.rollout`` and ``maze.load`` promise to those who call them from Python."""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import yaml

import maze
from maze.core.agent.dummy_cartpole_policy import DummyCartPolePolicy
from maze.core.agent.policy import StructuredPolicy
from maze.core.errors import ConfigError, ContractError, OutputError, RunStoppedError
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from tests.envs import (
    CountingEnv,
    FaultyEnv,
    HoldsLockEnv,
    TwoStepEnv,
    ViolatingDictEnv,
    ViolatingEnv,
    ViolatingUnboundedEnv,
    WalkEnv,
    raise_error,
)
from tests.policies import DeterministicSaysTwo, ShortBatches, SpoilingPolicy
from tests.runs import (
    EVERYWHERE,
    HERE,
    RUNNERS,
    SEEDING,
    WORKERS_LANES,
    Where,
    assert_equal,
    content,
    numbered,
    open_run,
    parallel,
    sequential,
)

SCALING = {"maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper": {"scale": 0.1}}
UNRECORDED = {"record_trajectory": False, "record_event_logs": False}
everywhere = pytest.mark.parametrize("where", EVERYWHERE, ids=str)
# Long tables are not played in each of the four ways: these show all the differences.
here_and_there = pytest.mark.parametrize("where", [HERE, WORKERS_LANES], ids=str)
in_both_runners = pytest.mark.parametrize("where", RUNNERS, ids=str)


def in_subprocess(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a directory, with this checkout's tests importable."""
    path = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


# The snippet of the first page, both readings.


@pytest.mark.parametrize("name", ["CartPole-v0", "CartPole-v1"])
@pytest.mark.parametrize("runner_class", [SequentialRolloutRunner, ParallelRolloutRunner])
@pytest.mark.parametrize("reading", ["constructor", "run_with"])
def test_the_snippet_of_the_page_runs(name, runner_class, reading, tmp_path):
    env = GymMazeEnv(name)
    agent = DummyCartPolePolicy()
    given = {reading: {"wrappers": SCALING}}
    runner = runner_class(
        n_episodes=5, max_episode_steps=50, output_dir=tmp_path, **given.get("constructor", {})
    )
    result = runner.run_with(env=env, agent=agent, **given.get("run_with", {}))
    assert result.request_met
    for row in result.episodes:
        assert row.episode_return == pytest.approx(0.1 * row.n_steps)


def test_run_with_takes_env_agent_and_wrappers_by_position():
    runner = sequential(n_episodes=2, max_episode_steps=5, **UNRECORDED)
    result = runner.run_with("CartPole-v1", DummyCartPolePolicy(), SCALING)
    assert result.mean_return == pytest.approx(0.5)


def test_wrappers_of_the_call_take_the_place_of_the_runners():
    runner = sequential(n_episodes=2, max_episode_steps=5, wrappers=SCALING, **UNRECORDED)
    assert runner.run_with("CartPole-v1").mean_return == pytest.approx(0.5)
    assert runner.run_with("CartPole-v1", wrappers={}).mean_return == 5.0


@pytest.mark.parametrize("runner_class", [SequentialRolloutRunner, ParallelRolloutRunner])
def test_defaults_are_those_of_the_page(runner_class):
    runner = runner_class()
    assert (runner.n_episodes, runner.max_episode_steps) == (50, 200)
    assert (runner.record_trajectory, runner.record_event_logs) == (True, True)
    assert runner.n_processes == (5 if runner_class is ParallelRolloutRunner else 1)


@everywhere
def test_a_runner_can_be_run_any_number_of_times_with_anything(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = where.runner(n_episodes=3, max_episode_steps=5)
    directories = {
        runner.run_with(env).output_directory for env in ("CartPole-v1", TwoStepEnv, "CartPole-v1")
    }
    assert len(directories) == 3
    assert all(len(maze.load(directory)) == 3 for directory in directories)


# What is written, and where.


@pytest.mark.parametrize("trajectories", [True, False])
@pytest.mark.parametrize("events", [True, False])
@in_both_runners
def test_only_what_was_asked_for_is_recorded(where, trajectories, events, tmp_path):
    runner = where.runner(
        n_episodes=2, record_trajectory=trajectories, record_event_logs=events, output_dir=tmp_path
    )
    runner.run_with(TwoStepEnv)
    always = {"config.yaml", "episodes.parquet", "journal.jsonl", "statistics.json"}
    folders = {"trajectory_data": trajectories, "event_logs": events}
    assert {path.name for path in tmp_path.iterdir()} == always | {
        name for name, is_there in folders.items() if is_there
    }
    if trajectories:
        names = {path.name for path in (tmp_path / "trajectory_data").iterdir()}
        assert names == {"steps_select.arrow", "steps_place.arrow"}
    if events:
        names = {path.name for path in (tmp_path / "event_logs").iterdir()}
        assert names == {"Reward.tsv", "Placed.tsv"}


def test_by_default_a_run_goes_to_a_directory_by_date_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = sequential(n_episodes=1)
    first, second = (runner.run_with("CartPole-v1").output_directory for _ in range(2))
    assert first is not None
    assert second != first
    assert re.fullmatch(
        r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d(-\d+)?", str(first.relative_to(tmp_path))
    )


def test_a_run_that_records_nothing_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in RUNNERS:
        result = where.runner(n_episodes=2, **UNRECORDED).run_with("CartPole-v1")
        assert result.output_directory is None
        assert len(result.episodes) == 2
    assert not list(tmp_path.iterdir())


def test_the_directory_of_the_call_takes_the_place_of_the_runners(tmp_path):
    runner = sequential(n_episodes=1, output_dir=tmp_path / "runner")
    runner.run_with("CartPole-v1", output_dir=tmp_path / "call")
    assert [path.name for path in tmp_path.iterdir()] == ["call"]


@in_both_runners
def test_a_directory_that_holds_a_run_is_not_touched(where, tmp_path):
    where.runner(n_episodes=2, output_dir=tmp_path).run_with("CartPole-v1", seeding=SEEDING)
    before = content(tmp_path)
    with pytest.raises(OutputError, match="holds a run already"):
        where.runner(n_episodes=3, output_dir=tmp_path).run_with("CartPole-v1")
    assert_equal(content(tmp_path), before)


@in_both_runners
@pytest.mark.parametrize("below", [".", "run"])
def test_a_directory_that_cannot_be_written_is_named(where, below, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OutputError, match=r"cannot .*file.*"):
        where.runner(output_dir=file / below).run_with("CartPole-v1")


def test_config_yaml_says_what_was_run(tmp_path):
    runner = sequential(n_episodes=2, max_episode_steps=7, output_dir=tmp_path)
    runner.run_with(
        {"_target_": "tests.envs.WalkEnv", "n_steps": 3}, "random", SCALING, seeding=SEEDING
    )
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["runner"]["_target_"].endswith("SequentialRolloutRunner")
    assert config["runner"]["max_episode_steps"] == 7
    assert config["env"] == {"_target_": "tests.envs.WalkEnv", "n_steps": 3}
    assert config["wrappers"] == SCALING
    assert config["seeding"]["env_base_seed"] == SEEDING.env_base_seed


def test_seeds_drawn_by_chance_are_stored_so_that_the_run_can_be_repeated(tmp_path):
    runner = sequential(n_episodes=3)
    first = runner.run_with("CartPole-v1", output_dir=tmp_path / "first")
    stored = yaml.safe_load((tmp_path / "first" / "config.yaml").read_text())["seeding"]
    assert stored["env_base_seed"] == first.env_base_seed
    again = runner.run_with(
        "CartPole-v1", seeding=Seeding(**stored), output_dir=tmp_path / "second"
    )
    assert again.episodes.has_equal_episodes(first.episodes)
    assert runner.run_with("CartPole-v1", output_dir=tmp_path / "third").env_base_seed not in (
        None,
        first.env_base_seed,
    )


# Limits.


@here_and_there
@pytest.mark.parametrize(
    ("own_limit", "runner_limit", "ending"),
    [
        (5, 3, (3, "truncated", "runner")),
        (3, 5, (3, "truncated", "env")),
        (3, 3, (3, "truncated", "env")),  # the environment's own limit is the reason then
        (3, 0, (3, "truncated", "env")),  # no limit of the runner's
        (3, None, (3, "truncated", "env")),
    ],
)
def test_it_is_told_whose_limit_cut_an_episode_off(
    where, own_limit, runner_limit, ending, tmp_path
):
    wrappers = {
        "maze.core.wrappers.time_limit_wrapper.TimeLimitWrapper": {"max_episode_steps": own_limit}
    }
    runner = where.runner(
        n_episodes=2, max_episode_steps=runner_limit, wrappers=wrappers, output_dir=tmp_path
    )
    result = runner.run_with(CountingEnv)
    assert [(row.n_steps, row.ending, row.truncated_by) for row in result.episodes] == 2 * [ending]
    assert result.n_truncated_by_runner == (2 if ending[2] == "runner" else 0)
    for trajectory in open_run(result):
        assert (trajectory.terminated, trajectory.truncated) == (False, True)
        assert len(trajectory.observations) == ending[0] + 1


def test_the_time_limit_of_a_registered_environment_is_its_own():
    result = sequential(n_episodes=1, max_episode_steps=300, **UNRECORDED).run_with("Pendulum-v1")
    assert [(row.n_steps, row.truncated_by) for row in result.episodes] == [(200, "env")]


def test_an_episode_that_ends_at_the_runners_limit_has_ended_by_itself():
    runner = sequential(n_episodes=1, max_episode_steps=3, **UNRECORDED)
    (row,) = runner.run_with(partial(CountingEnv, n_steps=3)).episodes
    assert (row.ending, row.truncated_by) == ("terminated", "")


@pytest.mark.parametrize("where", [Where(0), Where(2, 3)], ids=str)
def test_the_limit_counts_structured_steps(where, tmp_path):
    runner = where.runner(n_episodes=4, max_episode_steps=2, output_dir=tmp_path)
    result = runner.run_with(partial(TwoStepEnv, n_steps=5))
    assert {(row.n_steps, row.truncated_by) for row in result.episodes} == {(2, "runner")}
    assert {len(trajectory) for trajectory in open_run(result)} == {4}


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_episodes": 0}, "'runner.n_episodes' is 0, expected at least 1"),
        ({"n_episodes": -3}, "'runner.n_episodes' is -3, expected at least 1"),
        ({"n_episodes": 2.5}, "'runner.n_episodes' is 2.5 (float), expected a whole number"),
        ({"n_episodes": "5"}, "'runner.n_episodes' is '5' (str), expected a whole number"),
        ({"n_episodes": True}, "'runner.n_episodes' is True (bool), expected a whole number"),
        ({"max_episode_steps": -1}, "'runner.max_episode_steps' is -1, expected at least 0"),
        (
            {"max_episode_steps": "none"},
            "'runner.max_episode_steps' is 'none' (str), expected a whole number",
        ),
        ({"n_lanes": 0}, "'runner.n_lanes' is 0, expected at least 1"),
        ({"n_processes": 0}, "'runner.n_processes' is 0, expected at least 1"),
        ({"max_attempts": 0}, "'runner.max_attempts' is 0, expected at least 1"),
        ({"deterministic": 1}, "'runner.deterministic' is 1 (int), expected true or false"),
        (
            {"record_trajectory": "yes"},
            "'runner.record_trajectory' is 'yes' (str), expected true or false",
        ),
        ({"on_error": "ignore"}, "'runner.on_error' is 'ignore', expected one of: record, stop"),
        ({"on_nan": "warn"}, "'runner.on_nan' is 'warn', expected one of: fail, count, stop"),
        (
            {"on_out_of_space": 0},
            "'runner.on_out_of_space' is 0, expected one of: stop, fail, allow",
        ),
        ({"render": True, "n_lanes": 2}, "'runner.render' needs 'runner.n_lanes' to be 1, got 2"),
    ],
    ids=lambda part: str(part) if isinstance(part, dict) else "",
)
def test_an_option_that_cannot_be_is_refused(options, message):
    kinds = [
        kind
        for kind, others in (
            (SequentialRolloutRunner, {"n_processes", "max_attempts"}),
            (ParallelRolloutRunner, {"render"}),
        )
        if not others & options.keys()
    ]
    for kind in kinds:
        with pytest.raises(ConfigError, match=re.escape(message)):
            kind(**options)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (3, r"env is 3 \(int\), expected a Gymnasium id"),
        (lambda: 3, r"the function given as env made 3 \(int\)"),
        ("CartPole-v7", "CartPole-v0, CartPole-v1"),
        ({"_target_": "builtins.dict"}, "dict"),
        ({"_target_": "tests.envs.NoSuchEnv"}, "NoSuchEnv"),
        ({"_target_": "tests.envs.WalkEnv", "colour": 1}, "colour"),
    ],
    ids=["number", "makes a number", "unknown id", "no env", "unknown class", "wrong argument"],
)
@in_both_runners
def test_what_is_no_environment_is_refused(where, env, message):
    with pytest.raises(ConfigError, match=message):
        where.runner(**UNRECORDED).run_with(env)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (3, r"policy is 3 \(int\), expected"),
        ("tests.envs.NoSuchPolicy", "NoSuchPolicy"),
        ({"_target_": "tests.envs.WalkEnv"}, "WalkEnv"),
        (partial, "partial"),
    ],
    ids=["number", "unknown class", "an env", "cannot be built"],
)
@in_both_runners
def test_what_is_no_policy_is_refused(where, policy, message):
    with pytest.raises(ConfigError, match=message):
        where.runner(**UNRECORDED).run_with("CartPole-v1", policy)


@here_and_there
def test_explicit_seeds_are_played_in_their_order(where):
    seeding = Seeding(explicit_env_seeds=[7, 5, 3], explicit_agent_seeds=[1, 2, 3])
    result = where.runner(n_episodes=3, **UNRECORDED).run_with("CartPole-v1", seeding=seeding)
    rows = list(result.episodes)
    assert [(row.env_seed, row.agent_seed) for row in rows] == [(7, 1), (5, 2), (3, 3)]
    assert result.env_base_seed is result.agent_base_seed is None


@in_both_runners
def test_a_list_of_seeds_that_is_too_short_shortens_the_run_and_says_so(where):
    seeding = Seeding(explicit_env_seeds=[7, 5, 3])
    result = where.runner(n_episodes=12, **UNRECORDED).run_with("CartPole-v1", seeding=seeding)
    assert result.n_requested == result.n_done == 3
    (warning,) = result.warnings
    assert "explicit_env_seeds has 3 seeds" in warning


@here_and_there
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_policy_is_told_whether_to_be_deterministic(where, deterministic, tmp_path):
    runner = where.runner(n_episodes=2, deterministic=deterministic, output_dir=tmp_path)
    for trajectory in open_run(runner.run_with(WalkEnv, DeterministicSaysTwo())):
        assert set(trajectory.actions.tolist()) == {2 if deterministic else 1}


# What can be given, and how it gets to the workers.


@everywhere
def test_functions_of_one_line_can_be_env_and_policy(where, tmp_path):
    wanted = 2
    result = where.runner(n_episodes=3, output_dir=tmp_path).run_with(
        lambda: WalkEnv(n_steps=4), lambda observation: wanted if observation[0] < 1 else 0
    )
    assert result.request_met
    for trajectory in open_run(result):
        seen = trajectory.observations[:-1, 0]
        assert trajectory.actions.tolist() == [2 if value < 1 else 0 for value in seen]


@everywhere
def test_an_environment_registered_in_this_process_only_is_found_by_its_id(where):
    def short_walk(**_: Any) -> gym.Env[Any, Any]:
        return WalkEnv(n_steps=2)

    gym.register("tests/OnlyHere-v0", entry_point=short_walk, max_episode_steps=9)
    try:
        for env in ("tests/OnlyHere-v0", GymMazeEnv("tests/OnlyHere-v0")):
            result = where.runner(n_episodes=3, **UNRECORDED).run_with(env)
            assert result.statistics["n_steps"].max == 2
    finally:
        del gym.registry["tests/OnlyHere-v0"]


@everywhere
def test_an_environment_object_plays_as_fresh_ones_do(where):
    env = WalkEnv(n_steps=3)
    env.reset(seed=99)
    runner = where.runner(**UNRECORDED)
    given = runner.run_with(env, seeding=SEEDING)
    fresh = runner.run_with(lambda: WalkEnv(n_steps=3), seeding=SEEDING)
    assert given.episodes.has_equal_episodes(fresh.episodes)


def test_an_environment_object_that_cannot_be_copied_plays_here_in_one_lane():
    assert sequential(**UNRECORDED).run_with(HoldsLockEnv()).request_met


@pytest.mark.parametrize("where", [where for where in EVERYWHERE if where != HERE], ids=str)
def test_elsewhere_it_is_refused_with_a_way_out(where):
    with pytest.raises(ConfigError, match=r"cannot be copied .*Give a function that makes it"):
        where.runner(**UNRECORDED).run_with(HoldsLockEnv())


def test_a_policy_that_cannot_be_sent_to_workers_is_refused_with_a_way_out():
    lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"cannot be sent to worker processes.*runner=sequential"):
        parallel(**UNRECORDED).run_with("CartPole-v1", lambda observation: int(lock.locked()))


SCRIPT = """
import gymnasium, maze
from maze.core.agent.policy import FlatPolicy

class MineEnv(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(10)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return 0, {}
    def step(self, action):
        self.count += 1
        return self.count, float(action), self.count == 9, False, {}

class MinePolicy(FlatPolicy):
    def act(self, observation, memory, deterministic):
        return {"action": observation["observation"] % 2}

print("this line is printed once")
for env in (MineEnv, MineEnv()):
    result = maze.rollout(env, MinePolicy(), n_episodes=20, n_processes=2)
    print(result.mean_return, result.request_met)
"""


def test_a_script_without_main_guard_plays_its_own_classes_in_parallel(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = in_subprocess(tmp_path, "script.py")
    assert (done.stdout.splitlines(), done.stderr) == (
        ["this line is printed once", "4.0 True", "4.0 True"],
        "",
    )


def test_so_does_code_given_on_the_command_line(tmp_path):
    done = in_subprocess(tmp_path, "-c", SCRIPT)
    assert done.stdout.splitlines()[1:] == ["4.0 True", "4.0 True"], done.stderr


# maze.rollout and maze.load.


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_rollout_takes_one_line(n_processes):
    result = maze.rollout(
        "CartPole-v1", lambda observation: int(observation[2] > 0), n_episodes=20, seed=3,
        n_processes=n_processes,
    )  # fmt: skip
    assert result.n_done == 20
    assert result.n_processes == n_processes
    assert 20 < result.mean_return < 80
    assert result.output_directory is None


def test_a_rollout_is_repeated_by_its_seed():
    one, two = (maze.rollout("CartPole-v1", n_episodes=5, seed=3) for _ in range(2))
    assert one.episodes.has_equal_episodes(two.episodes)
    assert not maze.rollout("CartPole-v1", n_episodes=5, seed=4).episodes.has_equal_episodes(
        one.episodes
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("recorded") / "run"
    maze.rollout(TwoStepEnv, n_episodes=6, n_lanes=2, seed=1, output_dir=directory)
    return directory


def test_episodes_are_loaded_as_a_data_frame(recorded):
    episodes = maze.load(recorded).episodes
    assert isinstance(episodes, pd.DataFrame)
    assert episodes["episode_index"].tolist() == list(range(6))
    assert set(episodes["ending"]) == {"terminated"}
    assert episodes["Placed.count"].tolist() == 6 * [3.0]


def test_events_are_loaded_as_a_data_frame(recorded):
    run = maze.load(recorded)
    episodes = run.episodes
    assert isinstance(episodes, pd.DataFrame)
    assert run.event_types == ["Placed", "Reward"]
    placed, rewards = run.events("Placed"), run.events("Reward")
    assert placed["env_time"].tolist() == rewards["env_time"].tolist() == 6 * [0, 1, 2]
    assert placed["size"].tolist() == rewards["value"].tolist()
    assert placed["episode_id"].unique().tolist() == episodes["episode_id"].tolist()
    sums = rewards.groupby("episode_id")["value"].sum()
    assert sums.tolist() == pytest.approx(episodes["return"].tolist())


def test_a_trajectory_is_loaded_as_arrays(recorded):
    trajectory = maze.load(recorded).trajectory(4)
    select, place = (trajectory.by_step_key[key] for key in ("select", "place"))
    assert select.observations["sizes"].shape == (4, 4)
    assert select.steps.tolist() == [0, 2, 4, 6]
    assert select.actions["piece"].tolist() == place.observations["piece"].tolist()
    assert place.rewards.tolist() == pytest.approx(place.observations["size"][:, 0].tolist())
    assert trajectory.rewards.tolist() == [
        0.0 if step % 2 == 0 else place.rewards[step // 2] for step in range(6)
    ]
    with pytest.raises(AttributeError, match="by_step_key"):
        _ = trajectory.observations


def test_a_directory_is_iterated_over_in_episode_order(recorded):
    run = maze.load(recorded)
    assert [trajectory.episode_index for trajectory in run] == list(range(6))
    assert len(run) == 6


def test_what_was_configured_and_measured_is_loaded_too(recorded):
    run = maze.load(recorded)
    assert run.config["seeding"]["env_base_seed"] == 1
    assert run.statistics["statistics"]["n_steps"]["mean"] == 3.0


def test_loading_says_what_is_missing(recorded, tmp_path):
    with pytest.raises(OutputError, match="holds no run"):
        maze.load(tmp_path)
    with pytest.raises(OutputError, match="there is no such directory"):
        maze.load(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="there are 6 episodes, counted from 0"):
        maze.load(recorded).trajectory(6)
    with pytest.raises(OutputError, match="Did you mean 'Placed'"):
        maze.load(recorded).events("placed")
    maze.rollout("CartPole-v1", n_episodes=1, output_dir=tmp_path / "run")
    (tmp_path / "run" / "trajectory_data" / "steps_0.arrow").unlink()
    with pytest.raises(OutputError, match=r"episode 0 in .* is damaged: the file is missing"):
        maze.load(tmp_path / "run").trajectory(0)
    SequentialRolloutRunner(
        n_episodes=1, record_trajectory=False, output_dir=tmp_path / "events"
    ).run_with("CartPole-v1")
    with pytest.raises(OutputError, match="recorded no trajectory data"):
        maze.load(tmp_path / "events").trajectory(0)


# Rendering.


@pytest.mark.parametrize(
    "env",
    [
        "CartPole-v1",
        partial(GymMazeEnv, "CartPole-v1", render_mode="rgb_array"),
        partial(CountingEnv, n_steps=4, render_mode="rgb_array"),
        HoldsLockEnv(render_mode="rgb_array"),
    ],
    ids=["by id", "made with a render mode", "tiny", "an object that cannot be copied"],
)
def test_without_a_display_each_episode_is_filmed(env, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    runner = sequential(n_episodes=2, max_episode_steps=6, render=True, output_dir=tmp_path)
    result = runner.run_with(env)
    assert os.environ == before
    assert any("filmed to" in warning for warning in result.warnings)
    for row in result.episodes:
        path = tmp_path / "video" / f"episode_{row.episode_index:06d}.mp4"
        with av.open(str(path)) as video:
            frames = list(video.decode(video=0))
        assert len(frames) == row.n_steps + 1
        assert len({frame.to_ndarray().shape for frame in frames}) == 1


def test_rendering_does_not_change_what_is_played(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    options = {"n_episodes": 2, "max_episode_steps": 6}
    for render in (True, False):
        sequential(render=render, output_dir=tmp_path / str(render), **options).run_with(
            "CartPole-v1", seeding=SEEDING
        )
    assert_equal(content(tmp_path / "True"), content(tmp_path / "False"))


def test_an_environment_that_cannot_draw_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match="render"):
        sequential(render=True, output_dir=tmp_path).run_with(WalkEnv)


# Violations of the interface.


VIOLATIONS = {
    "a step of four values": (
        lambda o, r, te, tr, i: (o, r, te, i),
        r"step\(\) of ViolatingEnv returned 4 values .* has to return five",
    ),
    "a step of nothing": (
        lambda *_: None,
        r"step\(\) of ViolatingEnv returned a single NoneType.* has to return five",
    ),
    "an observation of another dtype": (
        lambda o, *rest: (o.astype(np.float64), *rest),
        r"observation.* has dtype float64, expected float32",
    ),
    "an observation of another shape": (
        lambda o, *rest: (o[:1], *rest),
        r"observation.* has shape \(1,\), expected \(2,\)",
    ),
    "an observation that is a list": (
        lambda o, *rest: (o.tolist(), *rest),
        r"observation.* \(list\), expected an array of dtype float32 and shape \(2,\)",
    ),
    "no observation": (
        lambda o, *rest: (None, *rest),
        r"observation.* is None \(NoneType\), expected an array",
    ),
    "an observation out of bounds": (
        lambda o, *rest: (o + np.float32(200), *rest),
        r"observation\[0\] is 20\d\.\d+, which is not in \[0\.0, 100\.0\]",
    ),
    "a reward that is an array": (
        lambda o, r, *rest: (o, np.array([r]), *rest),
        r"the reward is array.*\(ndarray\), expected a number",
    ),
    "a reward that is None": (
        lambda o, r, *rest: (o, None, *rest),
        r"the reward is None \(NoneType\), expected a number",
    ),
    "a reward beyond all floats": (
        lambda o, r, *rest: (o, 10**400, *rest),
        r"the reward is 10*\.* \(int\), expected a number",
    ),
    "a reward that is a text": (
        lambda o, r, *rest: (o, "1.0", *rest),
        r"the reward is '1\.0' \(str\), expected a number",
    ),
}
"""What is returned, and what is said of it."""


def where_it_happened(n_steps: object) -> str:
    return rf"in episode 4 \(env_seed=4, agent_seed=\d+\) after {n_steps} steps?: "


@here_and_there
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_step_that_is_none_stops_the_run_and_says_where_and_why(where, name, tmp_path):
    spoil, message = VIOLATIONS[name]
    runner = where.runner(n_episodes=8, output_dir=tmp_path)
    with pytest.raises(ContractError, match=where_it_happened("[23]") + ".*" + message):
        runner.run_with(partial(ViolatingEnv, spoil), seeding=numbered(8))
    assert_others_are_as_ever(tmp_path, n_steps=2, message=message)


def assert_others_are_as_ever(directory: Path, n_steps: int, message: str) -> None:
    """The offending episode is kept up to the offence; those around it are as they should be."""
    run = maze.load(directory)
    undisturbed = sequential(n_episodes=8, **UNRECORDED).run_with(WalkEnv, seeding=numbered(8))
    for row in run.table:
        if row.episode_index != 4:
            assert row.digest == undisturbed.episodes.row(row.episode_index).digest
    row = run.table.row(4)
    assert row.ending == "failed"
    assert re.search(message, row.error)
    assert row.n_steps in (n_steps, n_steps + 1)
    assert len(run.trajectory(4).observations) >= row.n_steps


@here_and_there
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o, r, te, *rest: (o, r, 1, *rest), r"terminated is 1 \(int\), expected a bool"),
        (
            lambda o, r, te, *rest: (o, r, np.array([True]), *rest),
            r"terminated is array.*expected a bool",
        ),
        (lambda o, r, te, tr, i: (o, r, te, 1, i), r"truncated is 1 \(int\), expected a bool"),
        (lambda o, r, te, tr, i: (o, r, te, "no", i), r"truncated is 'no' \(str\)"),
    ],
    ids=["terminated is 1", "terminated is an array", "truncated is 1", "truncated is a text"],
)
def test_flags_have_to_be_booleans(where, spoil, message):
    with pytest.raises(ContractError, match=where_it_happened(3) + message):
        where.runner(n_episodes=8, **UNRECORDED).run_with(
            partial(ViolatingEnv, spoil), seeding=numbered(8)
        )


@here_and_there
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o, info: o, r"returned 2 values|returned a single ndarray"),
        (lambda o, info: (o, info, 3), r"returned 3 values.* has to return two values"),
        (lambda o, info: (o, None), r"returned 2 values \(ndarray, NoneType\).*a dictionary"),
        (lambda o, info: (o[:1], info), r"has shape \(1,\), expected \(2,\)"),
    ],
    ids=["only an observation", "three values", "no info", "wrong shape"],
)
def test_a_reset_that_is_none_stops_the_run_too(where, spoil, message):
    start = r"environment, in episode 4 \(env_seed=4, agent_seed=\d+\) in reset: "
    with pytest.raises(ContractError, match=start + ".*" + message):
        where.runner(n_episodes=8, **UNRECORDED).run_with(
            partial(ViolatingEnv, spoil, "reset"), seeding=numbered(8)
        )


@here_and_there
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o, *rest: ({"a": o["a"]}, *rest), r".*missing: \['b'\]"),
        (lambda o, *rest: ({**o, "c": 1}, *rest), r".*not in the space: \['c'\]"),
        (lambda o, *rest: ({**o, "b": 3}, *rest), r"observation\['b'\] is 3, .* \[0, 2\]"),
        (lambda o, *rest: ({**o, "b": 1.0}, *rest), r"observation\['b'\] is 1.0 \(float\)"),
        (lambda o, *rest: (o["a"], *rest), r"observation is array.*expected a dictionary"),
    ],
    ids=["missing key", "extra key", "out of range", "float", "no dictionary"],
)
def test_dictionary_observations_are_checked_by_key(where, spoil, message):
    with pytest.raises(ContractError, match=where_it_happened(3) + message):
        where.runner(n_episodes=8, **UNRECORDED).run_with(
            partial(ViolatingDictEnv, spoil), seeding=numbered(8)
        )


def first_number(seed: int) -> float:
    return float(WalkEnv().reset(seed=seed)[0][0])


@here_and_there
@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"action": 3}, r"action is 3, which is not in \[0, 2\]"),
        ({"action": 1.0}, r"action is 1\.0 \(float\), expected an integer"),
        ({"action": np.array([1])}, r"action is array.*expected an integer"),
        ({"turn": 1}, r"action has the keys \['turn'\], expected \['action'\]"),
        ({"action": 1, "turn": 1}, r".*not in the space: \['turn'\]"),
        (1, r"action is 1 \(int\), expected a dictionary"),
        (None, r"action is None \(NoneType\), expected a dictionary"),
    ],
    ids=str,
)
def test_an_action_that_is_none_stops_the_run_and_blames_the_policy(
    where, action, message, tmp_path
):
    policy = SpoilingPolicy(action, first_number(4))
    start = "policy, " + where_it_happened(2)
    with pytest.raises(ContractError, match=start + message):
        where.runner(n_episodes=8, output_dir=tmp_path).run_with(
            WalkEnv, policy, seeding=numbered(8)
        )
    fine = sequential(n_episodes=8, **UNRECORDED).run_with(
        WalkEnv, SpoilingPolicy({"action": 0}, 0.0), seeding=numbered(8)
    )
    for row in maze.load(tmp_path).table:
        if row.episode_index != 4:
            assert row.digest == fine.episodes.row(row.episode_index).digest
        else:
            assert (row.ending, row.n_steps) == ("failed", 2)
            assert len(maze.load(tmp_path).trajectory(4).observations) == 3


@in_both_runners
def test_a_batch_with_too_few_actions_is_refused(where):
    runner = where.runner(n_lanes=4, **UNRECORDED)
    message = "act_batch of ShortBatches returned 3 actions for 4 observations"
    with pytest.raises(ContractError, match=message):
        runner.run_with(WalkEnv, ShortBatches())


# What happens then is an option.


A_NAN = lambda o, *rest: (np.array([np.nan, 1.0], np.float32), *rest)  # noqa: E731

NANS = {
    "reward": (
        partial(ViolatingEnv, lambda o, r, *rest: (o, float("nan"), *rest)),
        "the reward is NaN",
    ),
    "observation": (partial(ViolatingEnv, A_NAN), "is NaN"),
    "unbounded observation": (partial(ViolatingUnboundedEnv, A_NAN), "is NaN"),
}


@here_and_there
@pytest.mark.parametrize("of", NANS)
def test_by_default_a_nan_fails_its_episode(where, of, tmp_path):
    env, message = NANS[of]
    result = where.runner(n_episodes=8, output_dir=tmp_path).run_with(env, seeding=numbered(8))
    assert result.endings == {"terminated": 7, "truncated": 0, "failed": 1}
    (row,) = result.failures
    assert row.episode_index == 4
    assert message in row.error
    assert result.n_nan == row.n_nan == 1
    assert row.n_steps == 3
    assert np.isfinite(result.mean_return)
    run = open_run(result)
    stored = run.trajectory(4)
    assert np.isnan(stored.rewards[2] if of == "reward" else stored.observations[3, 0])


@here_and_there
@pytest.mark.parametrize("of", NANS)
def test_a_nan_can_be_counted_only(where, of, tmp_path):
    env, _ = NANS[of]
    result = where.runner(n_episodes=8, on_nan="count", output_dir=tmp_path).run_with(
        env, seeding=numbered(8)
    )
    assert result.endings == {"terminated": 8, "truncated": 0, "failed": 0}
    assert result.n_nan == 1
    assert [row.n_nan for row in result.episodes] == [0, 0, 0, 0, 1, 0, 0, 0]
    stored = open_run(result).trajectory(4)
    assert len(stored) == 5
    assert np.isnan(stored.rewards[2] if of == "reward" else stored.observations[3, 0])


@here_and_there
@pytest.mark.parametrize("of", NANS)
def test_a_nan_can_stop_the_run(where, of):
    env, message = NANS[of]
    with pytest.raises((ContractError, RunStoppedError), match=message):
        where.runner(n_episodes=8, on_nan="stop", **UNRECORDED).run_with(env, seeding=numbered(8))


@here_and_there
@pytest.mark.parametrize(
    ("option", "endings"), [("fail", [7, 1]), ("allow", [8, 0])], ids=["fail", "allow"]
)
def test_a_value_out_of_bounds_can_fail_its_episode_or_be_allowed(where, option, endings, tmp_path):
    spoil, message = VIOLATIONS["an observation out of bounds"]
    result = where.runner(n_episodes=8, on_out_of_space=option, output_dir=tmp_path).run_with(
        partial(ViolatingEnv, spoil), seeding=numbered(8)
    )
    assert [result.endings["terminated"], result.endings["failed"]] == endings
    stored = open_run(result).trajectory(4)
    assert stored.observations[3, 0] > 200
    if option == "fail":
        assert re.search(message, result.failures[0].error)
        assert len(stored) == 3
    else:
        assert len(stored) == 5


@here_and_there
@pytest.mark.parametrize("option", ["stop", "fail", "allow"])
def test_so_can_an_action_out_of_bounds(where, option, tmp_path):
    def push(observation):
        return np.array([5.0], np.float32)

    runner = where.runner(
        n_episodes=3, max_episode_steps=4, on_out_of_space=option, output_dir=tmp_path
    )
    if option == "stop":
        message = (
            r"policy, in episode 0 .* after 0 steps: action\[0\] is 5\.0, which is not in \[-2"
        )
        with pytest.raises(ContractError, match=message):
            runner.run_with("Pendulum-v1", push)
        return
    result = runner.run_with("Pendulum-v1", push)
    assert result.endings["failed"] == (3 if option == "fail" else 0)
    for trajectory in open_run(result):
        assert set(trajectory.actions.ravel().tolist()) == {5.0}
        assert len(trajectory.actions) == (1 if option == "fail" else 4)


@here_and_there
def test_an_error_can_stop_the_run(where, tmp_path):
    runner = where.runner(n_episodes=8, on_error="stop", output_dir=tmp_path)
    with pytest.raises(
        RunStoppedError, match=r"episode 4 .*(?s:.)*ValueError: the pole broke"
    ) as e:
        runner.run_with(partial(FaultyEnv, raise_error, {4}), seeding=numbered(8))
    result = e.value.result
    assert isinstance(result, RolloutResult)
    assert result.endings["failed"] == 1
    assert not result.request_met
    assert "the pole broke" in result.stopped_because
    assert len(maze.load(tmp_path)) == result.n_done


class OnlyOneByOne(StructuredPolicy):
    """Its batched form is broken, and its plain one is not."""

    def act(self, observation, actor, memory, deterministic):
        return {"action": 0}

    def act_batch(self, observations, actors, memories, deterministic):
        raise NotImplementedError("batches")


def test_a_batched_form_that_fails_where_the_plain_one_does_not_is_told(tmp_path):
    result = SequentialRolloutRunner(n_episodes=3, n_lanes=2, output_dir=tmp_path / "run").run_with(
        "CartPole-v1", OnlyOneByOne()
    )
    assert result.request_met
    assert len(result.warnings) == 1
    assert "act_batch of OnlyOneByOne raised NotImplementedError: batches" in result.warnings[0]
