"""Recorded transitions for torch: streamed with bounded memory, or by random access.

    loader = data_loader("outputs/2026-01-31/12-00-00", batch_size=256)
    for batch in loader:
        batch["observations"]["observation"], batch["actions"]["action"]    # tensors

Reading is that of ``maze.datasets.recordings``; here it becomes tensors, and is shared out to the
workers of a ``DataLoader``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from maze.core.env.structured_env import StepKey
from maze.core.errors import ConfigError
from maze.core.rollout.job import EnvSource, WrapperSource
from maze.core.trajectory.columns import leaves
from maze.datasets.convert import Conversion, convert, plan_conversion
from maze.datasets.recordings import DEFAULT_FIELDS, Directories, Recordings, Rows, Shard, join_rows
from maze.datasets.selection import ProcessorSources, SelectionSource
from maze.train.specs import EnvSpecs

Batch: TypeAlias = dict[str, Any]
"""By field, a tensor of shape (n, ...); for observations and actions, a dictionary of them. Of an
environment with several step keys, such a dictionary for each."""


@dataclass(frozen=True)
class DatasetOptions:
    """Which recordings a training learns from."""

    dir_or_file: Directories | None = None
    """An output directory of a rollout, or several."""
    selection: Mapping[str, Any] = field(default_factory=dict)
    """Which of their episodes, see ``Selection``."""
    processors: Sequence[Mapping[str, Any]] = ()
    """What of them is left out, see ``maze.datasets.selection``."""
    conversion: Conversion = "auto"
    """How they are shown to the wrappers of the training, see ``Conversion``."""


def open_dataset(
    options: DatasetOptions,
    env: EnvSource,
    wrappers: WrapperSource,
    prepared: WrapperSource,
    specs: EnvSpecs,
    directory: Path,
) -> Recordings:
    """Open recordings in the form that an environment with wrappers gives.

    Args:
        options: which ones.
        env: what is learnt for.
        wrappers: around it, as the config names them.
        prepared: the same with their statistics.
        specs: of the environment with its wrappers.
        directory: of the training. What has to be converted is written to ``converted`` in it.

    Raises:
        ConfigError: If none are named, or they do not fit the environment.
        OutputError: If they cannot be read.
    """
    if not options.dir_or_file:
        raise ConfigError(
            "this algorithm learns from recordings: say where they are, with"
            " runner.dataset.dir_or_file=<output directory of a rollout>, or"
            " runner.dataset.dir_or_file=[<one>,<another>]"
        )
    recordings = Recordings(options.dir_or_file, options.selection, options.processors)
    plan = plan_conversion(recordings, env, wrappers, options.conversion, prepared)
    if plan.how != "recorded":
        converted = directory / "converted"
        shutil.rmtree(converted, ignore_errors=True)  # Of a training that was killed.
        recordings = convert(recordings, env, prepared, converted, plan)
    recorded = EnvSpecs(
        recordings.observation_spaces,
        recordings.action_spaces,
        specs.agent_counts,
        specs.action_masks,
    )
    # In the environment's order of step keys; that of the files is another one.
    ordered = {str(key): key for key in recorded.observation_spaces}
    if set(ordered) == {str(key) for key in specs.observation_spaces}:
        recorded = EnvSpecs(
            {key: recorded.observation_spaces[key] for key in specs.observation_spaces},
            {key: recorded.action_spaces[key] for key in specs.action_spaces},
            specs.agent_counts,
            specs.action_masks,
        )
    recorded.check_fits(
        specs,
        "the recordings do not fit the environment",
        "Learn in the environment that was recorded, with its wrappers or with more of them; or"
        " record again",
    )
    return recordings


class TransitionStream(IterableDataset[Batch]):
    """Transitions in batches, each pass in another order, with bounded memory.

    It gives whole batches: use ``data_loader``, or ``DataLoader(stream, batch_size=None)``, where
    with workers ``epoch`` has to be set before each pass. Workers share the recording; whatever
    their number, every transition comes once in each pass.

    Args:
        recordings: what is read.
        batch_size: transitions (or sequences) of a batch.
        fields: see ``Recordings.read``.
        shuffle: whether to draw the order by chance.
        seed: of the order. Each pass has another one; set ``epoch`` to repeat a certain one.
        rows_in_memory: transitions that are mixed, at least, in each worker.
        discount: of ``returns``.
        sequence_length: give sequences of so many steps in place of transitions; ``mask`` says
            which steps are there.
        drop_last: whether to leave out a last batch that is smaller.
    """

    epoch: int = 0
    """The number of the next pass."""

    def __init__(
        self,
        recordings: Recordings,
        batch_size: int,
        fields: Sequence[str] = DEFAULT_FIELDS,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rows_in_memory: int = 65_536,
        discount: float = 1.0,
        sequence_length: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.recordings = _checked(recordings)
        self._seed = seed
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "fields": tuple(fields),
            "shuffle": shuffle,
            "rows_in_memory": rows_in_memory,
            "discount": discount,
            "sequence_length": sequence_length,
            "drop_last": drop_last,
        }

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over all transitions once."""
        info = get_worker_info()
        seed = int(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0])
        if info is None:
            self.epoch += 1  # That of workers is counted by the loader: they are copies.
        worker = (0, 1) if info is None else (info.id, info.num_workers)
        for rows in self.recordings.batches(**self._options, seed=seed, worker=worker):
            yield to_tensors(rows, self.recordings.step_keys)


