"""Recordings for other libraries: Parquet, Hugging Face datasets, Minari, LeRobot.

Episodes are written one after the other; nothing but one of them is in memory. Where a format
cannot hold a space, it is said which one and what to do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.errors import ConfigError, MissingExtraError, OutputError
from maze.core.rollout.rollout_runner import names_of
from maze.core.rollout.run_directory import RunDirectory, warn
from maze.core.trajectory.columns import Leaf
from maze.core.trajectory.trajectory import Trajectory
from maze.datasets.card import CARD_FILE, card_of

FORMATS = ("minari", "parquet", "lerobot", "hf")
_ROWS_A_GROUP = 65_536
_FILE_BYTES = 100 * 10**6
_FILES_A_CHUNK = 1000
_KEPT_BY_MINARI = (
    *(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
    *(spaces.Text, spaces.Dict, spaces.Tuple),
)


def export(
    directory: str | Path, format: str, output: str | Path, *, name: str | None = None
) -> str:
    """Write a recording in the format of another library.

    Episodes that failed are left out, but for ``parquet`` and ``hf``.

    Args:
        directory: of the recording.
        format: ``parquet`` (a file for each step key, and the table of episodes), ``hf`` (a
            dataset of Hugging Face, for ``load_from_disk``), ``minari`` (a local dataset), or
            ``lerobot`` (version 3.0 of its format).
        output: a folder that does not exist yet; for ``minari``, the folder of datasets.
        name: for ``minari``, the id of the dataset, such as ``cartpole/random-v0``; for
            ``lerobot``, the task.

    Returns:
        How it is opened, in Python.

    Raises:
        ConfigError: If the format is unknown or cannot hold the recording, with what to do.
        OutputError: If there is nothing to write, or it cannot be written.
        MissingExtraError: If a library is missing.
    """
    writers = {
        "parquet": _export_parquet,
        "hf": _export_hf,
        "minari": _export_minari,
        "lerobot": _export_lerobot,
    }
    if format not in writers:
        raise ConfigError(f"there is no format '{format}': choose one of {', '.join(FORMATS)}")
    run, output = RunDirectory(directory), Path(output)
    if not run.streams:
        raise OutputError(f"{run.path} has no trajectory data to export")
    if format != "minari" and output.exists() and any(output.iterdir()):
        raise OutputError(f"'{output}' is there already: choose another place for the export")
    try:
        return writers[format](run, output, name)
    except OSError as error:
        raise OutputError(f"cannot write into '{output}': {error.strerror or error}") from error


# Parquet.


def _export_parquet(run: RunDirectory, output: Path, name: str | None) -> str:
    import pyarrow.parquet as pq

    output.mkdir(parents=True, exist_ok=True)
    for stream in run.streams:
        path = output / f"{Path(stream.name).stem}.parquet"
        writer: pq.ParquetWriter | None = None
        waiting: list[pa.RecordBatch] = []
        try:
            for index in run.table.episode_indices.tolist():
                for part in stream.parts(index):
                    if writer is None:
                        writer = pq.ParquetWriter(path, part.schema, compression="zstd")
                    waiting.append(part)
                    if sum(one.num_rows for one in waiting) >= _ROWS_A_GROUP:
                        writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
                        waiting = []
            if writer is not None and waiting:
                writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
        finally:
            if writer is not None:
                writer.close()
    run.table.write_parquet(output / "episodes.parquet")
    for file in ("config.yaml",):
        if (run.path / file).exists():
            shutil.copyfile(run.path / file, output / file)
    (output / CARD_FILE).write_text(card_of(run.path), encoding="utf-8")
    first = Path(run.streams[0].name).stem
    return f'pandas.read_parquet("{output / (first + ".parquet")}")'


# Hugging Face.


def _export_hf(run: RunDirectory, output: Path, name: str | None) -> str:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "hf") from None
    for stream in run.streams:
        for leaf in (*stream.observation_leaves, *stream.action_leaves):
            if leaf.is_ragged and not isinstance(leaf.space, spaces.Text | spaces.Sequence):
                raise _cannot_hold("a dataset of Hugging Face", leaf, leaf.space)
    beside = output.with_name(f"{output.name}.parquet")
    datasets.disable_progress_bars()
    try:
        _export_parquet(run, beside, None)
        splits = {}
        for stream in run.streams:
            stem = Path(stream.name).stem
            splits[stem] = datasets.Dataset.from_parquet(
                str(beside / f"{stem}.parquet"), cache_dir=str(beside / "cache")
            )
        if len(splits) == 1:
            next(iter(splits.values())).save_to_disk(str(output))
        else:
            datasets.DatasetDict(splits).save_to_disk(str(output))
        shutil.copyfile(beside / CARD_FILE, output / CARD_FILE)
    finally:
        datasets.enable_progress_bars()
        shutil.rmtree(beside, ignore_errors=True)
    return f'datasets.load_from_disk("{output}")'


# Minari.


def _export_minari(run: RunDirectory, output: Path, name: str | None) -> str:
    observation_space, action_space = _plain_spaces(run, "Minari")
    for role, space in (("observation", observation_space), ("action", action_space)):
        _check_minari(space, role)
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError:
        raise MissingExtraError("minari", "minari") from None
    env_name, policy = names_of(run.config)
    name = name or f"{env_name.lower().replace('/', '-')}/{run.path.resolve().name}-v0"
    env = run.config.get("env")
    env_id = env if isinstance(env, str) else (env or {}).get("name")

    def buffers() -> Iterator[Any]:
        for number, (row, trajectory) in enumerate(_episodes(run)):
            n = len(trajectory)
            yield EpisodeBuffer(
                id=number,
                seed=row.env_seed,
                observations=_values(trajectory.observations),
                actions=_values(trajectory.actions),
                rewards=trajectory.rewards.tolist(),
                terminations=[False] * (n - 1) + [trajectory.terminated],
                truncations=[False] * (n - 1) + [trajectory.truncated],
                infos={},
            )

    output.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"jpeg_encoding": False}
    with _variable("MINARI_DATASETS_PATH", str(output.resolve())):
        try:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # About who the author is, and so on.
                dataset = minari.create_dataset_from_buffers(
                    name,
                    buffers(),
                    observation_space=observation_space,
                    action_space=action_space,
                    algorithm_name=policy,
                    description=f"Recorded by Maze: {env_name}, {policy}.",
                    **options,
                )
                if (spec := _spec_of(env_id)) is not None:
                    dataset.storage.update_metadata({"env_spec": spec.to_json()})
        except ValueError as error:
            raise ConfigError(
                f"Minari refuses '{name}' ({error}). Its ids are like cartpole/random-v0: give one"
                " with --name"
            ) from error
    return f'minari.load_dataset("{name}")  # MINARI_DATASETS_PATH={output}'


def _spec_of(env_id: Any) -> Any:
    import gymnasium as gym

    if not isinstance(env_id, str):
        return None
    try:
        return gym.spec(env_id)
    except Exception:
        return None  # Not one of Gymnasium's, then.


def _check_minari(space: spaces.Space[Any], name: str) -> None:
    if not isinstance(space, _KEPT_BY_MINARI):
        raise ConfigError(
            f"Minari cannot hold {name}, which is in a {type(space).__name__} space: it takes Box,"
            " Discrete, MultiDiscrete, MultiBinary, Text, and Dict and Tuple of these. Make an"
            " array of fixed shape of it with an ObservationWrapper and convert the recording"
            " (maze.datasets.convert), or export --to parquet, which holds every space"
        )
    children: Sequence[tuple[Any, spaces.Space[Any]]] = ()
    if isinstance(space, spaces.Dict):
        children = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        children = list(enumerate(space.spaces))
    for key, child in children:
        _check_minari(child, f"{name}[{key!r}]")


# LeRobot.


def _export_lerobot(run: RunDirectory, output: Path, name: str | None) -> str:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError("pandas", "pandas") from None
    _plain_spaces(run, "LeRobot")
    env_name, _ = names_of(run.config)
    task = name or env_name
    writer = _LeRobotWriter(output, run)
    for row, trajectory in _episodes(run):
        writer.add(row.episode_index, trajectory)
    writer.close(task, pd)
    return f'LeRobotDataset("maze/{output.name}", root="{output}")'


class _LeRobotWriter:
    """Writes version 3.0 of the format, as https://huggingface.co/docs/lerobot describes it."""

    def __init__(self, output: Path, run: RunDirectory) -> None:
        (stream,) = run.streams
        self._output = output
        self._leaves = [
            (_lerobot_name(leaf, stream.observation_leaves, "observation"), leaf, "observation")
            for leaf in stream.observation_leaves
        ] + [
            (_lerobot_name(leaf, stream.action_leaves, "action"), leaf, "action")
            for leaf in stream.action_leaves
        ]
        for _, leaf, role in self._leaves:
            _check_lerobot(leaf, role)
        self._fps = _frames_per_second(run)
        self._features = {name: _lerobot_feature(leaf) for name, leaf, _ in self._leaves}
        for name, dtype in (
            *(("next.reward", "float32"), ("next.done", "bool"), ("next.truncated", "bool")),
            *(("timestamp", "float32"), ("frame_index", "int64"), ("episode_index", "int64")),
            *(("index", "int64"), ("task_index", "int64")),
        ):
            self._features[name] = {"dtype": dtype, "shape": [1], "names": None}
        self._moments: dict[str, _Moments] = {}
        self._writer: Any = None
        self._n_frames = self._n_files = self._n_bytes = 0
        self._rows: list[dict[str, Any]] = []
        self._file_of_rows = 0

    def add(self, episode_index: int, trajectory: Trajectory) -> None:
        """Write an episode; the observation after its last action has no place in the format."""
        import pyarrow.parquet as pq

        n, number = len(trajectory), len(self._rows)
        (part,) = trajectory.by_step_key.values()
        columns: dict[str, Any] = {}
        for name, leaf, role in self._leaves:
            values: Any = part.observations if role == "observation" else part.actions
            for key in leaf.path:
                values = values[key]
            columns[name] = self._column(name, leaf, values[:n])
        is_last = np.arange(n) == n - 1
        frames = np.arange(n, dtype=np.int64)
        plain: dict[str, NDArray[Any]] = {
            "next.reward": trajectory.rewards.astype(np.float32),
            "next.done": is_last,
            "next.truncated": is_last & trajectory.truncated,
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(n, number, np.int64),
            "index": frames + self._n_frames,
            "task_index": np.zeros(n, np.int64),
        }
        for name, array in plain.items():
            self._see(name, array.reshape(n, 1))
            columns[name] = pa.array(array)
        table = pa.table(columns)
        if self._n_bytes + table.nbytes > _FILE_BYTES and self._writer is not None:
            self._writer.close()
            self._writer, self._n_bytes = None, 0
            self._n_files += 1
        chunk, file = divmod(self._n_files, _FILES_A_CHUNK)
        if self._writer is None:
            path = self._output / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._n_bytes += table.nbytes
        self._rows.append(
            {
                "episode_index": number,
                "tasks": None,
                "length": n,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": self._n_frames,
                "dataset_to_index": self._n_frames + n,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        self._n_frames += n

    def _column(self, name: str, leaf: Leaf, values: Any) -> Any:
        array = np.asarray(values)
        if _is_image(leaf):
            self._see(name, array.transpose(0, 3, 1, 2) / 255.0, axes=(0, 2, 3))
            encoded = [{"bytes": _png(picture), "path": None} for picture in array]
            return pa.array(encoded, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        flat = array.reshape(len(array), -1)
        if flat.dtype == np.float64:
            flat = flat.astype(np.float32)
        if flat.dtype.kind in "iu":
            flat = flat.astype(np.int64)
        self._see(name, flat)
        if flat.shape[1] == 1:
            return pa.array(flat[:, 0])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])

    def _see(self, name: str, values: NDArray[Any], axes: tuple[int, ...] = (0,)) -> None:
        self._moments.setdefault(name, _Moments()).add(values.astype(np.float64), axes)

    def close(self, task: str, pd: Any) -> None:
        """Write what is known at the end."""
        import pyarrow.parquet as pq

        if self._writer is None:
            raise OutputError("there is no episode to export")
        self._writer.close()
        meta = self._output / "meta"
        episodes = meta / "episodes/chunk-000/file-000.parquet"
        episodes.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**row, "tasks": [task]} for row in self._rows]
        pq.write_table(pa.Table.from_pylist(rows), episodes)
        pd.DataFrame({"task_index": [0]}, index=pd.Index([task], name="task")).to_parquet(
            meta / "tasks.parquet"
        )
        stats = {name: moments.to_json() for name, moments in self._moments.items()}
        (meta / "stats.json").write_text(json.dumps(stats, indent=4), encoding="utf-8")
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(rows),
            "total_frames": self._n_frames,
            "total_tasks": 1,
            "chunks_size": _FILES_A_CHUNK,
            "data_files_size_in_mb": _FILE_BYTES // 10**6,
            "video_files_size_in_mb": 200,
            "fps": self._fps,
            "splits": {"train": f"0:{len(rows)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": None,
            "features": self._features,
        }
        (meta / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")


class _Moments:
    """Smallest, largest, mean and deviation of what passes by."""

    def __init__(self) -> None:
        self._n = 0
        self._count = 0

    def add(self, values: NDArray[np.float64], axes: tuple[int, ...]) -> None:
        low, high = values.min(axis=axes), values.max(axis=axes)
        total, squares = values.sum(axis=axes), np.square(values).sum(axis=axes)
        if not self._count:
            self._low, self._high, self._sum, self._squares = low, high, total, squares
        else:
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
            self._sum, self._squares = self._sum + total, self._squares + squares
        self._count += values.size // max(len(np.ravel(low)), 1)
        self._n += len(values)
        self._is_picture = len(axes) > 1

    def to_json(self) -> dict[str, Any]:
        mean = self._sum / self._count
        std = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0.0))
        named = {"min": self._low, "max": self._high, "mean": mean, "std": std}
        # Of pictures, for each channel, in the shape in which it is taken off.
        shaped = {
            name: value.reshape(-1, 1, 1).tolist() if self._is_picture else value.tolist()
            for name, value in named.items()
        }
        return {**shaped, "count": [self._n]}


