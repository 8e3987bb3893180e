"""What all runners have in common: from a request to a result.

A runner says *where* episodes are played: it implements ``episodes``. Planning, statistics,
recording, progress and the handling of interrupts are here, and are the same for all of them.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import shlex
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias, get_args

import gymnasium as gym
import numpy as np

from maze.core.episode import EpisodeBatch, EpisodeRow, EpisodeSpec
from maze.core.errors import ConfigError, ContractError, RunStoppedError
from maze.core.ledger.journal import Journal
from maze.core.ledger.recovery import Recovered
from maze.core.output_directory import default_output_directory
from maze.core.rollout.checks import CheckOptions, OnNaN, OnOutOfSpace
from maze.core.rollout.encoding import EncoderOptions
from maze.core.rollout.interrupts import held_interrupts
from maze.core.rollout.job import EnvRecipe, EnvSource, Job, PolicySource, WrapperSource
from maze.core.rollout.play import PlayOptions
from maze.core.rollout.progress import Progress
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.trust import can_be_rebuilt, what_would_be_imported
from maze.core.seeding import EpisodePlan, Seeding
from maze.core.sinks.ledger_sink import LedgerSink
from maze.core.sinks.sink import Sink, Sinks
from maze.core.statistics.run_statistics import RunStatistics
from maze.version import __version__

OnError: TypeAlias = Literal["record", "stop"]

Batches: TypeAlias = Generator[EpisodeBatch, None, None]


class RolloutRunner(ABC):
    """Plays a policy in an environment for a number of episodes.

    Args:
        n_episodes: in the whole run.
        max_episode_steps: (structured) steps after which an episode is cut off; 0 for no limit
            but the environment's own.
        record_trajectory: whether observations, actions and rewards go to ``trajectory_data``.
        record_event_logs: whether events go to ``event_logs``.
        deterministic: whether the policy takes its most likely action instead of sampling one.
        n_lanes: episodes that one process plays side by side, so that a policy network is asked
            for a batch of actions. Does not change what is played.
        on_error: what an exception in the environment or the policy does: ``record`` the episode
            as failed and go on, or ``stop`` the run.
        on_nan: what a NaN among observations or rewards does: ``fail`` the episode, only
            ``count`` it, or ``stop`` the run.
        on_out_of_space: what an observation or action outside its space's bounds does: ``stop``
            the run, ``fail`` the episode, or ``allow`` it.
        max_failures: stop the run when more episodes than this have failed: a count, or as a
            fraction below 1 that of the episodes asked for. ``None``: never.
        wrappers: dotted path or class to arguments, the first being the innermost.
            ``run_with(wrappers=...)`` takes their place.
        output_dir: where to write. ``None``: ``outputs/<date>/<time>`` below the current
            directory if anything is recorded, else nowhere.
        show_progress: whether to draw a progress bar. ``None``: if stderr is a terminal.

    A runner holds options only: it can be run any number of times.
    """

    n_processes = 1

    def __init__(
        self,
        n_episodes: int = 50,
        max_episode_steps: int | None = 200,
        record_trajectory: bool = True,
        record_event_logs: bool = True,
        *,
        deterministic: bool = True,
        n_lanes: int = 1,
        on_error: OnError = "record",
        on_nan: OnNaN = "fail",
        on_out_of_space: OnOutOfSpace = "stop",
        max_failures: int | float | None = None,
        wrappers: WrapperSource = None,
        output_dir: str | Path | None = None,
        show_progress: bool | None = None,
    ) -> None:
        self.n_episodes = check_count("n_episodes", n_episodes, 1)
        self.max_episode_steps = check_count("max_episode_steps", max_episode_steps or 0, 0)
        self.record_trajectory = check_flag("record_trajectory", record_trajectory)
        self.record_event_logs = check_flag("record_event_logs", record_event_logs)
        self.deterministic = check_flag("deterministic", deterministic)
        self.n_lanes = check_count("n_lanes", n_lanes, 1)
        self.on_error = check_word("on_error", on_error, get_args(OnError))
        self.on_nan = check_word("on_nan", on_nan, get_args(OnNaN))
        self.on_out_of_space = check_word(
            "on_out_of_space", on_out_of_space, get_args(OnOutOfSpace)
        )
        self.max_failures = check_limit("max_failures", max_failures)
        self.wrappers = wrappers
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.show_progress = show_progress

    @abstractmethod
    def episodes(self, job: Job, specs: Sequence[EpisodeSpec]) -> Batches:
        """Play each spec once, and yield the finished episodes in batches, in any order.

        On ``KeyboardInterrupt``, its own or one that is thrown in, it may yield more batches of
        finished episodes, and then raises it again.
        """

    def run_with(
        self,
        env: EnvSource,
        agent: PolicySource = None,
        wrappers: WrapperSource = None,
        *,
        seeding: Seeding | None = None,
        output_dir: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        command: str = "",
        resume: Resume | None = None,
    ) -> RolloutResult:
        """Play the episodes.

        Args:
            env: a Gymnasium id, a config with ``_target_``, an environment, or a function that
                makes one.
            agent: a policy, a config with ``_target_``, or a function from observation to
                action. ``None``: random actions.
            wrappers: take the place of the runner's.
            seeding: ``None``: base seeds are drawn by chance (and stored).
            output_dir: takes the place of the runner's.
            config: written to ``config.yaml``. ``None``: made from the arguments.
            command: what was typed, for the record.
            resume: go on with the run in ``output_dir``: play what is missing there. The caller
                sees to it that the episodes are to be played as those that are there were.

        Returns:
            Statistics, endings, timing and the table of episodes. Interrupted by Ctrl-C, those of
            the episodes finished by then.

        Raises:
            ConfigError: If environment, policy or an option cannot be used.
            ContractError: If environment or policy violate their interface.
            RunStoppedError: If an option asked for stopping at what happened.
        """
        started = perf_counter()
        seeding = (seeding or Seeding()).resolved()
        plan = seeding.plan(self.n_episodes)
        wrappers = self.wrappers if wrappers is None else wrappers
        directory = self._directory(output_dir)
        if config is None:
            config = self._describe(env, agent, wrappers, seeding)
        job = self._job(env, agent, wrappers, config, directory)
        statistics = RunStatistics()
        ledger = LedgerSink(
            directory,
            config,
            n_episodes=len(plan),
            versions=versions(),
            command=command,
            resumes=None if resume is None else partial(_check_goes_on, plan),
            retry=None if resume is None else resume.retries,
        )
        sinks = Sinks([*self._sinks(directory), ledger], directory)
        interrupted, stopping = False, None
        warnings: list[str] = [plan.warning] if plan.warning else []
        with contextlib.ExitStack() as stack:
            stack.callback(ledger.release)
            sinks.open()
            if ledger.recovered is None:
                left = plan
            else:
                left = _left_to_play(plan, ledger.recovered, statistics, warnings)
            batches = self.episodes(job, left) if len(left) else _no_batches()
            try:
                with Progress(len(plan), self.show_progress) as progress:
                    interrupts: list[int] = []
                    while stopping is None:
                        # What comes while a batch is written is told to the runner afterwards.
                        batch = batches.throw(KeyboardInterrupt()) if interrupts else next(batches)
                        with held_interrupts() as interrupts:
                            sinks.write(batch)
                            statistics.add(batch)
                            warnings.extend(text for text in batch.warnings if text not in warnings)
                            progress.update(
                                statistics.n_episodes, statistics.n_steps, statistics.mean_return
                            )
                            stopping = self._reason_to_stop(batch, statistics, len(plan))
            except StopIteration:
                pass
            except KeyboardInterrupt:
                interrupted = True
            finally:
                batches.close()
                # Who interrupts for the second time does not want to wait for this either: the
                # journal has everything, and what is made of it can be made later.
                with contextlib.nullcontext() if interrupted else held_interrupts():
                    sinks.close()
            env_name, policy_name = names_of(config)
            result = RolloutResult(
                statistics=statistics.summaries(),
                endings=statistics.endings,
                n_truncated_by_runner=statistics.n_truncated_by_runner,
                n_nan=statistics.n_nan,
                n_requested=len(plan),
                n_done=statistics.n_episodes,
                n_steps=statistics.n_steps,
                wall_seconds=perf_counter() - started,
                time_split=statistics.time_split(),
                n_processes=min(self.n_processes, len(plan)),
                env_base_seed=None if seeding.explicit_env_seeds else seeding.env_base_seed,
                agent_base_seed=None if seeding.explicit_agent_seeds else seeding.agent_base_seed,
                episodes=ledger.episode_table(),
                output_directory=directory,
                failures=statistics.failures,
                warnings=tuple(warnings),
                interrupted=interrupted,
                stopped_because="" if stopping is None else stopping.because,
                env_name=env_name,
                policy_name=policy_name,
                n_steps_before=statistics.n_steps_before,
                **commands_for(directory, config),
            )
            with contextlib.nullcontext() if interrupted else held_interrupts():
                ledger.finish(result.to_json_dict())
        if stopping is not None:
            raise stopping.error(result)
        return result

    def _sinks(self, directory: Path | None) -> list[Sink]:
        """Return sinks of the runner's own, besides the ledger."""
        return []

    def _directory(self, output_dir: str | Path | None) -> Path | None:
        if output_dir is not None:
            return Path(output_dir)
        if self.output_dir is not None:
            return self.output_dir
        if self.record_trajectory or self.record_event_logs:
            return default_output_directory()
        return None

    def _job(
        self,
        env: EnvSource,
        agent: PolicySource,
        wrappers: WrapperSource,
        config: Mapping[str, Any],
        directory: Path | None,
    ) -> Job:
        recorded = directory is not None
        return Job(
            env=EnvRecipe(env, wrappers),
            policy=agent,
            play=PlayOptions(self.max_episode_steps),
            checks=CheckOptions(self.on_nan, self.on_out_of_space),  # type: ignore[arg-type]
            encoder=EncoderOptions(
                keep_trajectories=self.record_trajectory and recorded,
                keep_events=self.record_event_logs and recorded,
            ),
            deterministic=self.deterministic,
            n_lanes=min(self.n_lanes, self.n_episodes),
            directory=directory,
            metadata={"config": config, "versions": versions()},
        )

    def _describe(
        self, env: EnvSource, agent: PolicySource, wrappers: WrapperSource, seeding: Seeding
    ) -> dict[str, Any]:
        """Describe a run that was set up in Python in the form of a config."""
        options = {
            name: value
            for name, value in vars(self).items()
            if name not in ("wrappers", "output_dir", "show_progress")
        }
        kind = type(self)
        return {
            "runner": {"_target_": f"{kind.__module__}.{kind.__qualname__}", **options},
            "env": as_plain(env),
            "policy": as_plain("random" if agent is None else agent),
            "wrappers": as_plain(wrappers or {}),
            "seeding": {
                name: None if value is None else as_plain(value)
                for name, value in vars(seeding).items()
            },
        }

    def _reason_to_stop(
        self, batch: EpisodeBatch, statistics: RunStatistics, n_requested: int
    ) -> _Stopping | None:
        for row in batch.rows:
            if row.failure is not None and (
                row.failure.is_contract_violation or self.on_error == "stop"
            ):
                return _Stopping(row, row.error)
        n_failed, limit = statistics.endings["failed"], self.max_failures
        if limit is None or not batch.rows:
            return None
        if isinstance(limit, float):
            limit = math.floor(limit * n_requested)
        if n_failed <= limit:
            return None
        return _Stopping(
            None,
            f"{n_failed:,} episodes failed, more than runner.max_failures={self.max_failures}"
            " allows",
        )


