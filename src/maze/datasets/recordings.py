"""Recorded transitions as arrays: a shard at a time, whatever the size of the recording.

The steps of many episodes lie in one record batch of a trajectory file. A *shard* is one line of
a journal: the batches that were written together, one for each step key. Reading is done by whole
shards, in numpy, without a loop over episodes; nothing but a few numbers for each episode stays
in memory.

    directories --Selection, processors--> episodes --> shards --read--> rows of arrays
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.errors import ConfigError, OutputError
from maze.core.rollout.run_directory import RunDirectory, warn
from maze.core.trajectory.columns import Leaf
from maze.core.trajectory.trajectory import StepsStream, leaf_values
from maze.datasets.selection import (
    ProcessorSources,
    SelectionSource,
    make_processors,
    make_selection,
)

Directories: TypeAlias = "str | Path | Sequence[str | Path]"
"""An output directory, or several."""

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""By the path of a leaf, joined by slashes: values of shape (n, ...)."""

FIELDS = (
    *("observations", "actions", "rewards", "next_observations", "terminated", "truncated"),
    *("returns", "episode", "step", "env_time", "agent_id"),
)
"""What can be asked of a transition."""

DEFAULT_FIELDS = ("observations", "actions", "rewards", "next_observations", "terminated")

_LIGHT = ("episode_index", "step", "env_time", "agent_id", "reward")
_N_EPISODES_WITHOUT_JOURNAL = 64


class Shard(NamedTuple):
    """Steps that were written together."""

    run: int
    """Position of the recording."""
    entry: int
    """Line of its journal; -1 where there is none."""
    episodes: NDArray[np.int64]
    """The wanted ones that have steps in it, by their position among all that are wanted."""


@dataclass(frozen=True)
class Rows:
    """Transitions of one step key: the first dimension of all arrays is the row."""

    n: int
    values: Mapping[str, Any]
    """By field: ``observations``, ``actions`` and ``next_observations`` are ``Arrays``."""

    def take(self, rows: Any) -> Rows:
        """Return some rows, by an index of numpy."""
        values = {
            name: {key: array[rows] for key, array in value.items()}
            if isinstance(value, dict)
            else value[rows]
            for name, value in self.values.items()
        }
        return Rows(len(rows) if not isinstance(rows, slice) else _length(values), values)


def _length(values: Mapping[str, Any]) -> int:
    for value in values.values():
        if not isinstance(value, dict):
            return len(value)
        for array in value.values():
            return len(array)
    return 0


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Return rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    values: dict[str, Any] = {}
    for name, first in parts[0].values.items():
        if isinstance(first, dict):
            values[name] = {
                key: np.concatenate([part.values[name][key] for part in parts]) for key in first
            }
        else:
            values[name] = np.concatenate([part.values[name] for part in parts])
    return Rows(sum(part.n for part in parts), values)


