"""Runs a training: plays, learns, evaluates, logs, writes checkpoints, and goes on from them.

    algorithm.update --> metrics --> log        until n_steps were played
            |
       every eval_every_steps: workers.evaluate (always the same episodes) --> best weights kept
                                                                          --> checkpoint

A runner says *where* episodes are played: in this process, or in several. What is played and learnt
is up to the algorithm and the options, and is the same wherever.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from maze.core.errors import ConfigError, OutputError, RunStoppedError
from maze.core.factory import TARGET, Factory, call
from maze.core.ledger.lock import DirectoryLock
from maze.core.output_directory import default_output_directory
from maze.core.rollout.job import EnvRecipe, EnvSource, WrapperSource
from maze.core.rollout.play import PlayOptions
from maze.core.rollout.rollout_runner import as_plain, versions
from maze.core.seeding import Seeding
from maze.core.statistics.summary import summarize
from maze.train.checkpoint import (
    CONFIG_FILE,
    LAST_WEIGHTS_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_tensors,
    write_whole,
)
from maze.train.datasets import DatasetOptions, open_dataset
from maze.train.log import EVALUATIONS, TrainingLog, read_rows
from maze.train.models.build import ModelSource, build_model
from maze.train.models.model import Model
from maze.train.options import TrainingOptions
from maze.train.result import RESULT_FILE, Evaluation, Reporter, TrainingResult
from maze.train.specs import EnvSpecs
from maze.train.statistics_files import copy_statistics, save_statistics, with_statistics
from maze.train.torch_policy import check_device, load_weights
from maze.train.trainers.a2c import A2C
from maze.train.trainers.algorithm import Algorithm
from maze.train.trainers.bc import BC
from maze.train.trainers.dagger import DAgger
from maze.train.trainers.es import ES
from maze.train.trainers.ppo import PPO
from maze.train.trainers.sac import SAC
from maze.train.worker import EngineSetup
from maze.train.workers import OwnProcess, SeveralProcesses, Workers

ALGORITHMS: Mapping[str, type[Algorithm]] = {
    "ppo": PPO,
    "a2c": A2C,
    "es": ES,
    "sac": SAC,
    "bc": BC,
    "dagger": DAgger,
}


class TrainingRunner:
    """Trains a policy.

    Args:
        n_processes: processes that play. ``None``: this one does.
        show_progress: whether a line is printed for each row of the log.
        dataset: options of ``DatasetOptions``: the recordings that are learnt from, if the
            algorithm does that.
    """

    def __init__(
        self,
        n_processes: int | None = None,
        show_progress: bool = True,
        dataset: Mapping[str, Any] | DatasetOptions | None = None,
    ) -> None:
        if n_processes is not None and (
            isinstance(n_processes, bool) or not isinstance(n_processes, int) or n_processes < 1
        ):
            raise ConfigError(
                "'runner.n_processes' has to be a whole number from 1, or null, got"
                f" {n_processes!r}"
            )
        self.n_processes, self.show_progress = n_processes, show_progress
        if not isinstance(dataset, DatasetOptions):
            dataset = call(DatasetOptions, dataset or {}, where="runner.dataset")
        assert isinstance(dataset, DatasetOptions)
        self.dataset = dataset

    def run_with(
        self,
        env: EnvSource,
        algorithm: str | Mapping[str, Any] | Algorithm = "ppo",
        model: ModelSource = None,
        wrappers: WrapperSource = None,
        options: TrainingOptions | Mapping[str, Any] | None = None,
        *,
        seeding: Seeding | None = None,
        output_dir: str | Path | None = None,
        input_dir: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        command: str = "",
        resume: bool = False,
    ) -> TrainingResult:
        """Train.

        Args:
            env: a Gymnasium id, a config, an environment, or a function that makes one.
            algorithm: one of ``ALGORITHMS`` by its name, a config, or an algorithm.
            model: a config of a model, a model, or ``None`` for two dense layers of 64.
            wrappers: dotted path or class to arguments, the first being the innermost.
            options: of the training, or a mapping of some of them.
            seeding: fixes the environments' seeds (``env_base_seed``), and those of weights,
                sampling and learning (``agent_base_seed``). Explicit seeds are those of the
                episodes of evaluations. ``None``: drawn by chance, and stored.
            output_dir: where to write; ``None``: ``outputs/<date>/<time>``.
            input_dir: output directory of an earlier training whose weights are the first ones
                here. Critics that it lacks start afresh.
            config: written to ``config.yaml``; ``None``: made from the arguments.
            command: what was typed, for the record.
            resume: go on from the last checkpoint in ``output_dir``.

        Returns:
            Evaluations, and where everything is. Interrupted by Ctrl-C, those up to then; a
            checkpoint is written.

        Raises:
            ConfigError: If something cannot be used.
            RunStoppedError: If too many episodes fail, or a worker dies.
        """
        algorithm = make_algorithm(algorithm)
        if not isinstance(options, TrainingOptions):
            options = call(TrainingOptions, options or {}, where="training")
        assert isinstance(options, TrainingOptions)
        check_device(options.device)
        seeding = (seeding or Seeding()).resolved()
        directory = Path(output_dir) if output_dir else default_output_directory()
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if config is None:
            config = _describe(self, env, algorithm, model, wrappers, options, seeding, input_dir)
        lock = DirectoryLock(directory)
        with contextlib.ExitStack() as stack:
            stack.callback(lock.release)
            stack.enter_context(_torch_threads(options.n_torch_threads))
            stack.enter_context(torch.random.fork_rng(devices=[]))
            if not resume:
                _write_config(directory, config, command)
            training = _Training(
                self, env, algorithm, model, wrappers, options, seeding, directory, config
            )
            stack.callback(training.close)
            training.prepare(None if input_dir is None else Path(input_dir), resume)
            return training.run()


class _Training:
    """A training that is going on."""

    def __init__(
        self,
        runner: TrainingRunner,
        env: EnvSource,
        algorithm: Algorithm,
        model: ModelSource,
        wrappers: WrapperSource,
        options: TrainingOptions,
        seeding: Seeding,
        directory: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._runner, self._algorithm, self._options = runner, algorithm, options
        self._env, self._wrappers, self._model_source = env, wrappers, model
        self._seeding, self._directory, self._config = seeding, directory, config
        self._reporter = Reporter(options.n_steps, runner.show_progress, algorithm.shown)
        self._workers: Workers | None = None
        self._log: TrainingLog | None = None
        self._evaluations: list[Evaluation] = []
        self._best: Evaluation | None = None
        self._n_since_best = 0
        self._n_steps = self._n_updates = 0
        self._next_evaluation = options.eval_every_steps
        self._pending = _Pending()
        self._n_failed = 0
        self._stopped_because = ""
        self._best_validation = math.inf

    def prepare(self, input_dir: Path | None, resume: bool) -> None:
        """Make model and workers, and take up what was before."""
        options, seeding, directory = self._options, self._seeding, self._directory
        assert seeding.env_base_seed is not None
        assert seeding.agent_base_seed is not None
        checkpoint = load_checkpoint(directory) if resume else None
        if resume and checkpoint is None:
            # It was killed before the first one: then it begins again.
            for name in (WEIGHTS_FILE, LAST_WEIGHTS_FILE, EVALUATIONS):
                (directory / name).unlink(missing_ok=True)
        _check_dataset(self._algorithm, self._runner.dataset)
        if input_dir is not None and not resume:
            copy_statistics(input_dir, directory)  # What the weights were learnt with.
        first = EnvRecipe(self._env, with_statistics(self._wrappers, directory)).build()
        try:
            specs = EnvSpecs.of(first)
            if not resume:
                save_statistics(first, directory)
        finally:
            first.close()
        self._model = build_model(self._model_source, specs, seeding.agent_base_seed)
        _check_critics(self._model, self._algorithm, seeding.agent_base_seed)
        specs.save(directory)
        if input_dir is not None and not resume:
            EnvSpecs.load(input_dir).check_fits(specs)
            load_first_weights(self._model, input_dir / WEIGHTS_FILE)
        if checkpoint is not None:
            self._model.load_state_dict(dict(checkpoint.weights))
        self._model.to(options.device)
        self._rng = np.random.Generator(np.random.PCG64(seeding.agent_base_seed))
        if self._algorithm.uses_dataset:
            recordings = open_dataset(
                self._runner.dataset,
                self._env,
                self._wrappers,
                with_statistics(self._wrappers, directory),
                specs,
                directory,
            )
            self._reporter.say(f"learns from {recordings.n_episodes:,} recorded episodes")
            self._algorithm.take_dataset(recordings)
        self._algorithm.start(self._model, self._rng, options.device, options.n_steps)
        around = self._algorithm.lane_wrappers(with_statistics(self._wrappers, directory))
        setup = EngineSetup(
            recipe=EnvRecipe(self._env, around),
            model=self._model,
            lanes=range(self._algorithm.n_lanes),
            seed=(seeding.env_base_seed << 64) + seeding.agent_base_seed,
            options=PlayOptions(options.max_episode_steps),
            credit=self._algorithm.credit,
            n_eval_lanes=options.n_eval_lanes,
            max_failures=options.max_failures,
            device=options.device,
            batch_size=options.batch_size,
        )
        n_processes = self._runner.n_processes
        self._workers = (
            OwnProcess(setup) if n_processes is None else SeveralProcesses(setup, n_processes)
        )
        if checkpoint is not None:
            self._restore(checkpoint)
        self._log = TrainingLog(directory, self._n_updates, options.tensorboard)
        self._plan = list(seeding.plan(options.n_eval_episodes)) if options.n_eval_episodes else []

    def run(self) -> TrainingResult:
        """Train until the end, whatever that is."""
        options = self._options
        assert self._workers is not None
        assert self._log is not None
        started = perf_counter()
        n_before, learning_seconds, interrupted = self._n_steps, 0.0, False
        if self._n_steps >= options.n_steps:
            self._reporter.say(f"{self._n_steps:,} of {options.n_steps:,} steps were played before")
        while self._n_steps < options.n_steps and not self._stopped_because and not interrupted:
            with _finishing_first() as interrupts:
                before = perf_counter()
                # Layers that draw from torch's generator do so in the same way after a resume.
                torch.manual_seed(self._n_updates)
                update = self._algorithm.update(self._workers, self._n_steps)
                self._n_updates += 1
                self._n_steps += update.n_steps
                self._pending.add(update.n_steps, update.episodes, update.metrics)
                learning_seconds += perf_counter() - before
                speed = (self._n_steps - n_before) / learning_seconds
                is_last = self._n_steps >= options.n_steps
                evaluation = None
                if self._plan and (self._n_steps >= self._next_evaluation or is_last):
                    evaluation = self._evaluate()
                is_due = evaluation is not None or is_last
                is_due = is_due or (not self._plan and self._n_steps >= self._next_evaluation)
                validation = self._validate() if is_due else {}
                if is_due or self._pending.n_steps >= options.log_every_steps:
                    row = {
                        "update": self._n_updates,
                        "n_steps": self._n_steps,
                        **self._pending.row(),
                        **dict.fromkeys(self._algorithm.validation_names, math.nan),
                        **validation,
                        "steps_per_second": round(speed, 1),
                    }
                    self._log.add(row)
                    if is_due or not self._plan:
                        self._reporter.row(row, evaluation, evaluation is self._best, speed)
                    self._pending = _Pending()
                if is_due:
                    self._next_evaluation = (
                        self._n_steps // options.eval_every_steps + 1
                    ) * options.eval_every_steps
                    self._save()
            if interrupts:
                interrupted = True
                self._save()
        self._log.close()
        result = TrainingResult(
            n_steps=self._n_steps,
            n_updates=self._n_updates,
            evaluations=tuple(self._evaluations),
            best=self._best,
            seconds=perf_counter() - started,
            steps_per_second=(self._n_steps - n_before) / learning_seconds
            if learning_seconds
            else 0.0,
            output_directory=self._directory,
            interrupted=interrupted,
            stopped_because=self._stopped_because,
            env_name=_env_name(self._config.get("env")),
            algorithm_name=type(self._algorithm).__name__,
        )
        self._finish(result)
        return result

    def close(self) -> None:
        """End what was started."""
        if self._workers is not None:
            self._workers.close()

    def _evaluate(self) -> Evaluation:
        assert self._workers is not None
        assert self._log is not None
        episodes = self._workers.evaluate(self._plan, self._options.eval_deterministic)
        failed = [one for one in episodes if one.ending == "failed"]
        self._n_failed += len(failed)
        if failed and (len(failed) == len(episodes) or self._n_failed > self._options.max_failures):
            raise RunStoppedError(
                f"{len(failed)} of {len(episodes)} episodes of an evaluation failed. The last one:"
                f" {failed[-1].error}"
            )
        evaluation = Evaluation(
            self._n_steps,
            self._n_updates,
            summarize([one.episode_return for one in episodes if one.ending != "failed"]),
            len(failed),
        )
        self._evaluations.append(evaluation)
        mean = evaluation.returns.mean
        self._log.add_evaluation(self._n_updates, self._n_steps, episodes, mean)
        if self._best is None or mean > self._best.returns.mean:
            self._best, self._n_since_best = evaluation, 0
            save_tensors(self._model.state_dict(), self._directory / WEIGHTS_FILE)
        else:
            self._n_since_best += 1
        options = self._options
        if options.target_return is not None and mean >= options.target_return:
            self._stopped_because = (
                f"the mean return of an evaluation reached training.target_return="
                f"{options.target_return:g}"
            )
        elif options.patience is not None and self._n_since_best >= options.patience:
            self._stopped_because = (
                f"{self._n_since_best} evaluations brought nothing better (training.patience)"
            )
        return evaluation

    def _validate(self) -> Mapping[str, float]:
        """Look at what is not learnt from. Without evaluations, it decides which weights count."""
        validation = self._algorithm.validate()
        loss = validation.get("validation_loss", math.inf)
        if loss < self._best_validation:
            self._best_validation = loss
            if not self._plan:
                save_tensors(self._model.state_dict(), self._directory / WEIGHTS_FILE)
        return validation

    def _save(self) -> None:
        assert self._workers is not None
        numbers = {
            "n_steps": self._n_steps,
            "n_updates": self._n_updates,
            "next_evaluation": self._next_evaluation,
            "n_since_best": self._n_since_best,
            "n_failed": self._n_failed,
            "best_validation": None if math.isinf(self._best_validation) else self._best_validation,
            "rng": self._rng.bit_generator.state,
            "pending": self._pending.to_json(),
            "evaluations": [
                {"n_updates": one.n_updates, "is_best": one is self._best}
                for one in self._evaluations
            ],
        }
        save_checkpoint(
            self._directory,
            self._n_updates,
            Checkpoint(
                self._model.state_dict(), self._algorithm.state(), self._workers.states(), numbers
            ),
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        assert self._workers is not None
        numbers = checkpoint.numbers
        self._n_steps, self._n_updates = int(numbers["n_steps"]), int(numbers["n_updates"])
        self._next_evaluation = int(numbers["next_evaluation"])
        self._n_since_best = int(numbers["n_since_best"])
        self._n_failed = int(numbers["n_failed"])
        if numbers.get("best_validation") is not None:
            self._best_validation = float(numbers["best_validation"])
        self._rng.bit_generator.state = numbers["rng"]
        self._pending = _Pending.from_json(numbers["pending"])
        self._algorithm.restore(checkpoint.algorithm)
        self._workers.restore(checkpoint.lanes)
        by_update: dict[int, list[dict[str, str]]] = {}
        for row in read_rows(self._directory / EVALUATIONS):
            by_update.setdefault(int(row["update"]), []).append(row)
        for told in numbers["evaluations"]:
            rows = by_update.get(told["n_updates"])
            if not rows:
                raise OutputError(
                    f"'{self._directory / EVALUATIONS}' lacks the evaluation after update"
                    f" {told['n_updates']}, which the checkpoint has seen"
                )
            evaluation = Evaluation(
                int(rows[0]["n_steps"]),
                told["n_updates"],
                summarize([float(row["return"]) for row in rows if row["ending"] != "failed"]),
                sum(row["ending"] == "failed" for row in rows),
            )
            self._evaluations.append(evaluation)
            if told["is_best"]:
                self._best = evaluation

    def _finish(self, result: TrainingResult) -> None:
        directory = self._directory
        weights = self._model.state_dict()
        save_tensors(weights, directory / LAST_WEIGHTS_FILE)
        if self._best is None and math.isinf(self._best_validation):
            save_tensors(weights, directory / WEIGHTS_FILE)
        import json

        write_whole(directory / RESULT_FILE, json.dumps(result.to_json_dict(), indent=1) + "\n")
        if self._options.learning_curve:
            from maze.train.learning_curve import draw_if_possible

            draw_if_possible([directory], directory / "learning_curve.png")
        if self._runner.show_progress:
            self._reporter.say("")
            self._reporter.say(str(result))


class _Pending:
    """What happened since the last row of the log."""

    def __init__(self) -> None:
        self.n_steps = 0
        self._n_updates = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._n_failed = 0
        self._sums: dict[str, float] = {}

    def add(self, n_steps: int, episodes: Sequence[Any], metrics: Mapping[str, float]) -> None:
        self.n_steps += n_steps
        self._n_updates += 1
        for episode in episodes:
            if episode.ending == "failed":
                self._n_failed += 1
            else:
                self._returns.append(episode.episode_return)
                self._lengths.append(episode.n_steps)
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def row(self) -> dict[str, float]:
        n = len(self._returns)
        return {
            "n_episodes": n,
            "n_failed": self._n_failed,
            "return_mean": math.fsum(self._returns) / n if n else math.nan,
            "n_episode_steps_mean": sum(self._lengths) / n if n else math.nan,
            **{name: value / self._n_updates for name, value in self._sums.items()},
        }

    def to_json(self) -> dict[str, Any]:
        return {name.lstrip("_"): value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> _Pending:
        pending = cls()
        pending.n_steps = content["n_steps"]
        pending._n_updates = content["n_updates"]
        pending._returns, pending._lengths = content["returns"], content["lengths"]
        pending._n_failed, pending._sums = content["n_failed"], content["sums"]
        return pending


def make_algorithm(source: str | Mapping[str, Any] | Algorithm) -> Algorithm:
    """Make an algorithm of its name, its config, or of itself.

    Raises:
        ConfigError: If there is no such algorithm, or it does not take an option.
    """
    if isinstance(source, str):
        if source not in ALGORITHMS:
            raise ConfigError(
                f"there is no algorithm {source!r}: choose one of {', '.join(ALGORITHMS)}, or give"
                " a config with _target_"
            )
        source = {TARGET: ALGORITHMS[source]}
    return Factory(Algorithm, where="algorithm").build(source)


def load_first_weights(model: Model, path: Path) -> None:
    """Load weights to start from; critics that the file lacks are left as they are."""
    weights = None
    with contextlib.suppress(Exception):
        weights = torch.load(path, map_location="cpu", weights_only=True)
    critics = [name for name in model.state_dict() if not name.startswith("policies.")]
    has_critics = isinstance(weights, Mapping) and all(name in weights for name in critics)
    load_weights(model, path, policies_only=not has_critics)


def _check_dataset(algorithm: Algorithm, dataset: DatasetOptions) -> None:
    if dataset.dir_or_file and not algorithm.uses_dataset:
        raise ConfigError(
            f"{type(algorithm).__name__} learns from what it plays, and not from recordings"
            " (runner.dataset.dir_or_file): algorithm=bc learns from them, and a training with"
            " another algorithm can go on from what it has learnt, with input_dir=..."
        )


def _check_critics(model: Model, algorithm: Algorithm, seed: int) -> None:
    name = type(algorithm).__name__
    if algorithm.uses_critic and not len(model.critics):
        raise ConfigError(
            f"{name} learns a critic, but the model has none: give 'critics' of CustomModel, or"
            " use algorithm=es, which needs none"
        )
    if algorithm.n_action_critics and not len(model.action_critics):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            model.make_action_critics(algorithm.n_action_critics)
    if not algorithm.uses_critic:
        # They would neither learn nor be of use to anybody.
        model.critics = torch.nn.ModuleDict()


def _write_config(directory: Path, config: Mapping[str, Any], command: str) -> None:
    import yaml

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_whole(directory / CONFIG_FILE, text)
    about = {"command": command or None, **versions(), "torch": str(torch.__version__)}
    write_whole(directory / "versions.yaml", yaml.safe_dump(about, sort_keys=False))


def _describe(
    runner: TrainingRunner,
    env: EnvSource,
    algorithm: Algorithm,
    model: ModelSource,
    wrappers: WrapperSource,
    options: TrainingOptions,
    seeding: Seeding,
    input_dir: str | Path | None,
) -> dict[str, Any]:
    """Describe a training that was set up in Python in the form of a config."""
    kind = type(algorithm)
    return {
        "runner": {
            TARGET: f"{__name__}.TrainingRunner",
            "n_processes": runner.n_processes,
            "dataset": as_plain(vars(runner.dataset)),
        },
        "env": as_plain(env),
        "wrappers": as_plain(wrappers or {}),
        "model": as_plain(model or {}),
        "algorithm": {
            TARGET: f"{kind.__module__}.{kind.__qualname__}",
            **{
                name: as_plain(value)
                for name, value in vars(algorithm).items()
                if not name.startswith("_")
            },
        },
        "training": options.to_dict(),
        "seeding": {
            name: None if value is None else as_plain(value)
            for name, value in vars(seeding).items()
        },
        "input_dir": "" if input_dir is None else str(input_dir),
    }


def _env_name(env: Any) -> str:
    if isinstance(env, Mapping):
        return str(env.get("name") or str(env.get(TARGET, "")).rpartition(".")[2])
    return str(env)


@contextlib.contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _finishing_first() -> Iterator[list[int]]:
    """Note the first interrupt, so that an update comes to its end; the second one is raised."""
    noted: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        handler = before[signal.Signals(number)]
        if hasattr(handler, "received"):  # See Terminations.
            handler.received.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
    for which in before:
        signal.signal(which, note)
    try:
        yield noted
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