def _lerobot_name(leaf: Leaf, all_leaves: Sequence[Leaf], role: str) -> str:
    if len(all_leaves) == 1:
        if role == "action":
            return "action"
        return "observation.image" if _is_image(leaf) else "observation.state"
    return ".".join([role, *(str(key) for key in leaf.path)])


def _lerobot_feature(leaf: Leaf) -> dict[str, Any]:
    if _is_image(leaf):
        return {
            "dtype": "image",
            "shape": list(leaf.shape),
            "names": ["height", "width", "channel"],
        }
    assert leaf.dtype is not None
    kind = leaf.dtype.kind
    dtype = "float32" if kind == "f" else "bool" if kind == "b" else "int64"
    return {"dtype": dtype, "shape": [max(int(np.prod(leaf.shape)), 1)], "names": None}


def _check_lerobot(leaf: Leaf, role: str) -> None:
    if leaf.is_ragged:
        raise _cannot_hold("LeRobot", leaf, leaf.space)
    if len(leaf.shape) > 1 and not _is_image(leaf):
        raise ConfigError(
            f"LeRobot holds vectors, and pictures of shape (height, width, 3) in bytes; {leaf.name}"
            f" is in {leaf.space}. Flatten it (wrapper gymnasium.wrappers.FlattenObservation), or"
            " export --to parquet"
        )


