"""Recordings in the formats of other libraries, and theirs as recordings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces

import maze
from maze.cli.maze import main
from maze.core.errors import ConfigError, OutputError, SpaceError
from maze.datasets.exporting import export
from maze.datasets.importing import import_dataset, open_sb3
from tests.envs import CountingEnv, EchoEnv
from tests.test_datasets import CUTTING, digests

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    maze.rollout("CartPole-v1", n_episodes=12, seed=1, max_episode_steps=30, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structured") / "run"
    maze.rollout(CUTTING, n_episodes=3, seed=1, max_episode_steps=10, output_dir=folder)
    return folder


NESTED = spaces.Dict(
    {
        "place": spaces.Box(-1, 1, (2, 3), np.float64),
        "pair": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2))),
        "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    }
)
NESTED_ACTION = spaces.Dict(
    {"move": spaces.Box(-1, 1, (2,), np.float32), "gears": spaces.MultiDiscrete([2, 3])}
)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "run"
    maze.rollout(
        lambda: EchoEnv(NESTED, NESTED_ACTION),
        n_episodes=3,
        seed=1,
        max_episode_steps=7,
        output_dir=folder,
    )
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Where Minari looks for its datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


# Minari.


def test_minari_loads_and_samples_what_was_exported(run, here):
    told = export(run, "minari", here, name="cartpole/random-v0")
    assert 'minari.load_dataset("cartpole/random-v0")' in told
    dataset = minari.load_dataset("cartpole/random-v0")
    assert dataset.total_episodes == 12
    assert dataset.total_steps == maze.load(run).statistics["n_steps"]
    trajectory = maze.load(run).trajectory(3)
    episode = dataset[3]
    assert np.array_equal(episode.observations, trajectory.observations)
    assert np.array_equal(episode.actions, trajectory.actions)
    assert np.array_equal(episode.rewards, trajectory.rewards)
    assert bool(episode.terminations[-1]) == trajectory.terminated
    assert bool(episode.truncations[-1]) == trajectory.truncated
    assert len(dataset.sample_episodes(4)) == 4
    assert dataset.observation_space == gym.make("CartPole-v1").observation_space
    assert dataset.recover_environment().spec.id == "CartPole-v1"


@pytest.mark.parametrize("which", ["run", "nested"])
def test_what_went_to_minari_comes_back_bit_for_bit(which, here, tmp_path, request):
    source = request.getfixturevalue(which)
    export(source, "minari", here, name="there/andback-v0")
    import_dataset("there/andback-v0", tmp_path / "back", "minari")
    assert digests(tmp_path / "back") == digests(source)
    assert maze.verify(tmp_path / "back").is_good
    before, after = maze.load(source).table, maze.load(tmp_path / "back").table
    for name in ("env_seed", "return", "n_steps", "ending"):
        assert list(before[name]) == list(after[name]), name


def test_minari_loads_its_folder_too(run, here, tmp_path):
    export(run, "minari", here, name="there/andback-v0")
    import_dataset(here / "there" / "andback-v0", tmp_path / "back", "minari")
    assert digests(tmp_path / "back") == digests(run)


def test_a_sequence_space_is_refused_by_the_minari_exporter_with_advice(tmp_path, here):
    space = spaces.Dict({"orders": spaces.Sequence(spaces.Discrete(3))})
    maze.rollout(
        lambda: EchoEnv(space, spaces.Discrete(2)),
        n_episodes=1,
        max_episode_steps=3,
        output_dir=tmp_path / "run",
    )
    with pytest.raises(ConfigError) as caught:
        export(tmp_path / "run", "minari", here)
    message = str(caught.value)
    assert "observation['orders'], which is in a Sequence space" in message
    assert "ObservationWrapper" in message
    assert "--to parquet" in message
    export(tmp_path / "run", "parquet", tmp_path / "parquet")  # The way out is one.
    rows = pq.read_table(tmp_path / "parquet" / "steps_0.parquet")
    assert rows.num_rows == 4


@pytest.mark.parametrize("format", ["minari", "lerobot"])
def test_sub_steps_are_refused_with_a_way_out(structured, format, tmp_path):
    with pytest.raises(ConfigError, match=r"one actor only.*Export --to parquet"):
        export(structured, format, tmp_path / "out")


def test_a_dataset_that_is_not_there_is_told(here, tmp_path):
    with pytest.raises(OutputError, match="minari list local"):
        import_dataset("no/such-v0", tmp_path / "out", "minari")


def test_d3rlpy_trains_on_what_was_exported(here, tmp_path, monkeypatch):
    d3rlpy = pytest.importorskip("d3rlpy", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)  # It logs where it is called.
    maze.rollout("Pendulum-v1", n_episodes=5, seed=1, output_dir=tmp_path / "run")
    export(tmp_path / "run", "minari", here, name="pendulum/random-v0")
    dataset, _ = d3rlpy.datasets.get_minari("pendulum/random-v0")
    algorithm = d3rlpy.algos.BCConfig(batch_size=32).create(device=False)
    algorithm.fit(
        dataset, n_steps=20, n_steps_per_epoch=20, show_progress=False, with_timestamp=False
    )
    action = algorithm.predict(np.zeros((1, 3), np.float32))
    assert action.shape == (1, 1)


# Parquet and Hugging Face.


def test_parquet_holds_every_row_of_every_step_key(structured, tmp_path):
    export(structured, "parquet", tmp_path / "out")
    run = maze.load(structured)
    for stream in run.streams:
        path = tmp_path / "out" / f"{Path(stream.name).stem}.parquet"
        rows = pq.read_table(path)
        before = stream.table()
        assert rows.num_rows == before.num_rows
        assert json.loads(rows.schema.metadata[b"maze"])["step_key"] == stream.step_key
        assert pd.read_parquet(path)["reward"].sum() == pytest.approx(
            before.to_pandas()["reward"].sum()
        )
    episodes = pd.read_parquet(tmp_path / "out" / "episodes.parquet")
    assert episodes["digest"].tolist() == digests(structured)


@pytest.mark.parametrize("which", ["run", "structured", "nested"])
def test_hugging_face_loads_what_was_exported(which, tmp_path, request):
    source = request.getfixturevalue(which)
    export(source, "hf", tmp_path / "out")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    by_key = loaded if isinstance(loaded, datasets.DatasetDict) else {"steps_0": loaded}
    for stream in maze.load(source).streams:
        dataset = by_key[Path(stream.name).stem]
        before = stream.table().to_pylist()
        order = sorted(before, key=lambda row: (row["episode_index"], row["step"]))
        assert len(dataset) == len(before)
        assert dataset[5] == order[5]
    assert not (tmp_path / "out.parquet").exists()


# LeRobot.


def test_the_layout_of_lerobot_is_that_of_its_version_3(run, tmp_path):
    export(run, "lerobot", tmp_path / "out", name="balance the pole")
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    table = maze.load(run).table
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"]) == (12, int(sum(table["n_steps"])))
    assert info["fps"] == 50
    assert info["features"]["observation.state"] == {
        "dtype": "float32",
        "shape": [4],
        "names": None,
    }
    rows = pq.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet").to_pandas()
    trajectory = maze.load(run).trajectory(2)
    of_episode = rows[rows.episode_index == 2]
    assert np.array_equal(
        np.stack(list(of_episode["observation.state"])), trajectory.observations[:-1]
    )
    assert of_episode["action"].tolist() == trajectory.actions.tolist()
    assert of_episode["next.done"].tolist() == [False] * (len(trajectory) - 1) + [True]
    assert of_episode["timestamp"].tolist() == pytest.approx(
        [t / 50 for t in range(len(trajectory))]
    )
    episodes = pq.read_table(
        tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    ).to_pylist()
    assert episodes[2]["length"] == len(trajectory)
    assert episodes[2]["tasks"] == ["balance the pole"]
    assert episodes[3]["dataset_from_index"] == episodes[2]["dataset_to_index"]
    stats = json.loads((tmp_path / "out" / "meta" / "stats.json").read_text())
    everything = np.stack(list(rows["observation.state"]))
    assert stats["observation.state"]["mean"] == pytest.approx(
        everything.mean(axis=0).tolist(), abs=1e-5
    )
    assert stats["observation.state"]["std"] == pytest.approx(
        everything.std(axis=0).tolist(), abs=1e-5
    )
    assert stats["action"]["count"] == [len(rows)]
    assert pd.read_parquet(tmp_path / "out" / "meta" / "tasks.parquet").index.tolist() == [
        "balance the pole"
    ]


def test_lerobot_holds_pictures(tmp_path):
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    maze.rollout(
        lambda: EchoEnv(space, spaces.Box(-1, 1, (2,), np.float32)),
        n_episodes=2,
        seed=1,
        max_episode_steps=3,
        output_dir=tmp_path / "run",
    )
    export(tmp_path / "run", "lerobot", tmp_path / "out")
    import io

    from PIL import Image

    rows = pq.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet").to_pylist()
    picture = np.asarray(Image.open(io.BytesIO(rows[1]["observation.image"]["bytes"])))
    assert np.array_equal(picture, maze.load(tmp_path / "run").trajectory(0).observations[1])


def test_lerobot_refuses_matrices_with_a_way_out(tmp_path, nested):
    with pytest.raises(ConfigError, match=r"vectors, and pictures.*FlattenObservation"):
        export(nested, "lerobot", tmp_path / "out")


# D4RL.


def d4rl_file(path: Path, *, with_next: bool = True, with_timeouts: bool = True) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    n = 50
    observations = rng.normal(size=(n + 1, 3)).astype(np.float32)
    data: dict[str, Any] = {
        "observations": observations[:-1],
        "actions": rng.uniform(-2, 2, size=(n, 1)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": np.isin(np.arange(n), [9, 29]),
    }
    if with_next:
        data["next_observations"] = observations[1:]
    if with_timeouts:
        data["timeouts"] = np.isin(np.arange(n), [19, 49])
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values
    return data


def test_a_file_in_the_form_of_d4rl_becomes_a_recording(tmp_path):
    data = d4rl_file(tmp_path / "hopper.hdf5")
    import_dataset(tmp_path / "hopper.hdf5", tmp_path / "out", "d4rl")
    run = maze.load(tmp_path / "out")
    assert [(row.ending, row.n_steps) for row in run.table] == [
        ("terminated", 10),
        ("truncated", 10),
        ("terminated", 10),
        ("truncated", 20),
    ]
    trajectory = run.trajectory(1)
    assert np.array_equal(trajectory.observations[:-1], data["observations"][10:20])
    assert np.array_equal(trajectory.observations[-1], data["next_observations"][19])
    assert np.array_equal(trajectory.actions, data["actions"][10:20])
    assert trajectory.rewards.tolist() == data["rewards"][10:20].astype(float).tolist()
    assert maze.verify(tmp_path / "out").is_good
    assert "hopper.hdf5" in (tmp_path / "out" / "README.md").read_text()


def test_what_such_a_file_lacks_is_said_and_not_made_up(tmp_path):
    from maze.datasets.recordings import Recordings

    d4rl_file(tmp_path / "x.hdf5", with_next=False, with_timeouts=False)
    import_dataset(tmp_path / "x.hdf5", tmp_path / "out", "d4rl")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no next_observations" in card
    assert "no timeouts" in card
    run = maze.load(tmp_path / "out")
    trajectory = run.trajectory(0)
    assert len(trajectory.observations) == len(trajectory.actions) == 10
    assert maze.verify(tmp_path / "out").is_good
    recordings = Recordings(tmp_path / "out")
    with pytest.raises(ConfigError, match="was not recorded: leave that step out"):
        [recordings.read(shard) for shard in recordings.shards]
    clip = {"_target_": "maze.datasets.selection.ClipTruncated", "n_steps": 1}
    clipped = Recordings(tmp_path / "out", processors=[clip])
    (rows,) = [clipped.read(shard)[0] for shard in clipped.shards]
    assert rows.n == 49


def test_the_environment_says_what_the_spaces_are(tmp_path):
    d4rl_file(tmp_path / "x.hdf5")
    with pytest.raises(SpaceError, match=r"observation has shape \(3,\).*and \(4,\) in the space"):
        import_dataset(tmp_path / "x.hdf5", tmp_path / "a", "d4rl", env="CartPole-v1")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        file["observations"][...] = np.clip(file["observations"], -1, 1)
        file["next_observations"][...] = np.clip(file["next_observations"], -1, 1)
    import_dataset(tmp_path / "x.hdf5", tmp_path / "b", "d4rl", env="Pendulum-v1")
    stream: Any
    (stream,) = maze.load(tmp_path / "b").streams
    assert stream.observation_space["observation"] == gym.make("Pendulum-v1").observation_space
    assert maze.load(tmp_path / "b").config["env"] == "Pendulum-v1"


def test_a_file_of_something_else_is_told(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["obs"] = np.zeros(3)
    with pytest.raises(OutputError, match="lacks actions, observations, rewards, terminals"):
        import_dataset(tmp_path / "x.hdf5", tmp_path / "out", "d4rl")


# imitation and Stable-Baselines3.


def test_trajectories_of_imitation_become_a_recording(run, tmp_path):
    types = pytest.importorskip("imitation.data.types", exc_type=ImportError)
    serialize = pytest.importorskip("imitation.data.serialize", exc_type=ImportError)
    before = maze.load(run)
    trajectories = [
        types.TrajectoryWithRew(
            obs=one.observations,
            acts=one.actions,
            infos=None,
            terminal=one.terminated,
            rews=one.rewards,
        )
        for one in before
    ]
    serialize.save(tmp_path / "saved", trajectories)
    import_dataset(tmp_path / "saved", tmp_path / "a", "imitation", env="CartPole-v1")
    import_dataset(trajectories, tmp_path / "b", "imitation", env="CartPole-v1")
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(run)


def test_a_replay_buffer_of_sb3_becomes_a_recording(tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.SAC("MlpPolicy", "Pendulum-v1", learning_starts=10_000, buffer_size=1000, seed=1)
    model.learn(450)
    import_dataset(model.replay_buffer, tmp_path / "a", "sb3", env="Pendulum-v1")
    rows = list(maze.load(tmp_path / "a").table)
    assert [(row.ending, row.n_steps) for row in rows] == [
        ("truncated", 200),
        ("truncated", 200),
        ("truncated", 50),
    ]
    trajectory = maze.load(tmp_path / "a").trajectory(0)
    assert len(trajectory.observations) == 201
    assert maze.verify(tmp_path / "a").is_good
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.raises(ConfigError, match=r"is a pickle, which can run any code.*--trust"):
        import_dataset(tmp_path / "buffer.pkl", tmp_path / "b", "sb3")
    import_dataset(tmp_path / "buffer.pkl", tmp_path / "b", "sb3", env="Pendulum-v1", trust=True)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_rollout_buffer_of_sb3_becomes_a_recording(tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.callbacks import BaseCallback

    class Keep(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            import_dataset(model.rollout_buffer, tmp_path / "out", "sb3", env="CartPole-v1")

    model = sb3.A2C("MlpPolicy", "CartPole-v1", n_steps=100, seed=1)
    model.learn(100, callback=Keep())
    rows = list(maze.load(tmp_path / "out").table)
    assert sum(row.n_steps for row in rows) == 100
    assert maze.verify(tmp_path / "out").is_good
    with pytest.raises(ConfigError, match="no buffer of arrays"):
        open_sb3(object())


# The commands.


def test_the_commands_make_datasets_of_recordings(run, tmp_path, capsys, here):
    assert main(["merge", str(run), str(run), "--output", str(tmp_path / "both")]) == 0
    assert "24 episodes" in capsys.readouterr().out
    assert main(["merge", str(run), "--min-return", "20", "--output", str(tmp_path / "good")]) == 0
    assert min(map(float, maze.load(tmp_path / "good").table["return"])) >= 20
    outputs = [str(tmp_path / "train"), str(tmp_path / "test")]
    assert main(["split", str(run), "--output", *outputs, "--shares", "0.75", "0.25"]) == 0
    assert "9 episodes" in capsys.readouterr().out
    command = [
        "export",
        outputs[0],
        "--to",
        "minari",
        "--output",
        str(here),
        "--name",
        "pole/halves-v0",
    ]
    assert main(command) == 0
    assert "minari.load_dataset" in capsys.readouterr().out
    assert (
        main(["import", "pole/halves-v0", "--from", "minari", "--output", str(tmp_path / "back")])
        == 0
    )
    assert digests(tmp_path / "back") == digests(tmp_path / "train")
    assert main(["show", str(tmp_path / "back")]) == 0
    assert "import from minari" in capsys.readouterr().out
    assert main(["export", outputs[0], "--to", "csv", "--output", str(tmp_path / "x")]) == 2
    assert "choose one of minari, parquet, lerobot, hf" in capsys.readouterr().err


def test_an_export_does_not_write_over_what_is_there(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is there already"):
        export(run, "parquet", tmp_path)


def test_long_episodes_are_imported_in_parts(tmp_path):
    n = 66_000
    with h5py.File(tmp_path / "long.hdf5", "w") as file:
        file["observations"] = np.arange(n, dtype=np.float32)[:, None]
        file["next_observations"] = np.arange(1, n + 1, dtype=np.float32)[:, None]
        file["actions"] = np.zeros(n, np.int64)
        file["rewards"] = np.ones(n)
        file["terminals"] = np.arange(n) == n - 1
    import_dataset(tmp_path / "long.hdf5", tmp_path / "out", "d4rl")
    assert maze.verify(tmp_path / "out").is_good
    journal = maze.load(tmp_path / "out").journal
    assert journal is not None
    assert any(entry.part_of is not None for entry in journal.entries)


def test_a_missing_library_names_the_extra(run, tmp_path):
    code = (
        "import sys; sys.modules['minari'] = None\n"
        "from maze.datasets.exporting import export\n"
        f"export({str(run)!r}, 'minari', {str(tmp_path / 'x')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "maze-rollouts[minari]" in done.stderr


def test_recordings_without_any_good_episode_are_not_exported(tmp_path):
    class Broken(CountingEnv):
        def step(self, action):
            raise ValueError("broken")

    maze.rollout(Broken, n_episodes=1, output_dir=tmp_path / "run")
    with pytest.raises(OutputError, match="all have failed"):
        export(tmp_path / "run", "lerobot", tmp_path / "out")
