"""``maze resume`` and ``maze.resume``: a recorded run goes on as if it had never stopped."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import maze
from maze.cli import maze as maze_command
from maze.core.errors import ConfigError, OutputError
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from tests.commands import (
    MAZE,
    REPOSITORY,
    assert_journal_and_trajectories_agree,
    assert_none_stays,
    has_lines,
    maze_run,
    processes_below,
    send,
    started,
)
from tests.envs import FaultyEnv, WalkEnv, raise_error
from tests.runs import Content, assert_equal, content, is_same, numbered, sequential

N = 30


@pytest.fixture(autouse=True)
def _restore_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def call(capsys) -> Callable[..., tuple[int, str, str]]:
    """Call ``maze resume``, and return its exit code and what it printed."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = maze_command.main(["resume", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Content:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    play(directory)
    return content(directory)


def play(directory: Path, n_episodes: int = N, **options: Any) -> None:
    maze.rollout("CartPole-v1", n_episodes=n_episodes, seed=7, output_dir=directory, **options)


def lose_the_end(directory: Path, n_lost: int = 2) -> None:
    """Leave what a killed process does, in whose journal the last lines are missing."""
    lines = (directory / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "journal.jsonl").write_bytes(b"".join(lines[:-n_lost]) + lines[-n_lost][:40])
    for name in ("episodes.parquet", "statistics.json"):
        (directory / name).unlink()


# The command goes on.


def test_the_command_plays_what_is_missing_and_prints_the_whole(call, undisturbed, tmp_path):
    play(tmp_path)
    lose_the_end(tmp_path)
    n_before = len(maze.load(tmp_path))
    code, output, errors = call(tmp_path)
    assert (code, errors) == (0, "")
    assert n_before < N
    assert output.startswith(f"{tmp_path}: {n_before} episodes are recorded\n\n")
    assert f"{N} episodes" in output
    assert_equal(content(tmp_path), undisturbed)
    assert call(tmp_path)[0] == 0  # Nothing is left to play.
    assert_equal(content(tmp_path), undisturbed)
    assert maze.verify(tmp_path).is_good


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["runner.n_processes=2"],
        ["runner.n_lanes=4"],
        ["runner.n_processes=2", "runner.n_lanes=3", "runner.step_timeout_s=60"],
    ],
    ids=str,
)
def test_a_sequential_run_is_extended_in_any_way(options, call, undisturbed, tmp_path):
    play(tmp_path, n_episodes=8)
    code, output, _ = call(tmp_path, f"runner.n_episodes={N}", *options)
    assert code == 0
    assert ("2 processes" in output) == ("runner.n_processes=2" in options)
    assert_equal(content(tmp_path), undisturbed)
    # The next time goes on from there.
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())["runner"]
    assert config["n_episodes"] == N
    assert all(str(config[o.split(".")[1].split("=")[0]]) == o.split("=")[1] for o in options)
    assert "maze.core.rollout.parallel" in config["_target_"] or "n_processes" not in config


@pytest.mark.parametrize("n_processes", [1, 3])
def test_a_parallel_run_is_extended_with_other_numbers_of_processes(
    n_processes, call, undisturbed, tmp_path
):
    play(tmp_path, n_episodes=8, n_processes=2)
    options = [f"runner.n_episodes={N}", f"runner.n_processes={n_processes}"]
    assert call(tmp_path, *options)[0] == 0
    assert_equal(content(tmp_path), undisturbed)


