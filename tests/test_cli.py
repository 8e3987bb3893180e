"""The command line, as users type it: real processes, in directories of their own."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from maze.cli import maze_run
from maze.version import __version__

MAZE_RUN = (sys.executable, "-m", "maze.cli.maze_run")
QUICK = ("runner=sequential", "runner.n_episodes=2", "runner.max_episode_steps=5")
PAGE_LISTING = """\
# @package _group_
_target_: maze.core.rollout.parallel_rollout_runner.ParallelRolloutRunner

# Number of processes to run the rollouts in concurrently
n_processes: 2

# Total number of episodes to run
n_episodes: 3

# Max steps per episode to perform
max_episode_steps: 5

# If true, trajectory data will be recorded and stored in :code:`trajectory_data` directory
record_trajectory: true

# If true, event logs will be recorded and stored in `event_logs_directory
record_event_logs: true
"""


def run(
    *arguments: str, cwd: Path, python_path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(python_path or "")}
    return subprocess.run(
        [*MAZE_RUN, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def play(*arguments: str, cwd: Path, python_path: Path | None = None) -> str:
    """Run, expect success and a silent stderr, and return what was printed."""
    done = run(*arguments, cwd=cwd, python_path=python_path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def output_directories(cwd: Path) -> list[Path]:
    return sorted(path.parent for path in cwd.rglob("statistics.json"))


def output_directory(cwd: Path) -> Path:
    (directory,) = output_directories(cwd)
    return directory


def statistics(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "statistics.json").read_text())
    return content


@pytest.fixture
def in_process(tmp_path, monkeypatch, capsys) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Call main here, which is quicker: for what ends before anything is played."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maze-run", *arguments])
        code = maze_run.main()
        return (code, *capsys.readouterr())

    handlers = list(logging.root.handlers)
    yield call
    logging.root.handlers[:] = handlers


def test_the_first_command_of_the_page(tmp_path):
    printed = play("env=gym_env", cwd=tmp_path)
    directory = output_directory(tmp_path)
    assert str(directory) in printed
    assert directory.parent.parent == tmp_path / "outputs"
    assert statistics(directory)["n_episodes"] == 50
    names = {path.name for path in directory.iterdir()}
    assert names >= {
        "config.yaml", "episodes.parquet", "statistics.json", "trajectory_data", "event_logs",
        "maze_run.log", ".hydra",
    }  # fmt: skip


def test_parallel_with_the_pages_overrides(tmp_path):
    play(
        "env=gym_env",
        "runner.n_processes=3",
        "runner.n_episodes=100",
        "runner.max_episode_steps=10",
        cwd=tmp_path,
    )
    written = statistics(output_directory(tmp_path))
    assert written["n_episodes"] == 100
    assert written["statistics"]["n_steps"]["max"] <= 10


def test_another_environment_with_given_seeds_repeats(tmp_path):
    options = (
        "env=gym_env",
        "env.name=Acrobot-v1",
        "policy=random_policy",
        "seeding.env_base_seed=1",
        "seeding.agent_base_seed=2",
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    play(*options, *QUICK, cwd=tmp_path / "a")
    play(*options, "runner.n_processes=2", *QUICK[1:], cwd=tmp_path / "b")
    one, other = (statistics(output_directory(tmp_path / name)) for name in "ab")
    assert one["statistics"] == other["statistics"]
    assert one["seeds"] == {"env_base_seed": 1, "agent_base_seed": 2}


def test_seeds_drawn_by_chance_are_printed_and_stored_and_repeat_the_run(tmp_path):
    printed = play("env=gym_env", *QUICK, cwd=tmp_path)
    first = output_directory(tmp_path)
    seeds = statistics(first)["seeds"]
    overrides = [f"seeding.{name}={seed}" for name, seed in seeds.items()]
    assert " ".join(overrides) in " ".join(printed.split())
    config = (first / "config.yaml").read_text()
    assert f"env_base_seed: {seeds['env_base_seed']}" in config
    (tmp_path / "again").mkdir()
    play(*QUICK, *overrides, cwd=tmp_path / "again")
    again = statistics(output_directory(tmp_path / "again"))
    assert again["statistics"] == statistics(first)["statistics"]


def test_the_cartpole_heuristic(tmp_path):
    printed = play("env=gym_env", "policy=dummy_cartpole_policy", *QUICK, cwd=tmp_path)
    assert "policy=dummy_cartpole_policy" in printed


def test_an_interrupted_run_keeps_what_it_has_and_exits_with_130(tmp_path):
    process = subprocess.Popen(
        [*MAZE_RUN, "runner=sequential", "runner.n_episodes=500000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not any(b'"episodes"' in path.read_bytes() for path in tmp_path.rglob("journal.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted" in printed
    assert statistics(output_directory(tmp_path))["n_episodes"] > 0


def test_explicit_seeds_by_a_config_that_makes_them(tmp_path):
    printed = play(
        *QUICK,
        "runner.n_episodes=9",
        "seeding.explicit_env_seeds={_target_:maze.core.seeding.seed_range,n_seeds:3}",
        cwd=tmp_path,
    )
    assert statistics(output_directory(tmp_path))["n_episodes"] == 3
    assert "9 episodes were asked for" in printed


def test_wrappers_by_dotted_path(tmp_path):
    scaling = "maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper"
    (tmp_path / "conf" / "wrappers").mkdir(parents=True)
    (tmp_path / "conf" / "wrappers" / "tenth.yaml").write_text(f"{scaling}:\n  scale: 0.1\n")
    play("-cd", "conf", "wrappers=tenth", *QUICK, cwd=tmp_path)
    assert statistics(output_directory(tmp_path))["statistics"]["return"]["max"] <= 0.5


def test_the_pages_listing_as_a_users_own_runner(tmp_path):
    (tmp_path / "conf" / "runner").mkdir(parents=True)
    (tmp_path / "conf" / "runner" / "my_parallel.yaml").write_text(PAGE_LISTING)
    printed = play("--config-dir", "conf", "env=gym_env", "runner=my_parallel", cwd=tmp_path)
    assert "runner=my_parallel" in printed
    assert statistics(output_directory(tmp_path))["n_episodes"] == 3


@pytest.mark.parametrize(
    "root",
    [
        # inherits ours
        "defaults: [conf_rollout, _self_]\n{}",
        # only uses our groups, and says nothing about Hydra
        "defaults: [runner: parallel, env: gym_env, policy: random_policy]\n{}",
    ],
)
def test_a_users_own_root_config(tmp_path, root):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text(root.format("runner: {n_episodes: 2}"))
    play("-cn", "mine", "-cd", "conf", "runner=sequential", cwd=tmp_path)
    assert statistics(output_directory(tmp_path))["n_episodes"] == 2


def test_a_project_that_adds_configs_by_a_search_path_plugin(tmp_path):
    project = tmp_path / "project"
    (project / "hydra_plugins").mkdir(parents=True)
    (project / "hydra_plugins" / "my_project.py").write_text(
        "from hydra.plugins.search_path_plugin import SearchPathPlugin\n"
        "class MyProject(SearchPathPlugin):\n"
        "    def manipulate_search_path(self, search_path):\n"
        "        search_path.append('my_project', 'pkg://my_project.conf')\n"
    )
    (project / "my_project" / "conf" / "policy").mkdir(parents=True)
    (project / "my_project" / "__init__.py").write_text("def left(observation): return 0\n")
    (project / "my_project" / "conf" / "__init__.py").touch()
    (project / "my_project" / "conf" / "policy" / "left.yaml").write_text(
        "_target_: my_project.policies.Left\n"
    )
    (project / "my_project" / "policies.py").write_text(
        "from maze.core.agent.policy import FlatPolicy\n"
        "class Left(FlatPolicy):\n"
        "    def act(self, observation, memory, deterministic): return {'action': 0}\n"
    )
    printed = play("policy=left", *QUICK, cwd=tmp_path, python_path=project)
    assert "policy=left" in printed


def test_a_module_beside_the_command_can_be_named(tmp_path):
    (tmp_path / "my_policy.py").write_text(
        "from maze.core.agent.policy import FlatPolicy\n"
        "class Left(FlatPolicy):\n"
        "    def act(self, observation, memory, deterministic): return {'action': 0}\n"
    )
    play("policy._target_=my_policy.Left", "runner.n_episodes=2", cwd=tmp_path)


def test_paths_are_relative_to_where_the_command_is_called_even_if_hydra_leaves(tmp_path):
    play(*QUICK, "input_dir=earlier", "hydra.job.chdir=true", cwd=tmp_path)
    config = (output_directory(tmp_path) / "config.yaml").read_text()
    assert f"input_dir: {tmp_path / 'earlier'}\n" in config


def test_two_runs_that_start_together_do_not_share_a_directory(tmp_path):
    command = [*MAZE_RUN, *QUICK, "-cd", "conf", "-cn", "mine"]
    # The directory is the same by a config here, as it is by the time within a second.
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text(
        "defaults: [conf_rollout, _self_]\nhydra: {run: {dir: outputs/same}}\n"
    )
    runs = [
        subprocess.Popen(
            [*command, "-cd", "conf", "-cn", "mine"], cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        for _ in range(3)
    ]
    assert [process.wait(60) for process in runs] == [0, 0, 0]
    names = [path.name for path in output_directories(tmp_path)]
    assert names == ["same", "same-1", "same-2"]


def test_a_named_directory_is_used_once(tmp_path):
    play(*QUICK, "hydra.run.dir=mine", cwd=tmp_path)
    before = (tmp_path / "mine" / "statistics.json").read_bytes()
    again = run(*QUICK, "hydra.run.dir=mine", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("OutputError: ")
    assert "holds a run already" in again.stderr
    assert (tmp_path / "mine" / "statistics.json").read_bytes() == before


def test_a_start_that_failed_leaves_a_named_directory_free(tmp_path):
    assert run(*QUICK, "hydra.run.dir=mine", "env.name=CartPole-v9", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "mine").exists()


def test_multirun_plays_each_and_ends_with_a_table(tmp_path):
    printed = play("--multirun", "env=gym_env", "seeding.env_base_seed=1,2,3", *QUICK, cwd=tmp_path)
    table = printed[printed.index("run  overrides") :].splitlines()
    assert [line.split()[:3] for line in table[1:4]] == [
        [str(i), f"seeding.env_base_seed={i + 1}", "2"] for i in range(3)
    ]
    directories = output_directories(tmp_path)
    assert [path.name for path in directories] == ["0", "1", "2"]
    assert directories[0].parent.parent.parent == tmp_path / "multirun"


def test_a_run_of_several_that_fails_does_not_hide_the_others(tmp_path):
    done = run("-m", "env.name=CartPole-v9,CartPole-v1", *QUICK, cwd=tmp_path)
    assert done.returncode == 2
    assert "CartPole-v9" in done.stderr
    assert "Traceback" not in done.stderr
    table = done.stdout[done.stdout.index("run  overrides") :].splitlines()
    assert "did not finish" in table[1]
    assert table[2].split()[:3] == ["1", "env.name=CartPole-v1", "2"]


def test_failed_episodes_make_the_exit_code_1(tmp_path):
    (tmp_path / "broken_policy.py").write_text(
        "from maze.core.agent.policy import FlatPolicy\n"
        "class Broken(FlatPolicy):\n"
        "    def act(self, observation, memory, deterministic): raise RuntimeError('no idea')\n"
    )
    done = run("policy._target_=broken_policy.Broken", *QUICK, cwd=tmp_path)
    assert done.returncode == 1
    assert "no idea" in done.stdout
    assert statistics(output_directory(tmp_path))["endings"]["failed"] == 2


def test_output_that_nobody_reads_is_no_error(tmp_path):
    command = f"{' '.join([*MAZE_RUN, *QUICK])} | head -0"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert statistics(output_directory(tmp_path))["n_episodes"] == 2


def test_nothing_heavy_is_loaded(tmp_path):
    code = (
        "import sys; from maze.cli.maze_run import main; main();"
        "print('loaded:', {'torch', 'matplotlib', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *QUICK], cwd=tmp_path, capture_output=True, text=True
    )
    assert "loaded: set()" in done.stdout


def test_help_names_groups_options_and_examples(in_process, capsys):
    with pytest.raises(SystemExit) as ended:
        in_process("--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for text in (
        "plays a policy in an environment",
        "maze-run env=gym_env runner=sequential runner.n_episodes=1 runner.render=true",
        "runner: dev, local, parallel, sequential",
        "masked_random_policy, onnx_policy, random_policy",
        "n_episodes: 50",
        "--debug",
    ):
        assert text in printed


def test_cfg_job_prints_the_config(in_process, tmp_path):
    code, printed, errors = in_process("--cfg", "job", "runner.n_episodes=7")
    assert (code, errors) == (0, "")
    assert "n_episodes: 7" in printed
    assert list(tmp_path.iterdir()) == []


def test_version(in_process):
    assert in_process("--version") == (0, f"maze-run {__version__}\n", "")


BAD_INPUT: Sequence[tuple[Sequence[str], str]] = [
    (["runner.n_process=3"],
     "'runner.n_process' is not an option of ParallelRolloutRunner. Did you mean"),
    (["runner.n_process=3"],
     "'runner.n_processes'? It takes: n_processes, n_episodes, max_episode_steps,"),
    (["+runner.n_process=3"], "Did you mean 'runner.n_processes'?"),
    (["runner=sequential", "runner.n_processes=3"], "is not an option of SequentialRolloutRunner"),
    (["runner=paralel"],
     "'runner'. Did you mean 'parallel'? Choose runner= one of: dev, local, parallel, sequential."),
    (["policy=dummy_cartpole"], "Did you mean 'dummy_cartpole_policy'?"),
    (["enviroment=gym_env"], "'enviroment' is not a group or option. Did you mean 'env'?"),
    (["seeding.base_seed=1"], "Did you mean 'seeding.env_base_seed'?"),
    (["env.kwargs.continuous=true"], "Add it with a plus: +env.kwargs.continuous=..."),
    (["runner.n_processes=abc"], "'runner.n_processes' is 'abc'"),
    (["runner.n_episodes=0"], "'runner.n_episodes' is 0"),
    (["runner.n_processes=-1"], "'runner.n_processes' is -1"),
    (["runner.on_nan=explode"], "'runner.on_nan' is 'explode'"),
    (["seeding.env_base_seed=x"], "'seeding.env_base_seed' has to be an integer, got 'x'"),
    (["seeding.env_base_seed=1,2"], "add --multirun to your command line"),
    (["env.name=${nothing}"], "Interpolation key 'nothing' not found"),
    (["env.name=???", "runner=sequential"], "'env.name' has to be given: env.name=..."),
    (["runner"], "'runner' is not understood. Options are written group=option"),
    (["runner=[1"], "is not understood"),
    (["--mulitrun"], "there is no flag '--mulitrun'. Did you mean '--multirun'?"),
    (["-cp", "conf"], "--config-dir"),
    (["-cn", "nothing"], "there is no config 'nothing'"),
    (["-cd", "nowhere"], "nowhere' not found"),
    (["~policy"], "the config has no 'policy'"),
    (["runner._target_=maze.core.rollout.sequential_runner.X"], "sequential_rollout_runner"),
    (["runner={_target_:builtins.dict}"], "'runner' has to be a RolloutRunner"),
    (["hydra.run.dir=file/below"], "cannot create the output directory"),
    (["hydra.run.dir=file"], "cannot create the output directory"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_ends_in_one_message_and_code_2(in_process, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    code, _, errors = in_process(*arguments)
    assert message in errors
    assert code == 2
    assert "Traceback" not in errors
    assert "Error: " in errors.splitlines()[0]
    assert len(errors.splitlines()) <= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["env.name=CartPol-v1"], "CartPole"),
        (["policy._target_=maze.core.agent.random_policy.RandmPolicy"], "'RandomPolicy'"),
        (["policy._target_=fractions.Fraction"], "policy"),
        (["env._target_=fractions.Fraction", "~env.name"], "env"),
        (["+wrappers={no.such.Wrapper:{}}"], "no"),
    ],
)
def test_what_cannot_be_built_ends_in_one_message_and_code_2(in_process, arguments, message):
    code, _, errors = in_process(*QUICK, *arguments)
    assert message in errors
    assert code == 2
    assert "Traceback" not in errors


def test_an_environment_that_workers_cannot_make_ends_in_one_message_and_code_2(tmp_path):
    done = run("env.name=CartPol-v1", cwd=tmp_path)
    assert done.returncode == 2
    assert "CartPole-v1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_config_file_is_named(in_process, tmp_path):
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "broken.yaml").write_text("n_episodes: [1\n")
    code, _, errors = in_process("-cd", ".", "runner=broken")
    assert code == 2
    assert "is not valid YAML" in errors
    assert "broken.yaml" in errors


def test_debug_shows_the_traceback(in_process):
    code, _, errors = in_process("runner.n_process=3", "--debug")
    assert code == 2
    assert "Traceback" in errors
