"""``maze.verify`` and ``maze verify``: what was recorded is there, and comes out the same again."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maze
from maze.cli import maze as maze_command
from maze.core.agent.policy import StructuredPolicy
from maze.core.errors import ConfigError, OutputError
from maze.core.rollout.run_directory import RunDirectory
from maze.core.rollout.verify import Verification
from tests.envs import FaultyEnv, TwoStepEnv, WalkEnv, kill_process, raise_error
from tests.hanging_envs import sleep_in_c
from tests.runs import numbered, open_run, parallel, rewrite_journal, sequential

STREAM, LOG = "trajectory_data/steps_0.arrow", "event_logs/Reward.tsv"


def record(directory: Path, env: Any, policy: Any = None, **options: Any) -> RunDirectory:
    options = {"n_episodes": 6, "max_episode_steps": 50, **options}
    runner = sequential(output_dir=directory, **options)
    return open_run(runner.run_with(env, policy, seeding=numbered(options["n_episodes"])))


@pytest.fixture(autouse=True)
def _restore_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def call(capsys) -> Callable[..., tuple[int, str]]:
    """Call ``maze verify``, and return its exit code and what it printed."""

    def call(*arguments: Any) -> tuple[int, str]:
        capsys.readouterr()
        code = maze_command.main(["verify", *map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out + printed.err

    return call


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


class Acts(StructuredPolicy):
    """Acts 0, and from the fourth step on as it is told."""

    def __init__(self, later: Callable[[], int]) -> None:
        self.later = later

    def start_episode(self, seed: int) -> list[int]:
        return []

    def act(self, observation: Any, actor: Any, memory: Any, deterministic: bool) -> Any:
        memory.append(0)
        return {"action": self.later() if len(memory) > 3 else 0}


def zero() -> int:
    return 0


def one() -> int:
    return 1


def one_or_two() -> int:
    return 1 + os.urandom(1)[0] % 2


# Nothing is wrong.


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1"])
def test_a_clean_run_is_said_to_be_so(name, call, tmp_path):
    maze.rollout(name, n_episodes=8, n_processes=2, seed=1, output_dir=tmp_path)
    code, printed = call(tmp_path, "--replay", "all")
    assert code == 0
    assert printed.splitlines() == [
        "episodes      8 of 8 recorded",
        "files         all as they were written",
        "trajectories  8 fit their digests",
        "replay        8 of 8 episodes came out the same",
    ]


@pytest.mark.parametrize(
    ("name", "module"), [("LunarLander-v3", "Box2D"), ("InvertedPendulum-v5", "mujoco")]
)
def test_physics_engines_come_out_the_same(name, module, tmp_path):
    pytest.importorskip(module)
    maze.rollout(name, n_episodes=4, max_episode_steps=30, seed=1, output_dir=tmp_path)
    verification = maze.verify(tmp_path, replay="all", n_processes=2)
    assert verification.is_good
    assert verification.is_deterministic
    assert (verification.n_trajectories, verification.n_replayed) == (4, 4)


def test_a_structured_run_is_verified_by_all_its_files(tmp_path):
    run = record(tmp_path, TwoStepEnv)
    assert maze.verify(tmp_path, replay="all", trust=True).is_good
    assert len(run.streams) == 2
    (tmp_path / "trajectory_data" / "steps_place.arrow").unlink()
    verification = maze.verify(tmp_path)
    assert not verification.is_good
    assert {one.file for one in verification.damage} == {"trajectory_data/steps_place.arrow"}


def test_without_trajectories_files_and_replays_are_compared(call, tmp_path):
    record(tmp_path, "CartPole-v1", record_trajectory=False)
    code, printed = call(tmp_path, "--replay", "all")
    assert code == 0
    assert "trajectories" not in printed
    assert "replay        6 of 6 episodes came out the same" in printed


def test_an_interrupted_run_is_not_damaged_but_not_complete(call, tmp_path):
    maze.rollout("CartPole-v1", n_episodes=5, seed=1, output_dir=tmp_path)
    rewrite_journal(
        tmp_path,
        lambda fields: {**fields, **({"n_episodes": 9} if fields.get("n_episodes") else {})},
    )
    code, printed = call(tmp_path)
    assert code == 0
    assert f"5 of 9 recorded, 4 missing (maze resume {tmp_path} plays them)" in printed


def test_what_a_killed_run_had_not_finished_is_no_damage(call, tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2}))
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    last_batch = max(i for i, line in enumerate(lines) if b'"kind": "episodes"' in line)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:last_batch]) + lines[last_batch][:99])
    for name in ("episodes.parquet", "statistics.json"):
        (tmp_path / name).unlink()
    code, printed = call(tmp_path)
    assert code == 0
    assert "3 of 6 recorded, 3 missing" in printed
    assert "files         all as they were written" in printed
    for name in ("journal.jsonl", STREAM, LOG):
        assert re.search(rf"unfinished    {name}: .*; it never counted", printed), printed


# How many are replayed.


@pytest.mark.parametrize(
    ("how_many", "n"), [("all", 40), ("5%", 2), ("3", 3), ("1%", 1), ("100%", 40), ("999", 40)]
)
def test_so_many_are_replayed_as_one_says(how_many, n, call, tmp_path_factory):
    directory = tmp_path_factory.getbasetemp() / "forty"
    if not directory.exists():
        record(directory, "CartPole-v1", n_episodes=40)
    code, printed = call(directory, "--replay", how_many, "--processes", 1)
    assert (code, f"{n} of {n} episodes came out the same" in printed) == (0, True)


@pytest.mark.parametrize("how_many", ["none", "0", "-1", "0%", "101%", "0.5", "%"])
def test_what_is_no_number_of_episodes_is_refused(how_many, call, tmp_path):
    record(tmp_path, "CartPole-v1", n_episodes=2)
    code, printed = call(tmp_path, f"--replay={how_many}")
    assert code == 2
    assert "expected a share such as 5%, a number, or all" in printed


def test_in_python_a_fraction_is_a_share_and_a_whole_number_a_count(tmp_path):
    record(tmp_path, "CartPole-v1")
    assert maze.verify(tmp_path, 0.5).n_replayed == 3
    assert maze.verify(tmp_path, 1).n_replayed == 1
    assert maze.verify(tmp_path, 1.0).n_replayed == 6
    for what in (0, -1, 0.0, "some"):
        with pytest.raises(ConfigError, match="expected 'all', a fraction or a number"):
            maze.verify(tmp_path, what)  # type: ignore[arg-type]


# Damage.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def add_to(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [STREAM, LOG])
@pytest.mark.parametrize("spoil", [flip, cut_off, empty, add_to, Path.unlink])
def test_damaged_data_is_named_with_its_episodes(spoil, name, call, tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2, 5}))  # Two batches.
    spoil(tmp_path / name)
    code, printed = call(tmp_path)
    assert code == 1
    assert re.search(r"damage        \d found:\n", printed)
    (line,) = re.findall(rf"^  {name}: .*$", printed, re.MULTILINE)[-1:]
    if spoil is not add_to:
        assert re.search(r"\(data of episodes ((0, 1, 2, )?3, 4, 5|0, 1, 2)\)", line), printed
    # A bit may spoil one of the episodes that share a batch, and not the others.
    fitting = "[345] fit their digests, [123] do not" if name == STREAM else "6 fit their digests\n"
    if spoil is flip:
        assert re.search(f"trajectories  {fitting}", printed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["journal.jsonl", "episodes.parquet", "statistics.json", "config.yaml"]
)
@pytest.mark.parametrize("spoil", [flip, cut_off, empty, add_to, Path.unlink])
def test_so_is_what_describes_the_data(spoil, name, call, tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2, 5}))
    spoil(tmp_path / name)
    code, printed = call(tmp_path)
    if name == "journal.jsonl" and spoil is add_to:  # A killed process leaves the same behind.
        assert code == 0
        assert f"unfinished    {name}: " in printed
    else:
        assert code == 1
        assert f"  {name}: " in printed


def test_a_line_that_is_gone_from_the_journal_is_noticed_though_all_others_fit(tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2, 5}), record_event_logs=False)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"episode_index": [0,' not in line]
    assert len(kept) == len(lines) - 1
    (tmp_path / "journal.jsonl").write_bytes(b"".join(kept))
    damage = [str(one) for one in maze.verify(tmp_path).damage]
    assert (
        "journal.jsonl: the lines are missing that episodes.parquet was made from (data of episodes"
        " 0, 1, 2)"
    ) in damage


def test_a_digest_that_was_changed_with_its_checksum_is_found(call, tmp_path):
    record(tmp_path, WalkEnv)

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["kind"] == "episodes":
            fields["digest"][3] = "0" * 32
        return fields if fields["kind"] != "finished" else {"kind": "sorted"}

    (tmp_path / "episodes.parquet").unlink()
    rewrite_journal(tmp_path, change)
    code, printed = call(tmp_path)
    assert code == 1
    assert re.search(
        rf"the digest is \w+, and the table says {'0' * 32} \(data of episode 3\)", printed
    )
    assert "5 fit their digests, 1 do not" in printed


def test_a_directory_without_a_run_is_bad_input(call, tmp_path):
    code, printed = call(tmp_path)
    assert code == 2
    assert "holds no run of Maze" in printed


# It comes out otherwise.


def verdict(verification: Verification) -> str:
    return str(verification).splitlines()[-1].strip()


def test_an_environment_that_is_not_deterministic_is_told_with_the_first_difference(call, tmp_path):
    record(tmp_path, UrandomEnv)
    verification = maze.verify(tmp_path, "all", trust=True)
    assert not verification.is_good
    assert verification.damage == ()
    assert verification.is_deterministic is False
    assert [one.row.episode_index for one in verification.deviations] == list(range(6))
    first = verification.deviations[0].difference
    assert first is not None
    assert (first.kind, first.step, first.whose) == ("observation", 3, "environment")
    code, printed = call(tmp_path, "--replay", "all", "--trust")
    assert code == 1
    assert "0 of 6 episodes came out the same" in printed
    assert re.search(r"episode 0 \(env_seed=0, agent_seed=\d+\): observation at step 3", printed)
    assert "the environment is not deterministic: played twice now" in printed
    assert "The files are not to blame" in printed


def test_a_changed_environment_is_told_from_it(tmp_path):
    record(tmp_path, WalkEnv)
    verification = maze.verify(tmp_path, "all", env=NowRewardsMoreEnv)
    assert verification.is_deterministic is True
    assert len(verification.deviations) == 6
    assert "reward at step 3" in str(verification.deviations[0])
    assert verdict(verification).startswith("the environment has changed since the run was record")


def test_so_is_a_changed_policy(tmp_path):
    record(tmp_path, WalkEnv, Acts(zero))
    verification = maze.verify(tmp_path, "all", env=WalkEnv, policy=Acts(one))
    assert verification.is_deterministic is True
    assert "action at step 3: action is 1, expected 0" in str(verification.deviations[0])
    assert verdict(verification).startswith("the policy has changed since the run was recorded")


def test_and_a_policy_that_is_not_deterministic(tmp_path):
    record(tmp_path, WalkEnv, Acts(zero))
    verification = maze.verify(tmp_path, "all", env=WalkEnv, policy=Acts(one_or_two))
    assert "action at step 3" in str(verification.deviations[0])
    # Of so many coin tosses not all are alike.
    assert verdict(verification).startswith("the policy is not deterministic")


def test_other_versions_of_libraries_are_named_beside_what_has_changed(tmp_path):
    record(tmp_path, WalkEnv)

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["kind"] == "run":
            fields["versions"]["gymnasium"] = "0.1"
        return fields

    rewrite_journal(tmp_path, change)
    verification = maze.verify(tmp_path, "all", env=NowRewardsMoreEnv)
    (version,) = verification.changed_versions
    assert version.startswith("gymnasium 0.1 -> ")
    assert f"({version})" in verdict(verification)


def test_without_trajectories_only_the_digest_tells_of_a_change(tmp_path):
    record(tmp_path, WalkEnv, record_trajectory=False)
    verification = maze.verify(tmp_path, "all", env=NowRewardsMoreEnv)
    assert verification.is_deterministic is True
    assert len(verification.deviations) == 6


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_told_from_all_that(tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2, 5}))
    flip(tmp_path / STREAM)
    verification = maze.verify(tmp_path, "all", env=partial(FaultyEnv, raise_error, {2, 5}))
    assert not verification.is_good
    assert [one.file for one in verification.damage] == [STREAM]
    assert verification.n_replayed == 6
    assert verification.deviations == ()
    assert verification.is_deterministic is True


@pytest.mark.filterwarnings("ignore")
def test_damage_and_a_change_are_both_told(tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2, 5}))
    flip(tmp_path / STREAM)
    verification = maze.verify(tmp_path, "all", env=NowRewardsMoreEnv)
    assert [one.file for one in verification.damage] == [STREAM]
    assert len(verification.deviations) == 6
    assert "the environment has changed" in verdict(verification)


# Failed episodes.


def test_failed_episodes_have_to_fail_again(tmp_path):
    record(tmp_path, partial(FaultyEnv, raise_error, {2, 5}))
    assert maze.verify(tmp_path, "all", env=partial(FaultyEnv, raise_error, {2, 5})).is_good
    verification = maze.verify(tmp_path, "all", env=WalkEnv)
    assert [one.row.episode_index for one in verification.deviations] == [2, 5]
    assert "no end yet, expected failed" in str(verification.deviations[0])


@pytest.mark.parametrize(
    "options", [{"max_attempts": 1}, {"step_timeout_s": 0.5}], ids=["killed", "hung"]
)
def test_episodes_that_killed_their_process_or_hung_are_left_out(options, tmp_path):
    fault = kill_process if "max_attempts" in options else sleep_in_c
    env = partial(FaultyEnv, fault, {2, 4})
    runner = parallel(n_episodes=6, output_dir=tmp_path, **options)
    assert runner.run_with(env, seeding=numbered(6)).endings["failed"] == 2
    verification = maze.verify(tmp_path, "all", env=env)
    assert verification.is_good, verification
    assert (verification.n_replayed, verification.n_not_replayable) == (4, 2)
    assert (
        "4 of 4 episodes came out the same; 2 that ended their process or hung were left out"
        in (str(verification))
    )


# Trust.

MODULE = """
import pathlib
pathlib.Path({canary!r}).touch()
from tests.envs import WalkEnv