def _is_image(leaf: Leaf) -> bool:
    return leaf.dtype == np.uint8 and len(leaf.shape) == 3 and leaf.shape[2] in (1, 3)


def _png(picture: NDArray[np.uint8]) -> bytes:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("pillow", "images") from None
    buffer = io.BytesIO()
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG")
    return buffer.getvalue()


def _frames_per_second(run: RunDirectory) -> int:
    """Return that of the environment, if Gymnasium knows it; else 30."""
    env = run.config.get("env")
    spec = _spec_of(env if isinstance(env, str) else (env or {}).get("name"))
    with contextlib.suppress(Exception):
        if spec is not None and str(spec.entry_point).startswith("gymnasium."):
            from gymnasium.envs.registration import load_env_creator

            creator: Any = load_env_creator(spec.entry_point)
            return int(creator.metadata["render_fps"])
    return 30


# What they share.


def _episodes(run: RunDirectory) -> Iterator[tuple[Any, Trajectory]]:
    """Return the episodes that did not fail, and that have steps."""
    n = 0
    for row in run.table:
        if row.ending == "failed" or not row.n_steps:
            continue
        try:
            trajectory = run.trajectory(row.episode_index)
        except OutputError as error:
            warn(f"{error}; it is left out")
            continue
        n += 1
        yield row, trajectory
    if not n:
        raise OutputError(f"there is no episode to export in {run.path}: all have failed")


