"""Files that somebody has made in order to harm: an error, no harm, and bounded memory.

Their checksums are right, since anybody can compute them.
"""

import contextlib
import json
import pickle
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import maze
from maze.core.errors import OutputError
from maze.core.ledger.check import DamagedError
from maze.core.ledger.journal import checksum_of
from maze.core.rollout.run_directory import RunDirectory, read_config
from maze.core.trajectory.arrow_messages import check_declared_sizes
from tests.runs import rewrite_journal

STREAM = "trajectory_data/steps_0.arrow"


@pytest.fixture
def recorded(tmp_path):
    maze.rollout("CartPole-v1", n_episodes=30, seed=1, output_dir=tmp_path / "run")
    return tmp_path / "run"


def data_of(directory: Path) -> tuple[bytes, int]:
    """Return the first batch of the trajectory data, and where it begins."""
    journal = maze.load(directory).journal
    assert journal is not None
    (piece,) = [entry.pieces[STREAM] for entry in journal.entries if STREAM in entry.pieces]
    data = (directory / STREAM).read_bytes()
    return data[piece.offset : piece.offset + piece.length], piece.offset


def with_data(directory: Path, data: bytes) -> RunDirectory:
    """Put other data in the place of the first batch, with the right checksum."""
    _, offset = data_of(directory)
    head = (directory / STREAM).read_bytes()[:offset]
    (directory / STREAM).write_bytes(head + data)

    def change(fields):
        if STREAM in fields.get("files", {}):
            fields["files"][STREAM] = [offset, len(data), checksum_of(data)]
        return fields

    return rewrite_journal(directory, change)


def test_record_batches_with_any_changes_give_an_error_or_an_array_and_no_crash(recorded):
    data, _ = data_of(recorded)
    stream = maze.load(recorded).streams[0]
    generator = random.Random(0)
    n_errors = 0
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(generator.choice([1, 1, 2, 5])):
            # Mostly in the metadata, where it hurts.
            at = generator.randrange(min(len(changed), 1200))
            changed[at] = generator.choice([0, 255, 127, 128, generator.randrange(256)])
        try:
            for batch in stream._decoded(bytes(changed)):
                batch.column(0).to_numpy()
        except DamagedError:
            n_errors += 1
    assert n_errors > 500
    # Megabytes, of this whole process and all tests before this one.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 < 2000


