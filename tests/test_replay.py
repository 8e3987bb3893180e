"""Playing recorded episodes again: from their seeds and actions, proven by their digests."""

import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import maze
from maze.cli import maze as maze_command
from maze.core.agent.policy import StructuredPolicy
from maze.core.episode import Failure
from maze.core.errors import ConfigError, OutputError
from maze.core.rollout.difference import first_difference
from maze.core.rollout.replay import play_episodes, replay_episode
from maze.core.rollout.run_directory import RunDirectory
from maze.core.rollout.setup import RunSetup
from maze.core.rollout.trust import (
    PRE_PROCESSORS_OF_MAZE,
    TARGETS_OF_CONFIGS,
    WRAPPERS_OF_MAZE,
    check_trust,
    what_would_be_imported,
)
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from tests.envs import (
    FaultyEnv,
    GlobalGeneratorsEnv,
    RememberingEchoEnv,
    TwoStepEnv,
    WalkEnv,
    raise_error,
)
from tests.policies import FailsThirdTime
from tests.runs import (
    numbered,
    open_run,
    parallel,
    rewrite_journal,
    sequential,
    with_config,
)

PACKAGE = Path(maze.__file__).parent


def record(tmp_path: Path, env: Any, policy: Any = None, **options: Any) -> RunDirectory:
    wrappers = options.pop("wrappers", None)
    options = {"n_episodes": 3, "max_episode_steps": 50, **options}
    runner = sequential(output_dir=tmp_path / "run", **options)
    return open_run(runner.run_with(env, policy, wrappers, seeding=numbered(options["n_episodes"])))


