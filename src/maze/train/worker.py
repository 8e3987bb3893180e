"""What a process does for a trainer: collect, evaluate, try out weights.

The same ``Engine`` works in the trainer's own process and in workers; runners differ in where it
is. Weights arrive as one vector, experience leaves as arrays.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from maze.core.episode import Episode, EpisodePart, EpisodeSpec
from maze.core.errors import MazeError
from maze.core.rollout.job import EnvRecipe
from maze.core.rollout.play import Lane, PlayOptions, drive
from maze.core.rollout.processes import become_a_worker
from maze.train.collect import Collector, Credit, LaneState, Segment, TeacherRole
from maze.train.models.model import Model
from maze.train.torch_policy import TorchPolicy

Vector = NDArray[np.float32]
"""The parameters of all policy networks, see ``FlatParameters``."""


@dataclass(frozen=True)
class EngineSetup:
    """All that an engine is made from. Can be sent to another process of this run."""

    recipe: EnvRecipe
    model: Model
    lanes: Sequence[int]
    """Indices of the lanes in which it collects; those of all engines are 0, 1, ..."""
    seed: int
    options: PlayOptions
    credit: Credit
    n_eval_lanes: int
    """Episodes that it evaluates side by side."""
    max_failures: int
    device: str = "cpu"
    batch_size: int | None = None

    def to_bytes(self) -> bytes:
        """Return it in a form that another process of this run can load."""
        return bytes(cloudpickle.dumps(self))


class Evaluated(NamedTuple):
    """An episode that was played for evaluation."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    episode_return: float
    n_steps: int
    ending: str
    statistics: dict[str, float]
    error: str


class Trial(NamedTuple):
    """Weights to try out: what is added to the vector, and what is played with it."""

    noise_seed: int
    """Of the normal noise that is added."""
    scale: float
    """By which it is multiplied; negative for the other of an antithetic pair."""
    specs: Sequence[EpisodeSpec]
    """Episodes to play."""
    deterministic: bool


class Tried(NamedTuple):
    """What came of a trial."""

    returns: Sequence[float]
    n_steps: int


class Engine:
    """Collects and evaluates in this process."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self.policy = TorchPolicy(setup.model, setup.device, setup.batch_size)
        self._collector = Collector(
            setup.recipe.build,
            self.policy,
            setup.lanes,
            setup.seed,
            setup.options,
            setup.credit,
            setup.max_failures,
        )
        self._eval_lanes: list[Lane] = []

    def collect(self, n_steps: int, teacher: TeacherRole | None = None) -> Segment:
        """Play so many structured steps in each lane, see ``Collector``."""
        self._setup.model.eval()
        return self._collector.collect(n_steps, teacher)

    def states(self) -> list[LaneState]:
        """Return where the lanes are."""
        return self._collector.states()

    def restore(self, states: Sequence[LaneState]) -> None:
        """Bring the lanes to where they were."""
        self._setup.model.eval()
        self._collector.restore(states)

    def evaluate(self, specs: Sequence[EpisodeSpec], deterministic: bool) -> list[Evaluated]:
        """Play episodes from their start to their end."""
        self._setup.model.eval()
        while len(self._eval_lanes) < min(self._setup.n_eval_lanes, len(specs)):
            self._eval_lanes.append(
                Lane(self._setup.recipe.build, self._setup.options, shares_process=True)
            )
        if not specs:
            return []
        waiting = list(reversed(specs))
        done = [
            _evaluated(episode)
            for episode in drive(
                self._eval_lanes,
                self.policy,
                lambda is_idle: waiting.pop() if waiting else None,
                deterministic,
            )
            if not isinstance(episode, EpisodePart)
        ]
        return sorted(done)

    def close(self) -> None:
        """Close the environments."""
        self._collector.close()
        for lane in self._eval_lanes:
            lane.close()


class Weights:
    """The policy's weights in an engine's process, which can be set and disturbed."""

    def __init__(self, model: Model) -> None:
        self._parameters = [parameter.data for parameter in model.policies.parameters()]

    def set(self, vector: Vector) -> None:
        """Take weights. They are copied to where they are, as others may have views of them."""
        offset = 0
        given = torch.from_numpy(vector)
        for parameter in self._parameters:
            n = parameter.numel()
            parameter.copy_(given[offset : offset + n].view_as(parameter))
            offset += n

    def get(self) -> Vector:
        """Return a copy of the weights."""
        vector: Vector = torch.cat([p.reshape(-1) for p in self._parameters]).cpu().numpy()
        return vector

    def try_out(self, engine: Engine, vector: Vector, trials: Sequence[Trial]) -> list[Tried]:
        """Play what trials say, each with its own weights; leave ``vector`` in the end."""
        done: list[Tried] = []
        for trial in trials:
            noise = noise_of(trial.noise_seed, len(vector))
            self.set(vector + np.float32(trial.scale) * noise)
            played = engine.evaluate(trial.specs, trial.deterministic)
            done.append(
                Tried([one.episode_return for one in played], sum(one.n_steps for one in played))
            )
        self.set(vector)
        return done


def noise_of(seed: int, n: int) -> Vector:
    """Return the normal noise of a seed, the same in all processes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.standard_normal(n, dtype=np.float32)


def _evaluated(episode: Episode) -> Evaluated:
    return Evaluated(
        episode.spec.index,
        float(episode.episode_return),
        episode.n_steps,
        episode.ending,
        dict(episode.statistics),
        "" if episode.failure is None else f"{episode.failure}\n{episode.failure.traceback}",
    )


class Request(NamedTuple):
    """What a parent asks of a worker."""

    method: str
    vector: Vector | None
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """What it gets."""

    result: Any = None
    error: BaseException | None = None


def work(connection: Connection, setup: bytes) -> None:
    """Answer what the parent asks until it is gone.

    Args:
        connection: to the parent.
        setup: an ``EngineSetup`` by ``to_bytes``, from our own parent.
    """
    become_a_worker()
    torch.set_num_threads(1)
    try:
        made: EngineSetup = pickle.loads(setup)
        engine, weights = Engine(made), Weights(made.model)
    except BaseException as error:
        connection.send(Answer(error=_sendable(error)))
        return
    methods: dict[str, Callable[..., Any]] = {
        "collect": engine.collect,
        "states": engine.states,
        "restore": engine.restore,
        "evaluate": engine.evaluate,
    }
    connection.send(Answer())
    while True:
        try:
            request: Request = connection.recv()
        except (EOFError, OSError):
            engine.close()
            return
        try:
            if request.method == "try_out":
                assert request.vector is not None
                result: Any = weights.try_out(engine, request.vector, *request.arguments)
            else:
                if request.vector is not None:
                    weights.set(request.vector)
                result = methods[request.method](*request.arguments)
            answer = Answer(result)
        except BaseException as error:
            answer = Answer(error=_sendable(error))
        try:
            connection.send(answer)
        except OSError:
            return


def _sendable(error: BaseException) -> BaseException:
    """Return an error that another process can load."""
    if isinstance(error, MazeError):
        copy = MazeError.__new__(type(error))
        copy.args = (str(error),)
        return copy
    return RuntimeError(f"{type(error).__name__}: {error}")
