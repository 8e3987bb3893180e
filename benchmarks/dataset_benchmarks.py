"""An epoch over a million recorded transitions of CartPole: the table in docs/benchmarks.md.

    python benchmarks/dataset_benchmarks.py [--transitions 1000000] [--batch-size 256]

Each reader gives shuffled batches of observations, actions, rewards, next observations and flags as
tensors, once through all of them, and runs in a process of its own, so that its memory can be told.
``memory`` is what the process had at its highest, less what it had before it opened the data.

- in memory: torch's TensorDataset, shuffled by RandomSampler in batches, with everything loaded
- Minari: iterate_episodes, whose transitions are put together to batches; and its own sampling of
  random episodes for comparison is slower still
- Maze: data_loader, streaming; by number with TransitionDataset and random batches
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

N_REPEATS = 5


def record(directory: Path, n_transitions: int) -> None:
    import maze

    n_episodes = n_transitions // 22 + 1
    maze.rollout(
        "CartPole-v1", n_episodes=n_episodes, n_processes=2, seed=1, output_dir=directory / "run"
    )


def export(directory: Path) -> None:
    from maze.datasets.exporting import export

    export(directory / "run", "minari", directory / "minari", name="cartpole/random-v0")


def loaded(directory: Path) -> Any:
    """Return all transitions as torch's dataset in memory."""
    import torch
    from torch.utils.data import TensorDataset

    from maze.datasets.recordings import Recordings, join_rows

    fields = ("observations", "actions", "rewards", "next_observations", "terminated")
    recordings = Recordings(directory / "run")
    rows = join_rows([recordings.read(shard, fields)[0] for shard in recordings.shards])
    tensors = [
        torch.from_numpy(next(iter(value.values())) if isinstance(value, dict) else value)
        for value in rows.values.values()
    ]
    return TensorDataset(*tensors)


def in_memory(directory: Path, batch_size: int) -> Iterator[int]:
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    data = loaded(directory)
    sampler = BatchSampler(RandomSampler(data), batch_size, drop_last=False)
    yield 0
    for batch in DataLoader(data, sampler=sampler, batch_size=None):
        yield len(batch[0])


def in_memory_one_by_one(directory: Path, batch_size: int) -> Iterator[int]:
    from torch.utils.data import DataLoader

    data = loaded(directory)
    yield 0
    for batch in DataLoader(data, batch_size, shuffle=True):
        yield len(batch[0])


def of_minari(directory: Path, batch_size: int) -> Iterator[int]:
    import minari
    import numpy as np
    import torch

    os.environ["MINARI_DATASETS_PATH"] = str(directory / "minari")
    dataset = minari.load_dataset("cartpole/random-v0")
    yield 0
    order = np.random.default_rng(1).permutation(dataset.total_episodes)
    waiting: list[Any] = []
    n = 0
    for episode in dataset.iterate_episodes(order.tolist()):
        parts = (
            episode.observations[:-1],
            episode.actions,
            episode.rewards,
            episode.observations[1:],
            episode.terminations,
        )
        waiting.append(parts)
        n += len(episode.rewards)
        if n >= batch_size:
            columns = [np.concatenate(column) for column in zip(*waiting, strict=True)]
            rows = np.random.default_rng(n).permutation(n)
            tensors = [torch.from_numpy(column[rows]) for column in columns]
            yield len(tensors[0])
            waiting, n = [], 0
    yield n


def of_maze(directory: Path, batch_size: int, n_workers: int = 0) -> Iterator[int]:
    from maze.train.datasets import data_loader

    loader = data_loader(directory / "run", batch_size, n_workers=n_workers)
    yield 0
    for batch in loader:
        yield len(batch["rewards"])


def of_maze_with_workers(directory: Path, batch_size: int) -> Iterator[int]:
    yield from of_maze(directory, batch_size, n_workers=2)


def of_maze_by_number(directory: Path, batch_size: int) -> Iterator[int]:
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    from maze.datasets.recordings import Recordings
    from maze.train.datasets import TransitionDataset

    data = TransitionDataset(Recordings(directory / "run"), shards_in_memory=1000)
    sampler = BatchSampler(RandomSampler(data), batch_size, drop_last=False)
    yield 0
    for batch in DataLoader(data, sampler=sampler, batch_size=None):
        yield len(batch["rewards"])


READERS: dict[str, Callable[[Path, int], Iterator[int]]] = {
    "torch, in memory, by batches": in_memory,
    "torch, in memory, one by one": in_memory_one_by_one,
    "Minari": of_minari,
    "Maze, streaming": of_maze,
    "Maze, streaming, 2 workers": of_maze_with_workers,
    "Maze, by number": of_maze_by_number,
}


def measure(name: str, directory: Path, batch_size: int) -> None:
    """Print, as JSON, how many transitions a second there were, and memory in MB."""
    import torch  # noqa: F401

    import maze.train.datasets  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = READERS[name](directory, batch_size)
    next(batches)
    started = perf_counter()
    n = sum(batches)
    seconds = perf_counter() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"n": n, "speed": n / seconds, "memory": memory}))


def run(name: str, directory: Path, batch_size: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", name, str(directory), str(batch_size)],
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=N_REPEATS)
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "DIRECTORY", "BATCH_SIZE"))
    arguments = parser.parse_args()
    if arguments.measure:
        name, folder, batch_size = arguments.measure
        measure(name, Path(folder), int(batch_size))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = [arguments.transitions // 10, arguments.transitions]
        for size in sizes:
            directory = Path(folder) / str(size)
            record(directory, size)
            export(directory)
        header = "transitions/s (least, most)"
        print(f"{'reader':<32}{header:>34}{'memory, a tenth of it':>24}{'memory':>12}")
        results: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
        small: dict[str, float] = {}
        for repeat in range(arguments.repeats):
            for name in READERS:  # One after the other, so that all meet the same machine.
                if repeat == 0:
                    directory = Path(folder) / str(sizes[0])
                    small[name] = run(name, directory, arguments.batch_size)["memory"]
                directory = Path(folder) / str(sizes[1])
                results[name].append(run(name, directory, arguments.batch_size))
        for name, of_name in results.items():
            speeds = sorted(one["speed"] for one in of_name)
            median = speeds[len(speeds) // 2]
            memory = max(one["memory"] for one in of_name)
            shown = f"{median:,.0f} ({speeds[0]:,.0f} - {speeds[-1]:,.0f})"
            print(f"{name:<32}{shown:>34}{small[name]:>20.0f} MB{memory:>9.0f} MB")


if __name__ == "__main__":
    main()