class UrandomEnv(WalkEnv):
    """Draws its third observation from the operating system."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        if self.count == 3:
            observation = (np.frombuffer(os.urandom(8), np.uint32) / 2**26).astype(np.float32)
        return (observation, *rest)


class NowRewardsMoreEnv(WalkEnv):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return (observation, reward + (self.count == 4), *rest)


class NowEndsEarlierEnv(WalkEnv):
    def __init__(self) -> None:
        super().__init__(n_steps=4)


class NowGoesOnEnv(WalkEnv):
    def __init__(self) -> None:
        super().__init__(n_steps=9)


class NowObservesMoreEnv(WalkEnv):
    observation_space = spaces.Box(0.0, 100.0, (3,), np.float32)

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return np.append(observation, np.float32(0)), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return (np.append(observation, np.float32(0)), *rest)


class NowTurnsDifferEnv(TwoStepEnv):
    """Places the second piece without selecting it."""

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self._time == 1 and self._piece is None:
            self._piece = 0
            return (self._observe(), *result[1:])
        return result


class NaNEnv(WalkEnv):
    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return (observation * np.nan if self.count == 3 else observation, *rest)


class Other(StructuredPolicy):
    """Acts 0, and from the fourth step on something else."""

    def __init__(self, later: int) -> None:
        self.later = later

    def start_episode(self, seed: int) -> list[int]:
        return []

    def act(self, observation: Any, actor: Any, memory: Any, deterministic: bool) -> Any:
        memory.append(0)
        return {"action": self.later if len(memory) > 3 else 0}


# It is the recorded episode.

RAGGED = RememberingEchoEnv(
    spaces.Dict(
        {
            "text": spaces.Text(5),
            "items": spaces.Sequence(spaces.Box(-1, 1, (2,), np.float32)),
            "graph": spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
        }
    ),
    spaces.Dict(
        {
            "one": spaces.OneOf([spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)]),
            "pair": spaces.Tuple(
                [spaces.MultiBinary(3), spaces.Box(-1, 1, (), np.float32), spaces.Text(4)]
            ),
            "items": spaces.Sequence(spaces.Discrete(4)),
        }
    ),
)


@pytest.mark.parametrize(
    "env",
    ["CartPole-v1", "LunarLander-v3", "Pendulum-v1", TwoStepEnv, GlobalGeneratorsEnv],
    ids=["discrete", "box2d", "continuous", "sub-steps", "global generators"],
)
def test_a_replay_is_the_recorded_episode(env, tmp_path):
    run = record(tmp_path, env)
    for row in run.table:
        replay = replay_episode(run, row.episode_index, trust=True)
        assert replay.is_equal
        assert replay.acted_by == "recording"
        assert replay.episode.digest == row.digest
        assert replay.episode.episode_return == row.episode_return
        assert replay.episode.ending == row.ending
        assert row.digest in replay.explanation


def test_ragged_values_are_replayed(tmp_path):
    run = record(tmp_path, RAGGED)
    assert replay_episode(run, 1, env=lambda: RAGGED, trust=True).is_equal


def test_an_environment_may_write_into_the_actions_it_gets(tmp_path):
    run = record(tmp_path, WritesIntoActionEnv)
    assert replay_episode(run, 0, trust=True).is_equal


class WritesIntoActionEnv(WalkEnv):
    action_space = spaces.Box(0.0, 1.0, (2,), np.float32)

    def step(self, action: Any) -> Any:
        scaled = np.floor(action * 2.5)
        action.fill(0.5)
        return super().step(scaled[0])


def test_wrappers_limit_and_processes_of_the_run_are_those_of_the_replay(tmp_path):
    runner = parallel(n_episodes=4, max_episode_steps=7, output_dir=tmp_path)
    wrappers = {RewardScalingWrapper: {"scale": 0.5}}
    run = open_run(runner.run_with("CartPole-v1", None, wrappers, seeding=numbered(4)))
    replay = replay_episode(run, 2)
    assert replay.is_equal
    assert replay.episode.truncated_by == "runner"
    assert replay.episode.episode_return == 3.5


def test_a_run_of_the_command_line_is_replayed(tmp_path):
    command = [sys.executable, "-m", "maze.cli.maze_run", "runner=sequential"]
    options = ["runner.n_episodes=2", "env.name=Acrobot-v1", "hydra.run.dir=run"]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    assert replay_episode(maze.load(tmp_path / "run"), 1).is_equal


def test_without_recorded_actions_the_policy_plays(tmp_path):
    run = record(tmp_path, WalkEnv, record_trajectory=False)
    replay = replay_episode(run, 1, trust=True)
    assert replay.is_equal
    assert replay.acted_by == "policy"


def test_without_recorded_actions_another_policy_is_noticed_by_the_digest(tmp_path):
    run = record(tmp_path, WalkEnv, Other(0), record_trajectory=False)
    difference = replay_episode(run, 1, trust=True, policy=Other(1)).first_difference
    assert difference is not None
    assert (difference.kind, difference.step) == ("digest", None)


def test_a_policy_that_is_asked_again_is_told_from_an_environment_that_answers_otherwise(tmp_path):
    run = record(tmp_path, WalkEnv, Other(0))
    assert replay_episode(run, 0, trust=True, policy=Other(0), acted_by="policy").is_equal
    other = replay_episode(run, 0, trust=True, policy=Other(2), acted_by="policy")
    assert str(other.first_difference) == "action at step 3: action is 2, expected 0"
    assert other.first_difference is not None
    assert other.first_difference.whose == "policy"
    changed = replay_episode(
        run, 0, trust=True, env=NowRewardsMoreEnv, policy=Other(0), acted_by="policy"
    )
    assert changed.first_difference is not None
    assert changed.first_difference.whose == "environment"


def test_the_global_generators_are_left_as_they_were(tmp_path):
    run = record(tmp_path, GlobalGeneratorsEnv)
    np.random.seed(7)
    expected = np.random.RandomState(7).random_sample()
    replay_episode(run, 0, trust=True)
    assert np.random.random_sample() == expected


# It is not.


def test_an_environment_that_draws_from_elsewhere_is_said_to_differ(tmp_path):
    run = record(tmp_path, UrandomEnv)
    replay = replay_episode(run, 0, trust=True)
    assert not replay.is_equal
    difference = replay.first_difference
    assert difference is not None
    assert (difference.kind, difference.step, difference.whose) == ("observation", 3, "environment")
    assert re.search(
        r"observation at step 3: observation\[[01]\] is [\d.]+, expected [\d.]+", str(replay)
    )


@pytest.mark.parametrize(
    ("changed", "kind", "step", "text"),
    [
        (NowRewardsMoreEnv, "reward", 3, r"\d, expected \d"),
        (NowEndsEarlierEnv, "ending", 4, "terminated, expected no end yet"),
        (NowGoesOnEnv, "ending", 5, "no end yet, expected terminated"),
        (NowObservesMoreEnv, "observation", 0, r"shape \(3,\), expected .* shape \(2,\)"),
        (partial(FaultyEnv, raise_error, {0}), "ending", 2, "ValueError.*, expected no end yet"),
    ],
)
def test_a_changed_environment_is_said_to_differ(changed, kind, step, text, tmp_path):
    run = record(tmp_path, WalkEnv)
    replay = replay_episode(run, 0, trust=True, env=changed)
    difference = replay.first_difference
    assert difference is not None
    assert (difference.kind, difference.step, difference.whose) == (kind, step, "environment")
    assert re.search(text, str(difference))


def test_a_change_of_turns_is_said_to_differ(tmp_path):
    run = record(tmp_path, TwoStepEnv)
    difference = replay_episode(run, 0, trust=True, env=NowTurnsDifferEnv).first_difference
    assert difference is not None
    assert (difference.kind, difference.step) == ("actor", 2)
    assert "'place', expected agent 0 of step key 'select'" in str(difference)


def test_other_actions_than_the_environment_takes_are_refused(tmp_path):
    run = record(tmp_path, WalkEnv)
    with pytest.raises(ConfigError, match="not of the environment's action space"):
        replay_episode(run, 0, trust=True, env="Pendulum-v1")


def test_differences_are_found_between_two_played_episodes(tmp_path):
    run = record(tmp_path, TwoStepEnv)
    job = RunSetup.from_config(run.config).job()
    spec = RunSetup.from_config(run.config).spec(1)
    one, same = (next(play_episodes(job, [spec])) for _ in range(2))
    (other,) = play_episodes(job, [spec._replace(agent_seed=spec.agent_seed + 1)])
    assert first_difference(one, same) is None
    assert first_difference(run.trajectory(1), one) is None
    difference = first_difference(one, other)
    assert difference is not None
    assert difference.whose == "policy"
    assert first_difference(run.trajectory(1), other) == difference


def test_a_recording_that_was_changed_afterwards_is_found(tmp_path):
    run = record(tmp_path, WalkEnv)

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["kind"] == "episodes":
            fields["digest"] = {"all": "0" * 32}
        return fields

    run = rewrite_journal(run.path, change)
    (run.path / "episodes.parquet").write_bytes(b"something else")
    with pytest.warns(UserWarning, match="does not fit its checksum"):
        assert {row.digest for row in run.table} == {"0" * 32}
    replay = replay_episode(run, 0, trust=True)
    assert replay.first_difference is not None
    assert replay.first_difference.kind == "digest"


# Failed episodes fail again.


@pytest.mark.parametrize(
    ("env", "policy"),
    [
        (partial(FaultyEnv, raise_error, {1}), None),
        (partial(FaultyEnv, raise_error, {1}, step=-1), None),
        (NaNEnv, None),
        (TwoStepEnv, FailsThirdTime),
    ],
    ids=["step", "reset", "NaN", "policy"],
)
@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_failed_episode_fails_again_in_the_same_way(env, policy, is_recorded, tmp_path):
    run = record(tmp_path, env, policy, record_trajectory=is_recorded)
    row = run.table.row(1)
    assert row.failure is not None
    replay = replay_episode(run, 1, env=env, trust=True)
    assert replay.is_equal
    assert replay.episode.failure is not None
    assert replay.episode.failure.exception_type == row.failure.exception_type


def test_a_failed_episode_that_does_not_fail_any_more_is_said_to_differ(tmp_path):
    run = record(tmp_path, partial(FaultyEnv, raise_error, {1}))
    difference = replay_episode(run, 1, env=WalkEnv, trust=True).first_difference
    assert difference is not None
    assert (difference.kind, difference.step) == ("ending", 2)
    assert "no end yet, expected failed (environment after 2 steps: ValueError" in str(difference)


def with_failure(run: RunDirectory, index: int, failure: Failure) -> RunDirectory:
    """Record that an episode failed, which was not recorded so."""

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["kind"] != "episodes":
            return fields if fields["kind"] != "finished" else {"kind": "sorted"}
        n = len(fields["episode_index"])
        values = {"ending": "failed", "digest": "", "failure": asdict(failure)}
        for name, value in {**values, "error": str(failure)}.items():
            column = fields[name]
            column = [column["all"]] * n if isinstance(column, dict) else column
            column[fields["episode_index"].index(index)] = value
            fields[name] = column
        return fields

    (run.path / "episodes.parquet").unlink()
    return rewrite_journal(run.path, change)


class HangsEnv(FaultyEnv):
    """Ends its process in the third step of the episode with seed 1."""

    def __init__(self) -> None:
        super().__init__(partial(os.kill, os.getpid(), signal.SIGKILL), {1})


def test_an_episode_that_hung_is_played_up_to_there_and_not_beyond(tmp_path):
    failure = Failure("step", 2, "DeadlineExceeded", "the step took longer than 3 s", "")
    run = with_failure(record(tmp_path, WalkEnv), 1, failure)
    replay = replay_episode(run, 1, env=HangsEnv, trust=True)
    assert not replay.is_equal
    assert replay.first_difference is None
    assert len(replay.episode.rewards) == 2
    assert "it hung after 2 steps, and is not played beyond step 2" in replay.explanation


def test_an_episode_that_ended_its_process_before_any_step_is_not_played_at_all(tmp_path):
    failure = Failure("worker", 0, "WorkerDied", "was killed by SIGKILL", "")
    run = with_failure(record(tmp_path, WalkEnv), 1, failure)
    with pytest.raises(ConfigError, match=r"it ended its process.*--beyond"):
        replay_episode(run, 1, trust=True)
    replay = replay_episode(run, 1, trust=True, beyond=True)
    assert str(replay.first_difference) == (
        "ending at step 5: terminated, expected failed (worker: WorkerDied: was killed by SIGKILL)"
    )


def test_a_worker_that_died_is_no_danger(tmp_path):
    runner = parallel(n_episodes=2, max_attempts=1, output_dir=tmp_path)
    env = partial(FaultyEnv, partial(os._exit, 3), {1})
    run = open_run(runner.run_with(env, seeding=numbered(2)))
    assert run.table.row(1).error.startswith("worker: ")
    with pytest.raises(ConfigError, match="is not played again"):
        replay_episode(run, 1, env=env, trust=True)


def test_an_episode_that_is_not_there_is_an_error(tmp_path):
    run = record(tmp_path, WalkEnv)
    with pytest.raises(OutputError, match="there is no episode 3"):
        replay_episode(run, 3, trust=True)


# From a config.


def test_the_plan_of_a_recorded_run_is_known(tmp_path):
    run = record(tmp_path, WalkEnv)
    setup = RunSetup.from_config(run.config)
    rows = [(row.episode_index, row.env_seed, row.agent_seed) for row in run.table]
    assert [tuple(spec) for spec in setup.plan(3)] == rows
    assert tuple(setup.spec(2)) == rows[2]
    with pytest.raises(ConfigError, match="there is no episode 3 in a plan of 3"):
        setup.spec(3)


def test_a_runner_is_built_again_with_changes(tmp_path):
    setup = RunSetup.from_config(record(tmp_path, WalkEnv, on_nan="count").config)
    runner = setup.build_runner(n_episodes=7)
    assert (runner.n_episodes, runner.on_nan, runner.max_episode_steps) == (7, "count", 50)


@pytest.mark.parametrize(
    ("env", "policy", "what"),
    [
        (lambda: WalkEnv(), None, "environment .*env="),
        (partial(WalkEnv, n_steps=4), None, "environment .*env="),
        (WalkEnv, lambda observation: 0, "policy .*policy="),
    ],
    ids=["lambda", "partial", "policy"],
)
def test_what_was_given_as_an_object_has_to_be_passed(env, policy, what, tmp_path):
    run = record(tmp_path, env, policy, record_trajectory=False)
    with pytest.raises(ConfigError, match=f"the {what}"):
        replay_episode(run, 0, trust=True)
    assert replay_episode(run, 0, env=env, policy=policy, trust=True).is_equal


def test_an_object_of_which_only_the_class_was_kept_is_told_of(tmp_path):
    run = record(tmp_path, FaultyEnv(raise_error, {1}))
    with pytest.raises(ConfigError) as caught:
        replay_episode(run, 0, trust=True)
    assert any("only the path tests.envs.FaultyEnv was kept" in n for n in caught.value.__notes__)


# Trust.

HARMLESS: Mapping[str, Any] = {
    "runner": {"_target_": "maze.core.rollout.sequential_rollout_runner.SequentialRolloutRunner"},
    "env": {
        "_target_": "maze.core.wrappers.maze_gym_env_wrapper.make_gym_maze_env",
        "name": "CartPole-v1",
    },
    "policy": {"_target_": "maze.core.agent.random_policy.RandomPolicy"},
    "wrappers": {"maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper": {"scale": 0.1}},
    "model": {},
    "seeding": {
        "env_base_seed": 1,
        "agent_base_seed": 2,
        "explicit_env_seeds": {"_target_": "maze.core.seeding.seed_range", "n_seeds": 5},
    },
}


def test_the_classes_of_mazes_own_configs_are_harmless():
    # Those of Hydra are about the command line, and not among the groups of a run.
    paths = [path for path in (PACKAGE / "conf").rglob("*.yaml") if "hydra" not in path.parts]
    files = [path.read_text() for path in paths]
    named = {name for text in files for name in re.findall(r"_target_: ([\w.]+)", text)}
    bundled = {name for name in named if name.startswith("maze_envs.")}
    # What these load may be a pickle, or code of another kind.
    foreign = {name for name in named if name.startswith("maze.train.foreign.")}
    assert named - PRE_PROCESSORS_OF_MAZE - bundled - foreign == TARGETS_OF_CONFIGS
    asked = {"policy": [{"_target_": name} for name in foreign]}
    assert set(what_would_be_imported(asked)) == foreign
    assert what_would_be_imported({"env": [{"_target_": name} for name in bundled]}) == []
    assert what_would_be_imported(HARMLESS) == []
    check_trust(HARMLESS, trust=False)


def test_the_wrappers_of_maze_are_harmless():
    files = (PACKAGE / "core" / "wrappers").glob("*.py")
    classes = {
        f"maze.core.wrappers.{path.stem}.{name}"
        for path in files
        if path.stem not in ("wrapper", "maze_gym_env_wrapper")
        for name in re.findall(r"^class (\w+Wrapper)\(", path.read_text(), re.MULTILINE)
    }
    assert classes == WRAPPERS_OF_MAZE
    preprocessors = PACKAGE / "core" / "wrappers" / "preprocessors.py"
    names = re.findall(r"^class ([A-Z]\w+)\(_?\w*PreProcessor\)", preprocessors.read_text(), re.M)
    module = "maze.core.wrappers.preprocessors"
    assert {f"{module}.{name}" for name in names} == PRE_PROCESSORS_OF_MAZE


@pytest.mark.parametrize("env", ["CartPole-v1", "LunarLander-v3", "CartPole"])
def test_the_environments_of_gymnasium_are_harmless(env):
    assert what_would_be_imported({"env": env}) == []


RECURSIVE: list[Any] = [{"_target_": "os.system"}]
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    ("group", "value", "listed"),
    [
        ("env", "os:x", ["os:x"]),
        ("env", "os.system", ["os.system"]),
        ("env", "SomebodysOwn-v0", ["SomebodysOwn-v0"]),
        ("env", {"_target_": "os.system", "command": "touch canary"}, ["os.system"]),
        ("env", {**HARMLESS["env"], "name": "canary:x"}, ["canary:x"]),
        ("env", {**HARMLESS["env"], "kwargs": {"a": [{"_target_": "canary.X"}]}}, ["canary.X"]),
        (
            "env",
            {"_target_": "maze.core.wrappers.maze_gym_env_wrapper.GymMazeEnv", "env": "canary:x"},
            ["canary:x"],
        ),
        (
            "env",
            {"_target_": "maze.core.factory.call", "target": {"_target_": "canary.X"}},
            ["maze.core.factory.call", "canary.X"],
        ),
        ("env", {"_target_": "functools.partial", "func": "canary.X"}, ["functools.partial"]),
        ("env", {"_target_": "maze_envs.os"}, ["maze_envs.os"]),
        ("env", {"_target_": "maze.core.rollout.job.os.system"}, None),
        ("env", {"_target_": ["canary.X"]}, ["['canary.X']"]),
        ("env", RECURSIVE, ["os.system"]),
        ("policy", "canary", ["canary"]),
        ("policy", "canary.act", ["canary.act"]),
        (
            "policy",
            {
                "_target_": "maze.core.agent.callable_policy.CallablePolicy",
                "function": "canary.act",
            },
            ["maze.core.agent.callable_policy.CallablePolicy", "canary.act"],
        ),
        (
            "policy",
            {
                "_target_": "maze.core.agent.flat_policies.FlatPolicies",
                "policies": {0: {"_target_": "canary.X"}},
            },
            ["canary.X"],
        ),
        ("wrappers", {"canary.X": {}}, ["canary.X"]),
        ("wrappers", ["canary.X"], ["canary.X"]),
        ("wrappers", [{"canary.X": {}}], ["canary.X"]),
        ("wrappers", [{"_target_": "canary.X"}], ["canary.X"]),
        ("wrappers", {"_target_": "canary.X"}, ["_target_", "canary.X"]),
        ("runner", {"_target_": "canary.X"}, ["canary.X"]),
        ("runner", {**HARMLESS["runner"], "wrappers": ["canary.X"]}, ["canary.X"]),
        ("model", {"network": {"_target_": "canary.X"}}, ["canary.X"]),
        ("seeding", {"explicit_env_seeds": {"_target_": "canary.X"}}, ["canary.X"]),
    ],
)
def test_nothing_is_imported_before_one_agrees(group, value, listed, tmp_path, monkeypatch):
    """The module ``canary`` leaves a file when it is imported."""
    listed = [value["_target_"]] if listed is None else listed
    (tmp_path / "canary.py").write_text(f"open({str(tmp_path / 'sang')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = {**HARMLESS, group: value}
    assert what_would_be_imported(config) == listed
    with pytest.raises(ConfigError, match=re.escape(f"\n  {listed[0]}\n") + "|--trust"):
        check_trust(config, trust=False)
    RunSetup.from_config(config)
    assert not (tmp_path / "sang").exists()
    assert not (tmp_path / "canary").exists()


REPLAY, VIDEO = ("replay", "--episode", "0"), ("video", "--best", "1")


@pytest.mark.parametrize(
    ("command", "hostile"),
    [
        (REPLAY, {"env": "canary:x"}),
        (REPLAY, {"env": {"_target_": "canary.X"}}),
        (VIDEO, {"env": {"_target_": "canary.X"}}),
        (VIDEO, {"wrappers": {"canary.X": {}}}),
        (REPLAY, {"runner": {"_target_": "canary.X"}}),
        (REPLAY, {"env": {"_target_": "os.system", "command": "touch sang"}}),
    ],
)
def test_the_commands_import_nothing_that_came_with_the_directory(command, hostile, tmp_path):
    run = record(tmp_path, "CartPole-v1")
    (run.path / "canary.py").write_text("open('sang', 'w')")
    with_config(run.path, hostile)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "maze.cli.maze", *command, "."],
        cwd=run.path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "--trust" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run.path / "sang").exists()


def test_what_came_with_the_directory_is_imported_if_one_agrees(tmp_path):
    run = record(tmp_path, "CartPole-v1")
    (run.path / "canary.py").write_text("open('sang', 'w')")
    with_config(run.path, {"env": "canary:x-v0"})
    command = ["-P", "-m", "maze.cli.maze", "video", ".", "--trust"]
    done = subprocess.run([sys.executable, *command], cwd=run.path, capture_output=True, text=True)
    assert "there is no environment 'canary:x-v0'" in done.stderr
    assert (run.path / "sang").exists()


def test_what_a_config_names_does_nothing_to_a_terminal():
    with pytest.raises(ConfigError) as caught:
        check_trust({"env": {"_target_": "a\x1b[2Jb"}}, trust=False)
    assert "\x1b" not in str(caught.value)


def test_recorded_actions_need_no_trust_in_the_policy(tmp_path):
    run = record(tmp_path, "CartPole-v1")
    with_config(run.path, {"policy": "canary.act"})
    assert replay_episode(maze.load(run.path), 0).is_equal


# The command.


def call(*arguments: str) -> int:
    return maze_command.main(list(arguments))


@pytest.fixture(autouse=True)
def _restore_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_the_command_proves_an_episode_and_films_it(tmp_path, capsys):
    run = record(tmp_path, "CartPole-v1")
    assert call("replay", str(run.path), "--episode", "1") == 0
    first, second = capsys.readouterr().out.splitlines()
    row = run.table.row(1)
    path = run.path / "video" / "episode_000001.mp4"
    assert first == (
        f"episode 1: {row.n_steps} steps, return {row.n_steps}, terminated; filmed to {path}"
    )
    assert second == f"it is the recorded episode: the digest is {row.digest}, as recorded"
    assert path.is_file()


def test_the_command_tells_of_a_difference(tmp_path, capsys):
    run = record(tmp_path, UrandomEnv)
    assert call("replay", str(run.path), "--episode", "1", "--trust") == 1
    printed = capsys.readouterr().out
    assert "it differs from the recorded episode. observation at step 3" in printed
    assert "it is the environment that did something else" in printed


def draws_from_where_the_environment_does(observation: Any) -> int:
    return int(np.random.randint(3))


def test_the_policy_can_be_asked_again(tmp_path, capsys):
    run = record(tmp_path, GlobalGeneratorsEnv, draws_from_where_the_environment_does)
    arguments = ["replay", str(run.path), "--episode", "1", "--trust"]
    assert call(*arguments) == 1
    assert call(*arguments, "--ask-policy") == 0


def test_what_cannot_be_shown_is_proven_all_the_same(tmp_path, capsys):
    run = record(tmp_path, TwoStepEnv)
    assert call("replay", str(run.path), "--episode", "1", "--trust") == 0
    assert "it cannot be shown: " in capsys.readouterr().out
    assert not (run.path / "video").exists()
    path = str(tmp_path / "film.mp4")
    assert call("replay", str(run.path), "--episode", "1", "--trust", "--video", path) == 2


def test_with_a_display_there_is_a_window(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    run = record(tmp_path, "CartPole-v1", max_episode_steps=5)
    assert call("replay", str(run.path), "--episode", "1") == 0
    assert "; shown in a window" in capsys.readouterr().out
    assert not (run.path / "video").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "{run}", "--episode", "9"], "there is no episode 9"),
        (["replay", "{run}", "--episode", "-1"], "usage: maze replay"),
        (["replay", "{run}", "--episode", "1", "--step", "2"], "give both"),
        (["replay", "{run}", "--episode", "1", "--pdb"], "did not fail: .* --step N"),
        (["replay", "{run}", "--episode", "1", "--video", "a.avi"], r"\.mp4 or \.gif"),
        (["replay", "{run}/nowhere", "--episode", "1"], "holds no run of Maze"),
        (["reply", "{run}"], "invalid choice: 'reply'"),
        ([], "usage: maze"),
    ],
)
def test_bad_input_is_told_in_one_message(arguments, message, tmp_path, capsys):
    run = record(tmp_path, "CartPole-v1")
    assert call(*(argument.format(run=run.path) for argument in arguments)) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed)
    assert "Traceback" not in printed


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert call("replay", str(tmp_path), "--episode", "1", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_and_version_come_without_loading_anything(tmp_path):
    for option in ("--help", "--version"):
        code = f"import sys; sys.argv[1:] = ['{option}']; import maze.cli.maze as m; m.main();"
        tell = "print(sorted({'numpy', 'gymnasium', 'hydra', 'pyarrow', 'av'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True)
        assert done.stdout.endswith("[]\n")
        assert "maze" in done.stdout


# The debugger.

FLAKY = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces

class FlakyEnv(gym.Env):
    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)
    place = "{place}"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.place == "reset" and seed == 1:
            raise RuntimeError("no licence")
        self.count, self.seed = 0, seed
        return np.zeros(1, np.float32), {{}}

    def step(self, action):
        self.count += 1
        if self.place == "step" and self.count == 5 and self.seed == 1:
            raise RuntimeError("no licence")
        if self.place == "nan" and self.count == 5 and self.seed == 1:
            return np.full(1, np.nan, np.float32), 1.0, False, False, {{}}
        return np.full(1, self.count, np.float32), 1.0, self.count == 8, False, {{}}

def act(observation):
    if FlakyEnv.place == "policy" and observation[0] == 4:
        raise RuntimeError("no idea")
    return 1
"""