@dataclass(frozen=True)
class Resume:
    """How a recorded run goes on."""

    retry_failed: bool = False
    """Whether failed episodes are played again; what was recorded of them is moved aside."""

    def retries(self, ending: str) -> bool:
        """Return whether an episode that ended so is played again."""
        return self.retry_failed and ending == "failed"


@dataclass(frozen=True)
class _Stopping:
    """Why a run ends before its end."""

    row: EpisodeRow | None
    """The episode that it is about, if it is one."""
    because: str

    def error(self, result: RolloutResult) -> Exception:
        """Return the error that tells it."""
        if self.row is None:
            return RunStoppedError(self.because, result)
        return _stopped(self.row, result)


def commands_for(directory: Path | None, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what to type for replaying an episode and for going on, if that is possible."""
    if directory is None or not can_be_rebuilt(config):
        return {}
    path = shlex.quote(_near(directory))
    trust = " --trust" if what_would_be_imported(config) else ""
    return {
        "replay_command": f"maze replay {path} --episode {{episode_index}} --pdb{trust}",
        "resume_command": f"maze resume {path}{trust}",
    }


def _near(directory: Path) -> str:
    """Return a path as it can be typed from here."""
    try:
        return str(directory.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(directory)


def _no_batches() -> Batches:
    yield from ()


def _check_goes_on(plan: EpisodePlan, journal: Journal) -> None:
    """Refuse a plan of which the episodes in a journal are not a part."""
    columns = {name: array("q") for name in ("episode_index", "env_seed", "agent_seed")}
    for batch in journal.batches:
        for name, column in columns.items():
            column.extend(batch[name])
    recorded, env_seeds, agent_seeds = (np.array(column) for column in columns.values())
    if len(recorded) and recorded.max() >= len(plan):
        raise ConfigError(
            f"{len(plan)} episodes are asked for, but episode {recorded.max()} is recorded already:"
            f" 'runner.n_episodes' has to be at least {recorded.max() + 1}"
        )
    other = plan.differs_from(recorded, env_seeds, agent_seeds)
    if other is not None:
        raise ConfigError(
            f"episode {other} was recorded with other seeds than those that 'seeding' gives now."
            " Resume with the seeds of the recorded run"
        )


def _left_to_play(
    plan: EpisodePlan, recovered: Recovered, statistics: RunStatistics, warnings: list[str]
) -> EpisodePlan:
    """Take in what was recorded before, and return what is left to play."""
    for batch in recovered.journal.batches:
        statistics.add_columns(batch)
    warnings.extend(dict.fromkeys(recovered.journal.warnings))
    if recovered.forgotten:
        of_damage = [str(one) for one in recovered.damage if not one.is_unfinished]
        warnings.extend(f"damaged, and played again: {text}" for text in of_damage[:5])
    recorded = recovered.journal.episode_indices()
    before, now = recovered.journal.versions, versions()
    changed = [f"{name} {before[name]} -> {now[name]}" for name in now if name in before]
    changed = [text for text in changed if len({*text.split(" ", 1)[1].split(" -> ")}) > 1]
    if changed and len(recorded) < len(plan):
        warnings.append(
            f"the run was begun with other versions ({', '.join(changed)}): its episodes may not"
            " be those of an undisturbed run"
        )
    return plan.without(recorded)


def _stopped(row: EpisodeRow, result: RolloutResult) -> Exception:
    """Return the error that tells why a run was stopped."""
    failure = row.failure
    assert failure is not None
    steps = "1 step" if failure.step == 1 else f"{failure.step} steps"
    where = f"after {steps}" if failure.place in ("step", "policy") else f"in {failure.place}"
    whose = "policy" if failure.place == "policy" else "environment"
    place = (
        f"in episode {row.episode_index} (env_seed={row.env_seed}, agent_seed={row.agent_seed})"
        f" {where}"
    )
    if failure.is_contract_violation:
        return ContractError(f"{whose}, {place}: {failure.message}")
    text = failure.traceback.strip() or f"{failure.exception_type}: {failure.message}"
    return RunStoppedError(f"stopped by an error of the {whose} {place}:\n{text}", result)


def check_count(name: str, value: Any, minimum: int) -> int:
    """Check that an option is a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            f"'runner.{name}' is {value!r} ({type(value).__name__}), expected a whole number"
        )
    if value < minimum:
        raise ConfigError(f"'runner.{name}' is {value}, expected at least {minimum}")
    return value