def test_a_run_of_the_command_line_is_resumed_with_its_seeds_drawn_by_chance(call, tmp_path):
    options = ["runner=sequential", "runner.n_episodes=5", "hydra.run.dir=run"]
    command = [sys.executable, "-m", "maze.cli.maze_run", "env=gym_env", *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    recorded = maze.load(tmp_path / "run")
    first = {t.episode_index: t.rewards for t in recorded}
    code, output, _ = call(tmp_path / "run", "runner.n_episodes=9")
    assert code == 0
    assert "9 episodes" in output
    run = maze.load(tmp_path / "run")
    assert all(is_same(run[index].rewards, rewards) for index, rewards in first.items())
    assert maze.verify(run.path, replay="all").is_good


def test_failed_episodes_make_the_exit_code_1_and_are_kept(call, tmp_path):
    env = partial(FaultyEnv, raise_error, {2})
    sequential(n_episodes=5, output_dir=tmp_path).run_with(env, seeding=numbered(5))
    result = maze.resume(tmp_path, env=env)
    assert not result.request_met
    assert [row.episode_index for row in result.failures] == [2]


def test_failed_episodes_are_played_again_if_one_asks(call, tmp_path, monkeypatch):
    (tmp_path / "flaky_for_a_while.py").write_text(FLAKY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = [
        "runner.n_episodes=6",
        "hydra.run.dir=run",
        "seeding.explicit_env_seeds=[0,1,2,3,4,5]",
    ]
    (tmp_path / "configs" / "env").mkdir(parents=True)
    (tmp_path / "configs" / "env" / "flaky.yaml").write_text("_target_: flaky_for_a_while.Env\n")
    command = [sys.executable, "-m", "maze.cli.maze_run", "-cd", "configs", "env=flaky"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([*command, "runner=sequential", *options], env=environment)
    assert done.returncode == 1
    assert call("run", "--trust")[0] == 1
    (tmp_path / "mended").touch()
    code, output, _ = call("run", "--retry-failed", "--trust")
    assert code == 0
    assert "failed 0" in output
    assert (tmp_path / "run" / "replaced.jsonl").exists()
    assert [row.ending for row in maze.load("run").table] == ["terminated"] * 6


FLAKY = """
import os
from tests.envs import WalkEnv

class Env(WalkEnv):
    def step(self, action):
        if self.seed == 3 and not os.path.exists("mended"):
            raise ValueError("the licence server is down")
        return super().step(action)
"""


# What would make other episodes is refused.


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["seeding.env_base_seed=9"], "seeding.env_base_seed: 7 -> 9"),
        (["env=Acrobot-v1"], "env: CartPole-v1 -> Acrobot-v1"),
        (["runner.max_episode_steps=10"], "runner.max_episode_steps: 0 -> 10"),
        (["runner.deterministic=false"], "runner.deterministic: True -> False"),
        (["runner.record_trajectory=false"], "runner.record_trajectory: True -> False"),
        (["policy=my.Policy"], "policy: random -> my.Policy"),
        (["runner.on_nan=stop", "runner.n_lanes=2"], "runner.on_nan: fail -> stop"),
    ],
    ids=str,
)
def test_a_change_that_would_make_other_episodes_is_refused_with_the_difference(
    options, shown, call, tmp_path
):
    play(tmp_path, n_episodes=3)
    before = content(tmp_path)
    code, _, errors = call(tmp_path, "runner.n_episodes=9", *options)
    assert code == 2
    assert f"\n  {shown}\n" in errors
    assert "Resumed runs may change: runner.n_episodes, runner.n_processes, " in errors
    assert "Traceback" not in errors
    assert_equal(content(tmp_path), before)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("runner.n_episode=9", "Did you mean 'runner.n_episodes'?"),
        ("runner.n_proceses=2", "Did you mean 'runner.n_processes'?"),
        ("n_episodes=9", "Did you mean 'runner.n_episodes'?"),
        ("runner.render=true", "runner.render: False -> True"),
        ("seeding.base_seed=1", "'seeding.base_seed' is not an option"),
        ("9", "'9' is not understood. Options are written group.key=value"),
        ("=9", "'=9' is not understood"),
        ("runner.n_episodes=[", "is not a value that YAML understands"),
        ("runner.n_episodes=many", "'runner.n_episodes' is 'many'"),
        ("runner.n_episodes=2", "'runner.n_episodes' has to be at least 3"),
        ("runner.n_episodes=0", "'runner.n_episodes' is 0, expected at least 1"),
        ("runner.n_episodes=", "'runner.n_episodes' is None"),
        ("runner.max_attempts=0", "is 0, expected at least 1"),
    ],
)
def test_an_option_that_is_none_is_answered_with_what_to_type(option, message, call, tmp_path):
    play(tmp_path, n_episodes=3, n_processes=1 if "render" in option else 2)
    before = content(tmp_path)
    code, _, errors = call(tmp_path, option)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert_equal(content(tmp_path), before)


# Edits in config.yaml.


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load((directory / "config.yaml").read_text())
    change(config)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))


def test_what_was_edited_in_the_config_counts(call, undisturbed, tmp_path):
    play(tmp_path, n_episodes=4)
    edit(tmp_path, lambda config: config["runner"].update(n_episodes=N, n_lanes=2))
    assert call(tmp_path)[0] == 0
    assert_equal(content(tmp_path), undisturbed)


def test_an_option_of_the_command_goes_before_an_edit(call, undisturbed, tmp_path):
    play(tmp_path, n_episodes=4)
    edit(tmp_path, lambda config: config["runner"].update(n_episodes=5))
    assert call(tmp_path, f"runner.n_episodes={N}")[0] == 0
    assert_equal(content(tmp_path), undisturbed)


def test_an_edit_that_would_make_other_episodes_is_refused(call, tmp_path):
    play(tmp_path, n_episodes=4)
    edit(tmp_path, lambda config: config["seeding"].update(env_base_seed=8))
    code, _, errors = call(tmp_path, "runner.n_episodes=9")
    assert code == 2
    assert "\n  seeding.env_base_seed: 7 -> 8\n" in errors
    assert len(maze.load(tmp_path)) == 4