class TransitionDataset(Dataset[Batch]):
    """Transitions by their number, in any order; the shards that were asked for last are kept.

    ``dataset[5]`` is a transition, ``dataset[[5, 7]]`` a batch of two. For passes in random order
    over recordings that do not fit into memory, ``TransitionStream`` is far quicker.

    Args:
        recordings: what is read.
        fields: see ``Recordings.read``.
        step_key: whose decisions; ``None``: of the only step key.
        discount: of ``returns``.
        sequence_length: give sequences in place of transitions.
        shards_in_memory: how many of them are kept.
    """

    def __init__(
        self,
        recordings: Recordings,
        fields: Sequence[str] = DEFAULT_FIELDS,
        *,
        step_key: StepKey | None = None,
        discount: float = 1.0,
        sequence_length: int | None = None,
        shards_in_memory: int = 16,
    ) -> None:
        self.recordings = _checked(recordings)
        keys = recordings.step_keys
        if step_key is None and len(keys) > 1:
            raise ConfigError(f"'step_key' has to say whose decisions: one of {list(keys)}")
        self._key = keys[0] if step_key is None else step_key
        if self._key not in keys:
            raise ConfigError(f"there is no step key {step_key!r}, but {list(keys)}")
        self._fields, self._discount = tuple(fields), discount
        self._length, self._n_cached = sequence_length, shards_in_memory
        counts = [self._count(shard) for shard in recordings.shards]
        self._ends = np.cumsum(np.array(counts, dtype=np.int64))

    def _count(self, shard: Shard) -> int:
        if self._length is None:
            return self.recordings.n_rows(shard)[self._key]
        found = self._read(shard).get(self._key)
        return 0 if found is None else found.n

    def _read(self, shard: Shard) -> Mapping[StepKey, Rows]:
        if self._length is None:
            return self.recordings.read(shard, self._fields, self._discount)
        return self.recordings.sequences(shard, self._length, self._fields, self._discount)

    def __len__(self) -> int:
        """Return the number of transitions (or sequences)."""
        return int(self._ends[-1])

    def __getitem__(self, index: int | Sequence[int]) -> Batch:
        """Return a transition, or a batch of several."""
        if isinstance(index, int | np.integer):
            (batch,) = [self._batch(np.array([index]))]
            return {
                name: {key: one[0] for key, one in value.items()}
                if isinstance(value, dict)
                else value[0]
                for name, value in batch.items()
            }
        return self._batch(np.asarray(index, dtype=np.int64))

    def _batch(self, indices: NDArray[np.int64]) -> Batch:
        n = len(self)
        wrong = (indices < -n) | (indices >= n)
        if wrong.any():
            raise IndexError(f"transition {indices[wrong][0]} of {n}")
        indices = np.where(indices < 0, indices + n, indices)
        shards = np.searchsorted(self._ends, indices, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        parts: list[Rows] = []
        places: list[NDArray[np.int64]] = []
        for number in np.unique(shards).tolist():
            here = np.flatnonzero(shards == number)
            rows = self.recordings.shard_rows(int(number), self._read, self._n_cached)[self._key]
            parts.append(rows.take(indices[here] - starts[number]))
            places.append(here)
        order = np.argsort(np.concatenate(places), kind="stable")
        return to_tensors({self._key: join_rows(parts).take(order)}, (self._key,))


def data_loader(
    recordings: Recordings | Directories,
    batch_size: int = 256,
    fields: Sequence[str] = DEFAULT_FIELDS,
    *,
    selection: SelectionSource = None,
    processors: ProcessorSources | None = None,
    n_workers: int = 0,
    **options: Any,
) -> DataLoader[Batch]:
    """Return a loader of shuffled batches of transitions.

    Args:
        recordings: output directories of rollouts, or what was made of them.
        batch_size: transitions (or sequences) of a batch.
        fields: see ``Recordings.read``.
        selection: which episodes, if directories are given; see ``Selection``.
        processors: what is left out, if directories are given.
        n_workers: processes that read; 0: this one does. One reads millions of small transitions a
            second, so that more only pay for large observations.
        options: of ``TransitionStream``: ``shuffle``, ``seed``, ``rows_in_memory``, ``discount``,
            ``sequence_length``, ``drop_last``.
    """
    if not isinstance(recordings, Recordings):
        recordings = Recordings(recordings, selection, processors)
    stream = TransitionStream(recordings, batch_size, fields, **options)
    return _StreamLoader(stream, batch_size=None, num_workers=n_workers)


class _StreamLoader(DataLoader[Batch]):
    """Counts the passes of workers, each of which reads with a copy of the stream."""

    def __iter__(self) -> Any:
        passing = super().__iter__()
        if self.num_workers and isinstance(self.dataset, TransitionStream):
            self.dataset.epoch += 1
        return passing


def to_tensors(rows: Mapping[StepKey, Rows], step_keys: Sequence[StepKey]) -> Batch:
    """Return rows as tensors, which share their memory."""
    if len(step_keys) == 1:
        return _tensors(rows[step_keys[0]])
    return {key: _tensors(of_key) for key, of_key in rows.items()}  # type: ignore[misc]


def _tensors(rows: Rows) -> Batch:
    return {
        name: {leaf: _tensor(array) for leaf, array in value.items()}
        if isinstance(value, dict)
        else _tensor(value)
        for name, value in rows.values.items()
    }


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch has hardly any others without sign
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def _checked(recordings: Recordings) -> Recordings:
    """Refuse spaces whose values are no arrays of one shape."""
    for key, space in recordings.observation_spaces.items():
        for role, of_role in (("observation", space), ("action", recordings.action_spaces[key])):
            for leaf in leaves(of_role, role):  # type: ignore[arg-type]
                if leaf.is_ragged:
                    raise ConfigError(
                        f"{leaf.name} is in a {type(leaf.space).__name__} space, whose values are"
                        " no arrays of one shape, so that no batch can be made of them. Convert"
                        " the recording with an ObservationWrapper that makes an array of it"
                        " (maze.datasets.convert), or read it with maze.load(...)"
                    )
    return recordings