def check_limit(name: str, value: Any) -> int | float | None:
    """Check that an option is a count from 0, a fraction between 0 and 1, or nothing."""
    if value is None:
        return None
    if isinstance(value, float):
        if 0 <= value < 1:
            return value
        raise ConfigError(
            f"'runner.{name}' is {value}, expected a whole number, or a fraction from 0 to below 1"
        )
    return check_count(name, value, 0)


def check_flag(name: str, value: Any) -> bool:
    """Check that an option is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(
            f"'runner.{name}' is {value!r} ({type(value).__name__}), expected true or false"
        )
    return value


def check_word(name: str, value: Any, words: Sequence[str]) -> str:
    """Check that an option is one of some words."""
    if value not in words:
        raise ConfigError(f"'runner.{name}' is {value!r}, expected one of: {', '.join(words)}")
    return str(value)


def versions() -> dict[str, str]:
    """Return the versions that a recording may depend on."""
    import gymnasium
    import numpy

    return {
        "maze": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "gymnasium": gymnasium.__version__,
        "numpy": numpy.__version__,
    }


def as_plain(value: Any) -> Any:
    """Turn what a run was set up with into values that YAML and JSON can hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {_plain_key(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, gym.Env) and value.spec is not None:
        return _plain_gym_env(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return _plain_key(value)
    if " at 0x" in repr(value):  # An address says nothing.
        return _plain_key(type(value))
    return " ".join(repr(value).split())


def _plain_gym_env(env: gym.Env[Any, Any]) -> Any:
    """Describe an environment that was made from an id so that it can be made again."""
    spec = env.spec
    assert spec is not None
    if spec.additional_wrappers:
        return f"<{env}>"  # What the wrappers were given is not known.
    arguments = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    registered = gym.registry.get(spec.id)
    if registered is not None and registered.max_episode_steps != spec.max_episode_steps:
        arguments["max_episode_steps"] = spec.max_episode_steps
    if not arguments:
        return spec.id
    target = "maze.core.wrappers.maze_gym_env_wrapper.make_gym_maze_env"
    return {"_target_": target, "name": spec.id, "kwargs": as_plain(arguments)}


def _plain_key(key: Any) -> str:
    if isinstance(key, str):
        return key
    module, name = getattr(key, "__module__", None), getattr(key, "__qualname__", None)
    return f"{module}.{name}" if module and name else " ".join(repr(key).split())


def names_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Name environment and policy in a word each."""
    env, policy = config.get("env"), config.get("policy")
    if isinstance(env, Mapping):
        env = env.get("name") or _last_part(str(env.get("_target_", "")))
    elif "<" in str(env) or str(env).startswith("__main__."):
        env = _last_part(str(env))
    if isinstance(policy, Mapping):
        policy = policy.get("_target_", "")
    return str(env), _last_part(str(policy))


def _last_part(path: str) -> str:
    """Return the name at the end of a dotted path."""
    return path.removesuffix(".<lambda>").rsplit(".", 1)[-1] if "<" not in path else "function"
