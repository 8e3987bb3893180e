"""Dataset aggregation (DAgger): a teacher says what it would do where the student gets to.

    in each round:  play with the student (at first with the teacher)
                    D <- D + {(o, what the teacher would do on o)}
                    learn from D by behavioural cloning

A clone that only saw its teacher's episodes does not know what to do after its own mistakes; here
it is told.

Source: Ross, Gordon & Bagnell, A Reduction of Imitation Learning and Structured Prediction to
No-Regret Online Learning (2011), algorithm 3.1, with beta = 1 in the first rounds and 0 later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from maze.core.errors import ConfigError
from maze.core.rollout.job import PolicySource, WrapperSource
from maze.core.wrappers.apply import wrapper_entries
from maze.datasets.convert import is_gymnasiums
from maze.train.collect import Segment
from maze.train.models.model import Model
from maze.train.observations import Arrays
from maze.train.teacher import TeacherWrapper
from maze.train.trainers.algorithm import AlgorithmState, Update, check_counts
from maze.train.trainers.bc import Cloning, Decisions, mean_metrics
from maze.train.workers import Workers


@dataclass(frozen=True)
class _Labelled:
    """Observations, and what the teacher would do; the first dimension is the decision."""

    observations: Arrays
    codes: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    def take(self, rows: Any) -> _Labelled:
        return _Labelled(
            {key: array[rows] for key, array in self.observations.items()},
            {key: array[rows] for key, array in self.codes.items()},
        )

    def last(self, n: int) -> _Labelled:
        return self if len(self) <= n else self.take(slice(len(self) - n, None))

    def joined(self, other: _Labelled) -> _Labelled:
        return _Labelled(
            {
                key: np.concatenate([array, other.observations[key]])
                for key, array in self.observations.items()
            },
            {key: np.concatenate([array, other.codes[key]]) for key, array in self.codes.items()},
        )


@dataclass(kw_only=True, eq=False)
class DAgger(Cloning):
    """Learn from a teacher who labels what the student visits."""

    teacher: PolicySource = None
    """A policy, or a config of one."""
    teacher_wrappers: WrapperSource = None
    """What is between the environment, without the training's wrappers, and the teacher."""
    n_lanes: int = 8
    """Environments that are played side by side."""
    n_rollout_steps: int = 128
    """Structured steps in each of them in a round."""
    n_teacher_rounds: int = 1
    """Rounds at the start in which the teacher plays."""
    n_batches: int = 64
    """Steps of the optimiser in each round."""
    buffer_size: int = 1_000_000
    """Decisions that are kept of each network; the oldest ones are forgotten."""
    shown: ClassVar[Sequence[str]] = ("return_mean", "loss", "agreement")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(
            self, n_lanes=1, n_rollout_steps=1, n_teacher_rounds=0, n_batches=1, buffer_size=1
        )
        if self.teacher is None:
            raise ConfigError(
                "algorithm=dagger needs a teacher: choose one with policy@algorithm.teacher=...,"
                " such as policy@algorithm.teacher=lunar_lander_heuristics"
            )

    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model."""
        super().start(model, rng, device, n_steps)
        self._n_rounds = 0
        self._kept: dict[str, _Labelled] = {}

    def lane_wrappers(self, wrappers: WrapperSource) -> WrapperSource:
        """Put the teacher inside of the wrappers of the training."""
        entries = [{name: arguments} for name, arguments in wrapper_entries(wrappers)]
        n_inside = sum(1 for entry in entries if is_gymnasiums(entry))
        arguments = {"teacher": self.teacher, "teacher_wrappers": self.teacher_wrappers}
        return [*entries[:n_inside], {TeacherWrapper: arguments}, *entries[n_inside:]]

    def update(self, workers: Workers, n_steps_done: int) -> Update:
        """Play a round, and learn from all rounds."""
        teacher_plays = self._n_rounds < self.n_teacher_rounds
        segment = workers.collect(self.n_rollout_steps, "plays" if teacher_plays else "labels")
        agreement = self._keep(segment)
        self._n_rounds += 1
        told = [self._learn(self._batch()) for _ in range(self.n_batches)]
        metrics = mean_metrics(told)
        n_kept = sum(len(kept) for kept in self._kept.values())
        return Update(
            segment.n_steps,
            segment.episodes,
            {**metrics, "agreement": agreement, "decisions": n_kept},
        )

    def state(self) -> AlgorithmState:
        """Return the optimiser's averages and the decisions of all rounds."""
        tensors = dict(super().state().tensors)
        for name, kept in self._kept.items():
            for kind, arrays in (("observations", kept.observations), ("codes", kept.codes)):
                for key, array in arrays.items():
                    tensors[f"kept.{name}.{kind}.{key}"] = torch.from_numpy(array)
        return AlgorithmState(tensors, {"n_rounds": self._n_rounds})

    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""
        super().restore(state)
        self._n_rounds = int(state.numbers["n_rounds"])
        self._kept = {}
        for name in self._model.networks:
            found: dict[str, Arrays] = {"observations": {}, "codes": {}}
            prefix = f"kept.{name}."
            for key, value in state.tensors.items():
                if key.startswith(prefix):
                    kind, entry = key.removeprefix(prefix).split(".", 1)
                    found[kind][entry] = value.numpy()
            if found["codes"]:
                self._kept[name] = _Labelled(found["observations"], found["codes"])

    def _keep(self, segment: Segment) -> float:
        """Keep what was labelled; return the share of decisions that were the teacher's."""
        n_right = n_all = 0
        for number, name in enumerate(segment.networks):
            rows = segment.rows.get(name)
            if rows is None or rows.labels is None:
                continue
            # In the order of the decisions, which does not depend on who has played which lane;
            # without those that were added for their value alone.
            chosen = segment.row[segment.network == number]
            chosen = chosen[rows.is_labelled[chosen]]
            new = _Labelled(
                {key: array[chosen] for key, array in rows.observations.items()},
                {head: array[chosen] for head, array in rows.labels.items()},
            )
            same = np.ones(len(chosen), np.bool_)
            for head, array in new.codes.items():
                same &= np.isclose(array, rows.codes[head][chosen], atol=1e-3).all(axis=1)
            n_right, n_all = n_right + int(same.sum()), n_all + len(chosen)
            before = self._kept.get(name)
            kept = new if before is None else before.joined(new)
            self._kept[name] = kept.last(self.buffer_size)
        return n_right / n_all if n_all else float("nan")

    def _batch(self) -> dict[str, Decisions]:
        sizes = {name: len(kept) for name, kept in self._kept.items()}
        total = sum(sizes.values())
        batch: dict[str, Decisions] = {}
        for name, size in sizes.items():
            n = round(self.batch_size * size / total)
            if not n:
                continue
            rows = self._rng.integers(size, size=n)
            taken = self._kept[name].take(rows)
            encoder = self._model.networks[name].encoder
            batch[name] = Decisions(
                encoder.tensors(taken.observations, self._device),
                {
                    head: torch.from_numpy(code).to(self._device)
                    for head, code in taken.codes.items()
                },
            )
        return batch