@pytest.mark.parametrize("text", [None, "", "runner: [", "- 1\n- 2\n", "\x00\xff"], ids=repr)
def test_a_config_that_cannot_be_read_is_written_anew(text, call, undisturbed, tmp_path):
    play(tmp_path, n_episodes=4)
    path = tmp_path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    assert call(tmp_path, f"runner.n_episodes={N}")[0] == 0
    config["runner"]["n_episodes"] = N
    assert yaml.safe_load(path.read_text()) == config
    assert_equal(content(tmp_path), undisturbed)


# Python objects.


def test_python_objects_are_given_again(tmp_path):
    def make() -> WalkEnv:
        return WalkEnv(7)

    def act(observation: Any) -> int:
        return int(observation[0] > 0.5)

    wrappers: Any = {RewardScalingWrapper: {"scale": 0.5}}
    for directory, n in (("whole", 9), ("run", 4)):
        sequential(n_episodes=n, output_dir=tmp_path / directory).run_with(
            make, act, wrappers, seeding=numbered(9)
        )
    with pytest.raises(ConfigError, match=r"environment of this run was given as a Python object"):
        maze.resume(tmp_path / "run", n_episodes=9, trust=True)
    with pytest.raises(ConfigError, match=r"policy of this run was given as a Python object"):
        maze.resume(tmp_path / "run", n_episodes=9, env=make, trust=True)
    assert len(maze.load(tmp_path / "run")) == 4
    objects = {"env": make, "policy": act, "wrappers": wrappers}
    result = maze.resume(tmp_path / "run", n_episodes=9, n_processes=2, **objects)
    assert result.n_done == 9
    assert_equal(content(tmp_path / "run"), content(tmp_path / "whole"))
    assert maze.verify(tmp_path / "run", "all", **objects).is_good


def test_the_command_says_how_to_give_them(call, tmp_path):
    sequential(n_episodes=3, output_dir=tmp_path).run_with(lambda: WalkEnv(), seeding=numbered(3))
    code, _, errors = call(tmp_path, "runner.n_episodes=5", "--trust")
    assert code == 2
    assert "pass it in Python" in errors


def test_code_of_ones_own_is_imported_with_trust_only(call, tmp_path):
    sequential(n_episodes=3, output_dir=tmp_path).run_with(WalkEnv, seeding=numbered(9))
    code, _, errors = call(tmp_path, "runner.n_episodes=5")
    assert code == 2
    assert "\n  tests.envs.WalkEnv\n" in errors
    assert "--trust" in errors
    assert call(tmp_path, "runner.n_episodes=5", "--trust")[0] == 0
    assert len(maze.load(tmp_path)) == 5


# In use, and interrupted again.


def test_a_directory_in_use_is_left_alone(call, tmp_path):
    with maze_run(tmp_path, "runner=sequential") as process:
        code, _, errors = call(tmp_path)
        assert code == 2
        assert f"is being written to by process {process.pid} on " in errors
        send(signal.SIGINT, [process])
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert_journal_and_trajectories_agree(tmp_path)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
    ids=["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"],
)
def test_an_interrupted_resumption_is_resumed(number, code, tmp_path):
    play(tmp_path / "whole", n_episodes=4000)
    play(tmp_path / "run", n_episodes=5)
    journal = tmp_path / "run" / "journal.jsonl"
    n_lines = journal.read_bytes().count(b"\n")
    options = ["runner.n_episodes=4000", "runner.n_processes=2"]
    with started(
        [*MAZE, "resume", tmp_path / "run", *options],
        # It says that it goes on, and then which episodes it has played.
        lambda _: has_lines(journal, n_lines + 2),
        cwd=REPOSITORY,
    ) as process:
        below = processes_below(process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert_none_stays(below)
    assert (process.returncode, errors) == (code, "")
    n_recorded = len(assert_journal_and_trajectories_agree(tmp_path / "run"))
    assert 5 < n_recorded < 4000
    if number != signal.SIGKILL:
        assert "interrupted" in output
        assert f"{n_recorded:,} of 4,000 episodes" in output
    # The number of episodes was noted when it began to go on.
    assert maze.resume(tmp_path / "run").n_done == 4000
    assert_equal(content(tmp_path / "run"), content(tmp_path / "whole"))
    assert maze.verify(tmp_path / "run").is_good


def test_a_directory_without_a_run_is_bad_input(call, tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        code, _, errors = call(directory)
        assert code == 2
        assert "holds no run of Maze" in errors


def test_without_a_journal_a_run_can_be_read_but_not_resumed(call, tmp_path):
    play(tmp_path, n_episodes=3)
    (tmp_path / "journal.jsonl").unlink()
    code, _, errors = call(tmp_path)
    assert code == 2
    assert re.search(
        r"has no journal.jsonl, .* It can be read \(maze.load\), but not resumed", errors
    )
    assert len(list(maze.load(tmp_path))) == 3
    with pytest.raises(OutputError, match="but not resumed"):
        maze.resume(tmp_path)