class Env(WalkEnv):
    pass
"""


def test_nothing_is_imported_without_trust(call, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    (tmp_path / "brings_canary.py").write_text(MODULE.format(canary=str(canary)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    record(tmp_path / "run", importlib.import_module("brings_canary").Env)
    canary.unlink()
    monkeypatch.delitem(sys.modules, "brings_canary")
    assert call("run")[0] == 0
    code, printed = call("run", "--replay", "all")
    assert code == 2
    assert "\n  brings_canary.Env\n" in printed
    assert "--trust" in printed
    assert not canary.exists()
    assert call("run", "--replay", "all", "--trust")[0] == 0
    assert canary.exists()


def test_an_environment_that_was_a_python_object_has_to_be_given(call, tmp_path):
    def make() -> WalkEnv:
        return WalkEnv()

    record(tmp_path, make)
    assert call(tmp_path)[0] == 0
    code, printed = call(tmp_path, "--replay", "all", "--trust")
    assert code == 2
    assert "pass it in Python: maze.replay(..., env=...), likewise maze.resume and maze.ver" in (
        printed
    )
    assert maze.verify(tmp_path, "all", env=make).is_good


def test_a_directory_that_cannot_be_there_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="there is no such directory"):
        maze.verify(tmp_path / "nowhere")
