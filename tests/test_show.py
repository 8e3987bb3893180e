"""``maze show``: what of a run can be read in a terminal."""

import pytest

from maze.cli import maze
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.train.trainers.a2c import A2C
from maze.train.training_runner import TrainingRunner
from tests.envs import FaultyEnv, TwoStepEnv


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("show") / "run"
    SequentialRolloutRunner(12, 0, output_dir=directory).run_with(
        "CartPole-v1", seeding=Seeding(1, 1)
    )
    return directory


def show(capsys, *arguments, code=0):
    assert maze.main(["show", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    return printed.out.splitlines() if code == 0 else printed.err


def episodes_in(lines):
    start = next(i for i, line in enumerate(lines) if line.startswith("episode  "))
    return [line.split() for line in lines[start + 1 :] if line[:1] == " "]


def test_a_run_is_shown_by_its_statistics_and_its_episodes(run, capsys):
    lines = show(capsys, run)
    assert lines[0] == "CartPole-v1 · random · 12 episodes"
    assert lines[1] == "terminated 12 · truncated 0 · failed 0"
    assert [row[0] for row in episodes_in(lines)] == [str(i) for i in range(12)]


def test_episodes_are_sorted_and_filtered(run, capsys):
    lines = show(capsys, run, "--sort", "return", "--descending", "--limit", 3)
    returns = [float(row[2]) for row in episodes_in(lines)]
    assert returns == sorted(returns, reverse=True)
    assert lines[-1] == "3 of 12 episodes"
    middle = returns[-1]
    lines = show(capsys, run, "--where", f"return>={middle:g}", "--where", "ending=terminated")
    assert len(episodes_in(lines)) >= 3
    assert all(float(row[2]) >= middle for row in episodes_in(lines))
    assert len(episodes_in(show(capsys, run, "--where", "ending!=terminated"))) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--where", "retrun=1"), "Did you mean 'return'"),
        (("--where", "return"), "expected COLUMN=VALUE"),
        (("--where", "return<much"), "is no number"),
        (("--sort", "nix"), "no column 'nix'"),
        (("--episode", "99"), "99"),
        (("--episode", "1", "--steps", "a:b"), "expected FROM:TO"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_by_what_would(run, arguments, said, capsys):
    assert said in show(capsys, run, *arguments, code=2)


def test_an_episode_is_shown_step_by_step(run, capsys):
    lines = show(capsys, run, "--episode", 2)
    assert lines[0].startswith("episode 2: ")
    n_steps = int(lines[0].split()[2])
    start = next(i for i, line in enumerate(lines) if line.startswith("step"))
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["0", "1", "2"]
    last = show(capsys, run, "--episode", 2, "--steps=-2:")
    assert last[-2].split()[0] == str(n_steps - 1)
    assert float(last[-2].split()[-1]) == n_steps
    assert show(capsys, run, "--episode", 2, "--steps", "3")[-2].split()[0] == "3"


def test_sub_steps_show_who_acts_and_what_happened(tmp_path, capsys):
    SequentialRolloutRunner(2, 0, output_dir=tmp_path / "run").run_with(
        TwoStepEnv, seeding=Seeding(1, 1)
    )
    lines = show(capsys, tmp_path / "run", "--episode", 1)
    assert any("select/0" in line for line in lines)
    assert any("place/0" in line and "Placed(size=" in line for line in lines)


def fail():
    raise RuntimeError("the licence is lost")


def test_a_failed_episode_is_shown_with_what_reproduces_it(tmp_path, capsys):
    SequentialRolloutRunner(3, 0, output_dir=tmp_path / "run").run_with(
        lambda: FaultyEnv(fail, range(2**31)), seeding=Seeding(1, 1)
    )
    text = "\n".join(show(capsys, tmp_path / "run"))
    assert "failed 3" in text
    assert "environment after 2 steps: RuntimeError: the licence is lost" in text
    assert "--episode 0 --pdb" in text
    assert "Traceback" in "\n".join(show(capsys, tmp_path / "run", "--episode", 0))


def test_what_would_do_something_to_a_terminal_is_not_printed(run, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "journal.jsonl").unlink()
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("CartPole-v1", '"evil\\e[2J"'))
    lines = show(capsys, copy)
    assert "\x1b" not in "\n".join(lines)
    assert lines[0].startswith("evil\\x1b[2J")


def test_a_training_is_shown_by_its_evaluations(tmp_path, capsys):
    options = {"n_steps": 400, "eval_every_steps": 256, "tensorboard": False}
    TrainingRunner(show_progress=False).run_with(
        "CartPole-v1", A2C(n_lanes=4), options={**options, "learning_curve": False},
        seeding=Seeding(1, 1), output_dir=tmp_path,
    )  # fmt: skip
    lines = show(capsys, tmp_path)
    assert lines[0] == "CartPole-v1 · trained by A2C"
    assert sum("*" in line for line in lines) == 1
    assert f"input_dir={tmp_path}" in lines[-1]


def test_a_damaged_event_log_is_named_and_the_steps_are_shown_all_the_same(tmp_path, capsys):
    directory = tmp_path / "run"
    SequentialRolloutRunner(1, output_dir=directory).run_with(TwoStepEnv(), seeding=Seeding(1, 1))
    path = directory / "event_logs" / "Placed.tsv"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    lines = show(capsys, directory, "--episode", 0)
    assert any("Placed.tsv are damaged" in line for line in lines)
    assert lines[-1].split()[0] == "5"