def test_a_buffer_that_claims_to_be_huge_is_not_believed(recorded):
    data, _ = data_of(recorded)
    message = pa.ipc.read_message(pa.BufferReader(data))
    check_declared_sizes(message)
    # Each compressed buffer begins with its size; all are as long as their columns here.
    assert message.body is not None
    body_start = len(data) - message.body.size
    huge = bytearray(data)
    huge[body_start : body_start + 8] = (2**40).to_bytes(8, "little")
    run = with_data(recorded, bytes(huge))
    with pytest.raises(OutputError, match="claim to be more than they can hold"):
        run.trajectory(0)
    assert list(maze.load(recorded).table["return"])


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "dtype": "float32", "shape": [10**12], "low": 0.0, "high": 1.0},
        {"type": "MultiBinary", "shape": [10**7, 10**7]},
        {
            "type": "Dict",
            "spaces": [
                [str(i), {"type": "Box", "dtype": "int8", "shape": [2**23], "low": 0, "high": 1}]
                for i in range(1000)
            ],
        },
        {"type": "Pickle", "data": "gASVJAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU"},
        {"type": "Box", "dtype": "object", "shape": [1], "low": 0, "high": 1},
        [],
        None,
    ],
    ids=["a huge array", "huge bits", "many", "an unknown type", "objects", "a list", "nothing"],
)
def test_a_schema_with_a_space_that_cannot_be_gives_an_error(space, recorded, tmp_path):
    schema = pa.ipc.open_stream((recorded / STREAM).read_bytes()).schema
    assert schema.metadata is not None
    description = {**json.loads(schema.metadata[b"maze"]), "observation_space": space}
    path = tmp_path / "steps_0.arrow"
    hostile = schema.with_metadata({b"maze": json.dumps(description).encode()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, hostile):
        pass
    from maze.core.trajectory.trajectory import StepsStream

    with pytest.raises(OutputError, match="holds no trajectory data of Maze"):
        StepsStream(path)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "a: !!python/name:os.system ''",
        "\n".join(
            ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
        ),
        "a: &a [*a]",
        "[" * 100_000,
        "a: b: c",
        "\x00",
    ],
    ids=["call", "name", "billion laughs", "itself", "deep", "no YAML", "no text"],
)
def test_a_config_is_read_as_plain_values_or_not_at_all(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(OutputError, match=r"config.yaml cannot be read"):
        read_config(tmp_path / "config.yaml")
    assert not (tmp_path / "canary").exists()


PICKLE = b"cos\nsystem\n(S'touch canary'\ntR."


@pytest.mark.parametrize(
    "name",
    ["episodes.parquet", "journal.jsonl", "statistics.json", STREAM, "event_logs/Reward.tsv"],
)
def test_a_pickle_under_one_of_our_names_is_not_loaded(name, recorded, tmp_path):
    (recorded / name).write_bytes(PICKLE)
    code = f"""
import warnings; warnings.simplefilter("ignore")
import maze
run = maze.load({str(recorded)!r})
for look in (lambda: run.table, lambda: list(run), lambda: run.config, lambda: run.statistics,
             lambda: run.events("Reward"), lambda: print(maze.verify({str(recorded)!r}))):
    try:
        look()
    except maze.core.errors.MazeError as error:
        print("error:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()
    assert name in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"episode_return": ["high"] * 30},
        {"episode_return": {"all": []}},
        {"statistics": {"all": {"a": "b"}}},
        {"statistics": [1] * 30},
        {"failure": {"all": 5}},
        {"ending": [None]},
        {"episode_index": [0] * 30},
        {"n_steps": {"all": 10**30}},
        {"parts": {"0": [1, 2]}},
        {"parts": 3},
        {"files": {STREAM: [0, 10**15, "0"]}},
        {"files": {STREAM: [2**70, 1, "0"]}},
        {"zero_statistics": 5},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_a_journal_that_makes_no_sense_gives_errors_of_ours(change, recorded):
    def changed(fields):
        return {**fields, **change} if fields["kind"] == "episodes" else fields

    (recorded / "episodes.parquet").unlink()
    run = rewrite_journal(recorded, changed)
    for look in (
        lambda: run.table,
        lambda: list(run),
        lambda: run.events("Reward"),
        lambda: run.trajectory(0),
        lambda: maze.verify(recorded),
        lambda: maze.resume(recorded, n_episodes=31),
    ):
        with contextlib.suppress(maze.core.errors.MazeError):
            look()


class Trap:
    """Leaves a canary where it is unpickled."""

    def __reduce__(self):
        return open, ("canary", "w")


def test_what_lies_in_a_directory_from_somebody_else_is_not_executed(recorded, monkeypatch):
    # Whatever a file of ours, or one beside them, would do if it was loaded or imported.
    trap = pickle.dumps(Trap())
    sing = "open('canary', 'w')\n"
    for name in ("steps_0.pkl", "steps_1.arrow", "episode_0.pickle", "steps_place.arrow"):
        (recorded / "trajectory_data" / name).write_bytes(trap)
    for name in ("episodes.pkl", "policy.pt", "model.pkl", "state.joblib", "statistics.pkl"):
        (recorded / name).write_bytes(trap)
    for name in ("event_logs/Pickled.tsv", "replaced.jsonl"):
        (recorded / name).write_bytes(trap)
    np.savez(recorded / "trajectory_data" / "steps_2.npz", np.array([Trap()], dtype=object))
    np.save(recorded / "episodes.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with_extension_type(recorded / "trajectory_data" / "steps_3.arrow", trap)
    jsonpickle = {"py/reduce": [{"py/function": "builtins.open"}, {"py/tuple": ["canary", "w"]}]}
    (recorded / "statistics.json").write_text(json.dumps({"statistics": jsonpickle}))
    hostile_yaml = "!!python/object/apply:builtins.open ['canary', 'w']\n"
    (recorded / "config.yaml").write_text(hostile_yaml)
    (recorded / ".hydra").mkdir()
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (recorded / ".hydra" / name).write_text(hostile_yaml)
    for name in ("canary_env", "sitecustomize", "usercustomize", "numpy", "maze", "conftest"):
        (recorded / f"{name}.py").write_text(sing)

    def name_the_trap(fields):
        if "config" in fields:
            fields["config"]["env"] = {"_target_": "canary_env.Env"}
            fields["config"]["policy"] = {"_target_": "builtins.open", "file": "canary"}
        return fields

    rewrite_journal(recorded, name_the_trap)
    code = """
import sys, warnings
import maze
from maze.cli.maze import main
warnings.simplefilter("ignore")
run = maze.load(".")
print(run, len(run.table), len(list(run)), run.config["env"], run.statistics, run.event_types)
print(run.events("Reward"), run.episodes)
commands = ["verify .", "verify . --replay 1", "resume . runner.n_episodes=40", "video .",
            "replay . --episode 1"]
for command in commands:
    print(command, "->", main(command.split()))
    sys.stdout.flush()
"""
    done = subprocess.run(
        # As an installed command, with no place for modules in the current directory.
        [sys.executable, "-P", "-c", code],
        cwd=recorded,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not (recorded / "canary").exists()
    assert re.findall(r"^(.*) -> (\d)$", done.stdout, re.MULTILINE) == [
        ("verify .", "1"),
        ("verify . --replay 1", "2"),
        ("resume . runner.n_episodes=40", "2"),
        ("video .", "2"),
        ("replay . --episode 1", "2"),
    ]
    assert done.stderr.count("If you trust whoever made it, agree with --trust") == 4
    assert done.stderr.count("\n  canary_env.Env\n") == 4
    assert done.stderr.count("\n  builtins.open\n") == 2  # Recorded actions need no policy.
    monkeypatch.chdir(recorded)
    pickle.loads(trap).close()  # It would have sung.
    assert (recorded / "canary").exists()


def with_extension_type(path: Path, trap: bytes) -> None:
    """Write a stream with a column of a type that older versions of pyarrow unpickle."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": trap,
    }
    field = pa.field("episode_index", pa.int64(), metadata=metadata)
    schema = pa.schema([field], metadata={b"maze": b"{}"})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([0, 1])], schema=schema))