class Recordings:
    """Episodes of one or several output directories that are learnt from together.

    Args:
        dir_or_file: an output directory or several, absolute or relative to the working directory.
            A trajectory file or the folder ``trajectory_data`` stand for the directory around them.
        selection: which episodes; options of ``Selection``. ``None``: all that did not fail.
        processors: leave out ends of episodes or short ones; applied one after the other.
        episodes: positions of episodes, of those that are wanted, which are the only ones;
            ``None``: all of them.

    Raises:
        OutputError: If a directory holds no trajectories, or no episode is wanted.
        ConfigError: If the directories do not have the same spaces, or an option is wrong.
    """

    def __init__(
        self,
        dir_or_file: Directories,
        selection: SelectionSource = None,
        processors: ProcessorSources | None = None,
        episodes: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        given = [dir_or_file] if isinstance(dir_or_file, str | Path) else list(dir_or_file)
        if not given:
            raise ConfigError(
                "no recording was given: name the output directory of a rollout, or several"
                " (runner.dataset.dir_or_file=...)"
            )
        self.selection = make_selection(selection)
        self.processors = make_processors(processors)
        self._paths = [_directory_of(Path(path)) for path in given]
        self.runs = [RunDirectory(path) for path in self._paths]
        self._streams = [_streams_of(run) for run in self.runs]
        for streams, run in zip(self._streams, self.runs, strict=True):
            check_same_spaces(self._streams[0], streams, self.runs[0], run)
        self._choose(episodes)
        self._cached: OrderedDict[int, Mapping[StepKey, Rows]] = OrderedDict()
        self._returns: OrderedDict[tuple[int, float], tuple[Any, Any]] = OrderedDict()

    def _choose(self, episodes: Sequence[int] | NDArray[np.int64] | None) -> None:
        runs: list[NDArray[np.int64]] = []
        indices: list[NDArray[np.int64]] = []
        kept: list[NDArray[np.int64]] = []
        for number, run in enumerate(self.runs):
            of_run = self.selection.indices(run)
            n_kept = np.asarray(run.table["n_steps"])[
                np.searchsorted(run.table.episode_indices, of_run)
            ].astype(np.int64)
            if self.processors:
                wanted = set(of_run.tolist())
                rows = {row.episode_index: row for row in run.table if row.episode_index in wanted}
                for i, index in enumerate(of_run.tolist()):
                    for processor in self.processors:
                        n_kept[i] = max(0, processor.n_kept(rows[index], int(n_kept[i])))
            left = n_kept > 0
            runs.append(np.full(int(left.sum()), number))
            indices.append(of_run[left])
            kept.append(n_kept[left])
        self._run = np.concatenate(runs)
        self._index = np.concatenate(indices)
        self._n_kept = np.concatenate(kept)
        if episodes is not None:
            chosen = np.asarray(episodes, dtype=np.int64)
            self._run, self._index, self._n_kept = (
                array[chosen] for array in (self._run, self._index, self._n_kept)
            )
        if not len(self._run):
            n = sum(len(run.table) for run in self.runs)
            raise OutputError(
                f"none of the {n:,} episodes in {', '.join(map(str, self._paths))} is left to learn"
                f" from (selection: {self.selection.to_dict() or 'all that did not fail'},"
                f" processors: {[one.to_dict() for one in self.processors] or 'none'})"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what other processes read anew."""
        state = self.__dict__.copy()
        state.pop("shards", None)
        return {
            **state,
            "runs": None,
            "_streams": None,
            "_cached": OrderedDict(),
            "_returns": OrderedDict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.runs = [RunDirectory(path) for path in self._paths]
        self._streams = [_streams_of(run) for run in self.runs]

    @property
    def n_episodes(self) -> int:
        """The number of episodes."""
        return len(self._run)

    @property
    def n_steps(self) -> int:
        """Structured steps in them."""
        return int(self._n_kept.sum())

    @property
    def is_flat(self) -> bool:
        """Whether the environment has a single actor."""
        first = next(iter(self._streams[0].values()))
        return bool(first.description["is_flat"])

    @property
    def step_keys(self) -> tuple[StepKey, ...]:
        """The step keys of the environment."""
        return tuple(self._streams[0])

    @property
    def observation_spaces(self) -> dict[StepKey, spaces.Dict]:
        """As recorded, by step key."""
        return {key: _dict(stream.observation_space) for key, stream in self._streams[0].items()}

    @property
    def action_spaces(self) -> dict[StepKey, spaces.Dict]:
        """As recorded, by step key."""
        return {key: _dict(stream.action_space) for key, stream in self._streams[0].items()}

    def place(self, episode: int) -> tuple[RunDirectory, int]:
        """Return in which recording an episode is, and its index there."""
        return self.runs[int(self._run[episode])], int(self._index[episode])

    def n_kept(self, episode: int) -> int:
        """Return how many structured steps of an episode are learnt from."""
        return int(self._n_kept[episode])

    def only(self, episodes: Sequence[int] | NDArray[np.int64]) -> Recordings:
        """Return some of the episodes, by their position."""
        chosen = np.asarray(episodes, dtype=np.int64)
        if not len(chosen):
            raise ConfigError("no episodes were chosen")
        other = object.__new__(Recordings)
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("shards", None)
        other._run, other._index, other._n_kept = (
            array[chosen] for array in (self._run, self._index, self._n_kept)
        )
        other._cached, other._returns = OrderedDict(), OrderedDict()
        return other

    def keeping(self, n_kept: Sequence[int]) -> Recordings:
        """Return the same episodes, of which so many structured steps each are learnt from."""
        other = self.only(np.arange(self.n_episodes))
        other._n_kept = np.minimum(self._n_kept, np.asarray(n_kept, dtype=np.int64))
        return other

    def split(self, share: float, seed: int = 0) -> tuple[Recordings, Recordings | None]:
        """Split by whole episodes, drawn by chance.

        Args:
            share: of the episodes, in the second part; at least one, if there are two. 0: none.
            seed: of the draw.

        Returns:
            The larger part, and the other one; ``None`` if it is empty.
        """
        n = self.n_episodes
        if not 0 <= share < 1:
            raise ConfigError(f"the share of a split has to be from 0 to below 1, got {share!r}")
        n_second = min(max(round(n * share), 1), n - 1) if share > 0 else 0
        if not n_second:
            return self, None
        order = np.random.Generator(np.random.PCG64(seed)).permutation(n)
        return self.only(np.sort(order[n_second:])), self.only(np.sort(order[:n_second]))

    @cached_property
    def shards(self) -> list[Shard]:
        """What is read at a time, in the order of the recordings and of their files."""
        found: list[Shard] = []
        for number, run in enumerate(self.runs):
            positions = np.flatnonzero(self._run == number)
            positions = positions[np.argsort(self._index[positions], kind="stable")]
            indices = self._index[positions]
            if run.journal is None:
                found += [
                    Shard(number, -1, positions[i : i + _N_EPISODES_WITHOUT_JOURNAL])
                    for i in range(0, len(positions), _N_EPISODES_WITHOUT_JOURNAL)
                ]
                continue
            # An episode that was played again counts where it is listed last.
            last: NDArray[np.int64] = np.full(len(indices), -1)
            for line, entry in enumerate(run.journal.entries):
                if len(entry.episode_indices):
                    here, where = _among(indices, entry.episode_indices)
                    last[where[here]] = line
            for line, entry in enumerate(run.journal.entries):
                if entry.part_of is not None:
                    here, where = _among(indices, np.array([entry.part_of.episode_index]))
                    if here[0]:
                        whole = run.journal.entries[int(last[where[0]])]
                        begun = whole.parts.get(entry.part_of.episode_index)
                        if begun is not None and begun.token == entry.part_of.token:
                            found.append(Shard(number, line, positions[where[:1]]))
                elif len(entry.episode_indices):
                    here, where = _among(indices, entry.episode_indices)
                    chosen = where[here]
                    chosen = chosen[last[chosen] == line]
                    if len(chosen):
                        found.append(Shard(number, line, positions[chosen]))
        return found

    def n_rows(self, shard: Shard) -> dict[StepKey, int]:
        """Return how many transitions of each step key are in a shard, reading only a little."""
        return {
            key: int(self._keep(shard, self._table(shard, key, _LIGHT))[0].sum())
            for key in self.step_keys
        }

    def read(
        self, shard: Shard, fields: Sequence[str] = DEFAULT_FIELDS, discount: float = 1.0
    ) -> dict[StepKey, Rows]:
        """Read the transitions of a shard.

        Args:
            shard: one of ``shards``.
            fields: which of ``FIELDS``. ``returns`` are the discounted rewards from a step to the
                end of the episode, as recorded (with ``discount=1`` the rewards to go; a step that
                a processor left out still counts). ``next_observations`` are those of the same
                actor; only environments with one actor have them.
            discount: per structured step, in [0, 1].

        Returns:
            By step key, those without rows left out.

        Raises:
            OutputError: If the data is damaged.
            ConfigError: If a field is unknown or cannot be had.
        """
        unknown = [name for name in fields if name not in FIELDS]
        if unknown:
            raise ConfigError(f"unknown field {unknown[0]!r}: there are {', '.join(FIELDS)}")
        if "next_observations" in fields and not self.is_flat:
            raise ConfigError(
                "next_observations: the environment has several actors, so that what follows an"
                " action is seen by another one. Leave the field out; sequences give what each"
                " actor saw one after the other."
            )
        found: dict[StepKey, Rows] = {}
        for key in self.step_keys:
            table = self._table(shard, key, None)
            keep, episodes = self._keep(shard, table)
            if keep.any():
                found[key] = self._rows(shard, key, table, keep, episodes, fields, discount)
        return found

    def sequences(
        self,
        shard: Shard,
        length: int,
        fields: Sequence[str] = DEFAULT_FIELDS,
        discount: float = 1.0,
        stride: int | None = None,
    ) -> dict[StepKey, Rows]:
        """Read windows of consecutive steps of one actor, for policies that remember.

        Args:
            shard: see ``read``.
            length: steps of a window. The last one of an episode is filled up with zeros.
            fields: see ``read``. ``mask`` is added: whether a step is one of the episode.
            discount: see ``read``.
            stride: steps from the start of one window to that of the next; ``None``: ``length``.

        Returns:
            Rows of shape (n, length, ...). Very long episodes come in parts of some hundred steps
            or more; no window crosses the border of a part.
        """
        stride = length if stride is None else stride
        if length < 1 or stride < 1:
            raise ConfigError(
                f"sequences need a length and a stride from 1, got {length}, {stride}"
            )
        wanted = dict.fromkeys([*fields, "episode", "agent_id"])
        cut: dict[StepKey, Rows] = {}
        for key, rows in self.read(shard, list(wanted), discount).items():
            # Rows of an agent one after the other, in the order of its steps.
            who = np.stack([rows.values["episode"], rows.values["agent_id"]], axis=1)
            order = np.lexsort((who[:, 1], who[:, 0]))
            bounds = np.flatnonzero((np.diff(who[order], axis=0) != 0).any(axis=1)) + 1
            starts: list[int] = []
            stops: list[int] = []
            for low, high in zip([0, *bounds.tolist()], [*bounds.tolist(), rows.n], strict=True):
                of_one = range(low, high, stride)
                starts.extend(of_one)
                stops.extend([high] * len(of_one))
            places = np.array(starts)[:, None] + np.arange(length)
            mask = places < np.array(stops)[:, None]
            chosen = order[np.where(mask, places, 0)]

            def window(array: NDArray[Any], chosen: Any = chosen, mask: Any = mask) -> Any:
                taken = array[chosen]
                taken[~mask] = 0
                return taken

            values: dict[str, Any] = {
                name: {leaf: window(array) for leaf, array in rows.values[name].items()}
                if isinstance(rows.values[name], dict)
                else window(rows.values[name])
                for name in fields
            }
            cut[key] = Rows(len(starts), {**values, "mask": mask})
        return cut

    def _table(self, shard: Shard, key: StepKey, columns: Sequence[str] | None) -> pa.Table | None:
        """Return the rows of a step key in a shard, with those of other episodes."""
        stream = self._streams[shard.run].get(key)
        if stream is None:
            return None
        run = self.runs[shard.run]
        journal = run.journal
        if journal is not None and shard.entry >= 0:
            piece = journal.entries[shard.entry].pieces.get(stream.name)
            if piece is None:
                return None
            try:
                return stream.rows_in(piece.offset, piece.length, piece.checksum, columns)
            except OutputError as error:
                warn(f"{error}; what of it is not damaged is read episode by episode")
        tables: list[pa.Table] = []
        for index in self._index[shard.episodes].tolist():
            try:
                run.trajectory(index)  # Compares it with its digest, where no checksum is right.
                rows = stream.rows(index)
            except OutputError as error:
                warn(f"{error}; it is left out")
                continue
            if rows is not None:
                tables.append(rows if columns is None else rows.select(list(columns)))
        return pa.concat_tables(tables) if tables else None

    def _keep(
        self, shard: Shard, table: pa.Table | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which rows are wanted transitions, and to which episodes the rows belong."""
        if table is None or not table.num_rows:
            return np.zeros(0, np.bool_), np.zeros(0, np.int64)
        wanted = self._index[shard.episodes]
        order = np.argsort(wanted, kind="stable")
        here, where = _among(wanted[order], table.column("episode_index").to_numpy())
        episodes = shard.episodes[order][where]
        has_reward = table.column("reward").is_valid().to_numpy(zero_copy_only=False)
        times = table.column("env_time").to_numpy()
        return here & has_reward & (times < self._n_kept[episodes]), episodes

    def _rows(
        self,
        shard: Shard,
        key: StepKey,
        table: pa.Table | None,
        keep: NDArray[np.bool_],
        episodes: NDArray[np.int64],
        fields: Sequence[str],
        discount: float,
    ) -> Rows:
        assert table is not None
        stream = self._streams[shard.run][key]
        rows = np.flatnonzero(keep)
        kept = table if keep.all() else None
        values: dict[str, Any] = {}
        observed: Arrays = {}
        if "observations" in fields or "next_observations" in fields:
            observed = _arrays(stream.observation_leaves, table)
        for name in fields:
            if name == "observations":
                values[name] = {leaf: array[rows] for leaf, array in observed.items()}
            elif name == "next_observations":
                values[name] = self._next(shard, stream, table, observed, rows, episodes)
            elif name == "actions":
                if kept is None:
                    names = [leaf.name for leaf in stream.action_leaves]
                    kept = table.select(names).filter(pa.array(keep))
                values[name] = _arrays(stream.action_leaves, kept)
            elif name == "rewards":
                values[name] = _numbers(table, "reward")[rows]
            elif name in ("terminated", "truncated"):
                flags: Any = table.column(name)
                values[name] = flags.fill_null(False).to_numpy()[rows]
            elif name == "episode":
                values[name] = episodes[rows]
            elif name == "returns":
                values[name] = self._returns_of(
                    table, keep, rows, episodes, discount, shard
                ).astype(np.float64)
            else:
                values[name] = table.column(name).to_numpy()[rows]
        return Rows(len(rows), values)

    def _next(
        self,
        shard: Shard,
        stream: StepsStream,
        table: pa.Table,
        observed: Arrays,
        rows: NDArray[np.int64],
        episodes: NDArray[np.int64],
    ) -> Arrays:
        following = rows + 1
        is_here = following < table.num_rows
        is_here[is_here] = episodes[following[is_here]] == episodes[rows[is_here]]
        inside = np.where(is_here, following, rows)
        arrays = {leaf: array[inside] for leaf, array in observed.items()}
        if not is_here.all():
            # A part of a long episode ends here; the next one begins with what was seen next.
            steps = table.column("step").to_numpy()
            for position in np.flatnonzero(~is_here).tolist():
                row = int(rows[position])
                index = int(self._index[episodes[row]])
                first = _row_at(stream, index, int(steps[row]) + 1)
                if first is None:
                    if not table.column("terminated")[row].as_py():
                        raise ConfigError(
                            f"the observation after the last step of episode {index} in"
                            f" {stream.path} was not recorded: leave that step out, with the"
                            " processors ClipTruncated and ClipTerminated (n_steps=1), or leave"
                            " next_observations out"
                        )
                    for array in arrays.values():  # Nobody needs what comes after the end.
                        array[position] = 0
                    continue
                for leaf, array in _arrays(stream.observation_leaves, first).items():
                    arrays[leaf][position] = array[0]
        return arrays

    def _returns_of(
        self,
        table: pa.Table,
        keep: NDArray[np.bool_],
        rows: NDArray[np.int64],
        episodes: NDArray[np.int64],
        discount: float,
        shard: Shard,
    ) -> NDArray[np.float64]:
        if not 0 <= discount <= 1:
            raise ConfigError(f"'discount' has to be from 0 to 1, got {discount!r}")
        steps = table.column("step").to_numpy()
        if self.is_flat and not self._is_in_parts(shard):
            rewards = _numbers(table, "reward")
            return flat_returns(rewards, table, discount)[rows]
        found = np.empty(len(rows))
        of_rows = episodes[rows]
        for episode in np.unique(of_rows).tolist():
            known = self._whole_returns(int(episode), discount)
            here = of_rows == episode
            found[here] = known[1][np.searchsorted(known[0], steps[rows[here]])]
        return found

    def _is_in_parts(self, shard: Shard) -> bool:
        journal = self.runs[shard.run].journal
        if journal is None or shard.entry < 0:
            return False  # Episodes are read as a whole there.
        entry = journal.entries[shard.entry]
        return entry.part_of is not None or bool(entry.parts)

    def _whole_returns(self, episode: int, discount: float) -> tuple[Any, Any]:
        """Return the steps of an episode over all step keys, and what follows from each."""
        known = self._returns.get((episode, discount))
        if known is not None:
            return known
        steps: list[Any] = []
        times: list[Any] = []
        rewards: list[Any] = []
        for stream in self._streams[int(self._run[episode])].values():
            for part in stream.parts(int(self._index[episode])):
                valid = part.column("reward").is_valid().to_numpy(zero_copy_only=False)
                steps.append(part.column("step").to_numpy()[valid])
                times.append(part.column("env_time").to_numpy()[valid])
                rewards.append(part.column("reward").drop_null().to_numpy())
        order = np.argsort(np.concatenate(steps), kind="stable")
        all_steps, all_times, all_rewards = (
            np.concatenate(parts)[order] for parts in (steps, times, rewards)
        )
        # Sub-steps of one structured step have the same time, between which nothing is discounted.
        factors = discount ** np.diff(all_times, append=all_times[-1:]).astype(np.float64)
        found = all_rewards.astype(np.float64)
        for i in range(len(found) - 2, -1, -1):
            found[i] += factors[i] * found[i + 1]
        self._returns[episode, discount] = all_steps, found
        while len(self._returns) > 8:
            self._returns.popitem(last=False)
        return all_steps, found

    def batches(
        self,
        batch_size: int,
        fields: Sequence[str] = DEFAULT_FIELDS,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rows_in_memory: int = 65_536,
        discount: float = 1.0,
        sequence_length: int | None = None,
        worker: tuple[int, int] = (0, 1),
        drop_last: bool = False,
    ) -> Iterator[dict[StepKey, Rows]]:
        """Iterate once over all transitions, in batches.

        Shards are read in an order drawn by chance; the rows of some of them together are mixed.
        So what is in memory does not depend on the size of the recordings.

        Args:
            batch_size: transitions (or sequences) of a batch, over all step keys.
            fields: see ``read``.
            shuffle: whether to draw the order by chance; else it is that of the files.
            seed: of the draw.
            rows_in_memory: transitions that are mixed, at least.
            discount: see ``read``.
            sequence_length: give sequences of so many steps in place of transitions.
            worker: which of how many that share the shards.
            drop_last: whether to leave out a last batch that is smaller.

        Yields:
            Rows by step key. With several step keys, each has its share in a batch.
        """
        if batch_size < 1 or rows_in_memory < 1:
            raise ConfigError("'batch_size' and 'rows_in_memory' have to be whole numbers from 1")
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(worker))))
        shards = list(self.shards)
        if shuffle:  # The same order for all workers, each of which takes its part.
            order = np.random.Generator(np.random.PCG64(seed)).permutation(len(shards))
            shards = [shards[i] for i in order]
        shards = shards[worker[0] :: worker[1]]
        pool: dict[StepKey, list[Rows]] = {}
        n_pooled = 0
        for number, shard in enumerate(shards):
            if sequence_length is None:
                read = self.read(shard, fields, discount)
            else:
                read = self.sequences(shard, sequence_length, fields, discount)
            for key, rows in read.items():
                pool.setdefault(key, []).append(rows)
                n_pooled += rows.n
            is_last = number == len(shards) - 1
            if n_pooled < rows_in_memory and not is_last:
                continue
            joined = {key: join_rows(parts) for key, parts in pool.items()}
            if shuffle:
                joined = {key: rows.take(rng.permutation(rows.n)) for key, rows in joined.items()}
            n_batches = n_pooled // batch_size
            used = {
                key: rows.n * (n_batches * batch_size) // max(n_pooled, 1)
                for key, rows in joined.items()
            }
            for i in range(n_batches):
                cut = {
                    key: joined[key].take(slice(n * i // n_batches, n * (i + 1) // n_batches))
                    for key, n in used.items()
                }
                yield {key: rows for key, rows in cut.items() if rows.n}
            left = {key: rows.take(slice(used[key], rows.n)) for key, rows in joined.items()}
            pool = {key: [rows] for key, rows in left.items() if rows.n}
            n_pooled = sum(rows.n for rows in left.values())
            if is_last and n_pooled and not drop_last:
                yield {key: rows for key, rows in left.items() if rows.n}

    def shard_rows(
        self, number: int, read: Callable[[Shard], Mapping[StepKey, Rows]], n_cached: int
    ) -> Mapping[StepKey, Rows]:
        """Return the rows of a shard, of which the last few are kept in memory."""
        rows = self._cached.get(number)
        if rows is None:
            rows = self._cached[number] = read(self.shards[number])
            while len(self._cached) > n_cached:
                self._cached.popitem(last=False)
        else:
            self._cached.move_to_end(number)
        return rows

    def __repr__(self) -> str:
        return (
            f"<Recordings: {self.n_episodes:,} episodes, {self.n_steps:,} steps in"
            f" {', '.join(map(str, self._paths))}>"
        )


def check_same_spaces(
    ours: Mapping[StepKey, StepsStream],
    theirs: Mapping[StepKey, StepsStream],
    our_run: RunDirectory,
    their_run: RunDirectory,
) -> None:
    """Refuse recordings with different spaces.

    Raises:
        ConfigError: It names the first difference.
    """
    where = f"{our_run.path} and {their_run.path} cannot be learnt from together"
    if list(ours) != list(theirs):
        raise ConfigError(f"{where}: their step keys are {list(ours)} and {list(theirs)}")
    for key, stream in ours.items():
        other = theirs[key]
        for kind in ("observation_space", "action_space"):
            if getattr(stream, kind) != getattr(other, kind):
                raise ConfigError(
                    f"{where}: the {kind.replace('_', ' ')} of step key {key!r} is"
                    f" {getattr(stream, kind)} and {getattr(other, kind)}"
                )


def _directory_of(path: Path) -> Path:
    """Return the output directory that a path stands for."""
    if path.is_file():
        path = path.parent
    return path.parent if path.name == "trajectory_data" else path


def _streams_of(run: RunDirectory) -> dict[StepKey, StepsStream]:
    streams = {stream.step_key: stream for stream in run.streams}
    if not streams:
        raise OutputError(
            f"{run.path} has no trajectory data to learn from: record it with"
            " runner.record_trajectory=true"
        )
    return streams


def _dict(space: Any) -> spaces.Dict:
    assert isinstance(space, spaces.Dict)
    return space


def _among(
    ascending: NDArray[np.int64], values: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which values are among ascending ones, and where; anywhere, for others."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_), np.zeros(len(values), np.int64)
    where = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[where] == values, where


def _arrays(leaves: Sequence[Leaf], table: Any) -> Arrays:
    arrays: Arrays = {}
    for leaf in leaves:
        name = "/".join(map(str, leaf.path))
        if leaf.is_ragged:
            values = np.empty(table.num_rows, dtype=object)
            values[:] = leaf_values(leaf, table, table.num_rows)
            arrays[name] = values
        else:
            arrays[name] = leaf_values(leaf, table, table.num_rows)
    return arrays


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    column: Any = table.column(name)
    numbers: NDArray[np.float64] = column.fill_null(0.0).to_numpy()
    return numbers


def _row_at(stream: StepsStream, episode_index: int, step: int) -> Any:
    for part in stream.parts(episode_index):
        steps = part.column("step").to_numpy()
        if len(steps) and steps[0] <= step <= steps[-1]:
            return part.slice(int(np.searchsorted(steps, step)), 1)
    return None


def flat_returns(
    rewards: NDArray[np.float64], table: pa.Table, discount: float
) -> NDArray[np.float64]:
    """Return the discounted rewards to the end of the episode, of episodes that are whole.

    Source: Sutton & Barto, Reinforcement Learning (2nd ed., 2018), eq. 3.9.
    """
    indices = table.column("episode_index").to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(indices)) + 1])
    lengths = np.diff(np.append(starts, len(indices)))
    # Longest first: in step t, those that are that long are a slice. One pass for all episodes.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    found = rewards.copy()
    n_longer = np.searchsorted(-lengths, -np.arange(1, lengths[0] + 1), side="right")
    for t in range(int(lengths[0]) - 2, -1, -1):
        n = int(n_longer[t + 1])
        places = starts[:n] + t
        found[places] += discount * found[places + 1]
    return found