def _plain_spaces(run: RunDirectory, library: str) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the spaces without the dictionaries that Maze puts around plain ones."""
    if not run.streams[0].description["is_flat"]:
        keys = [stream.step_key for stream in run.streams]
        raise ConfigError(
            f"{library} knows environments with one actor only; this recording has sub-steps or"
            f" several agents (step keys {keys}). Export --to parquet or --to hf, which keep a"
            " table for each step key"
        )
    (stream,) = run.streams
    found: list[spaces.Space[Any]] = []
    for space, role in ((stream.observation_space, "observation"), (stream.action_space, "action")):
        is_plain = isinstance(space, spaces.Dict) and list(space.spaces) == [role]
        found.append(space[role] if is_plain else space)  # type: ignore[index]
    return found[0], found[1]


def _cannot_hold(library: str, leaf: Leaf, space: spaces.Space[Any]) -> ConfigError:
    return ConfigError(
        f"{library} cannot hold {leaf.name}, which is in a {type(space).__name__} space. Make an"
        " array of fixed shape of it with an ObservationWrapper and convert the recording"
        " (maze.datasets.convert), or export --to parquet, which holds every space"
    )


def _values(values: Any) -> Any:
    """Return nested values in the form of Minari: lists of steps are arrays already."""
    if isinstance(values, Mapping):
        return {key: _values(value) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_values(value) for value in values)
    return values


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