@pytest.fixture
def debug(tmp_path, monkeypatch):
    """Record a run that fails in episode 1, and replay that in the debugger."""

    def call(place: str, commands: Sequence[str], *options: str) -> tuple[int, str]:
        name = f"flaky_{place}"
        (tmp_path / f"{name}.py").write_text(FLAKY.format(place=place))
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module(name)
        record(tmp_path, module.FlakyEnv, module.act, n_episodes=2)
        command = ["-m", "maze.cli.maze", "replay", "run", "--episode", "1", "--pdb", "--trust"]
        done = subprocess.run(
            [sys.executable, *command, *options],
            cwd=tmp_path,
            input="".join(f"{command}\n" for command in commands),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr in ("", "interrupted\n")
        return done.returncode, done.stdout

    return call


def test_the_debugger_stops_before_the_failing_step_and_steps_into_it(debug):
    commands = ["p step, action, observation", "p type(env).__name__", "s", "n", "p self.count"]
    code, printed = debug("step", [*commands, "c"])
    assert "stopped before env.step of step 4" in printed
    assert "(4, {'action': 1}, {'observation': array([4.], dtype=float32)})" in printed
    assert "'GymMazeEnv'" in printed
    assert re.search(r"flaky_\w+\.py\(\d+\)step\(\)", printed)
    assert "RuntimeError: no licence" in printed
    assert code == 0
    assert "it is the recorded episode" in printed


def test_the_debugger_stops_before_the_reset(debug):
    code, printed = debug("reset", ["p seed", "s", "c"])
    assert re.search(r"\(Pdb\) 1\n", printed)
    assert re.search(r"flaky_\w+\.py\(\d+\)reset\(\)", printed)
    assert code == 0


def test_the_debugger_stops_before_the_policy(debug):
    commands = ["p observation, actor, step", "s", "c"]
    code, printed = debug("policy", commands)
    assert "ActorID(step_key=0, agent_id=0), 4)" in printed
    assert re.search(r"flaky_\w+\.py\(\d+\)act\(\)", printed)
    assert code == 0


def test_the_debugger_stops_before_the_step_that_made_a_nan(debug):
    code, printed = debug("nan", ["p step", "c"])
    assert re.search(r"\(Pdb\) 4\n", printed)
    assert code == 0


def test_the_debugger_stops_where_one_says(debug):
    code, printed = debug("nowhere", ["p step", "c"], "--step", "6")
    assert re.search(r"\(Pdb\) 6\n", printed)
    assert code == 0


def test_a_step_that_is_not_reached_is_told(debug):
    code, printed = debug("nowhere", [], "--step", "60")
    assert "the debugger did not stop: env.step of step 60 was not reached" in printed
    assert code == 0


@pytest.mark.parametrize("commands", [["q"], ["s", "q"], []], ids=["q", "s, q", "end of stdin"])
def test_quitting_the_debugger_ends_the_replay(commands, debug):
    code, printed = debug("step", commands)
    assert code == 130
    assert "it is the recorded episode" not in printed


# Long episodes, which are recorded in parts.


class ShiftedOnceEnv(WalkEnv):
    """A ``WalkEnv`` that observes something else at one step."""

    def step(self, action):
        observation, *rest = super().step(action)
        return (observation + np.float32(self.count == 70_000), *rest)


@pytest.mark.parametrize("env", [partial(WalkEnv, 140_000), partial(TwoStepEnv, 66_000)])
def test_a_long_episode_is_replayed_and_compared_as_a_whole(env, tmp_path):
    maze.rollout(env, n_episodes=1, seed=1, output_dir=tmp_path)
    run = maze.load(tmp_path)
    assert run.journal is not None
    assert any(entry.part_of is not None for entry in run.journal.entries)
    replay = maze.replay(tmp_path, 0, env=env)
    assert replay.is_equal
    assert len(replay.episode.rewards) == len(run[0])


def test_the_first_difference_is_found_in_any_part_of_a_long_episode(tmp_path):
    maze.rollout(partial(WalkEnv, 140_000), n_episodes=1, seed=1, output_dir=tmp_path)
    replay = maze.replay(tmp_path, 0, env=partial(ShiftedOnceEnv, 140_000))
    assert replay.first_difference is not None
    assert (replay.first_difference.kind, replay.first_difference.step) == ("observation", 70_000)
