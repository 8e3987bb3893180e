"""The functions of everyday use: play episodes, and open, complete, check and replay them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maze.core.rollout.job import EnvSource, PolicySource, WrapperSource
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.replay import Replay, replay_episode
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.resume import resume_run
from maze.core.rollout.rollout_runner import RolloutRunner
from maze.core.rollout.run_directory import RunDirectory
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.rollout.verify import HowMany, Verification, verify_run
from maze.core.seeding import Seeding


def rollout(
    env: EnvSource,
    policy: PolicySource = None,
    *,
    n_episodes: int = 50,
    n_processes: int = 1,
    n_lanes: int = 1,
    max_episode_steps: int | None = None,
    deterministic: bool = True,
    wrappers: WrapperSource = None,
    seed: int | Seeding | None = None,
    output_dir: str | Path | None = None,
    show_progress: bool | None = None,
) -> RolloutResult:
    """Play a policy in an environment.

        maze.rollout("CartPole-v1", lambda observation: int(observation[2] > 0), n_episodes=100)

    Args:
        env: a Gymnasium id, an environment, a function that makes one, or a config.
        policy: a function from observation to action, a policy, or a config. ``None``: random.
        n_episodes: to play.
        n_processes: 1 plays in this process, more in as many workers.
        n_lanes: episodes that a process plays side by side, for policies that like batches.
        max_episode_steps: cut episodes off after so many steps. ``None``: only the environment's
            own limit counts.
        deterministic: whether the policy takes its most likely action instead of sampling one.
        wrappers: dotted path or class to arguments, the first being the innermost.
        seed: base seed of environment and policy. ``None``: drawn by chance, and told. For
            different ones, or for lists of seeds, give a ``Seeding``.
        output_dir: where to record trajectories and event logs. ``None``: nothing is recorded.
        show_progress: whether to draw a progress bar. ``None``: if stderr is a terminal.

    Returns:
        Statistics, endings and the table of episodes; prints and displays itself.

    Raises:
        ConfigError: If something of this cannot be used.
        ContractError: If environment or policy violate their interface.
    """
    options: dict[str, Any] = {
        "n_episodes": n_episodes,
        "max_episode_steps": max_episode_steps,
        "record_trajectory": output_dir is not None,
        "record_event_logs": output_dir is not None,
        "deterministic": deterministic,
        "n_lanes": n_lanes,
        "show_progress": show_progress,
    }
    runner: RolloutRunner
    if n_processes == 1:
        runner = SequentialRolloutRunner(**options)
    else:
        runner = ParallelRolloutRunner(n_processes, **options)
    if seed is None:
        seed = Seeding().resolved().env_base_seed
    seeding = seed if isinstance(seed, Seeding) else Seeding(seed, seed)
    return runner.run_with(env, policy, wrappers, seeding=seeding, output_dir=output_dir)


def load(directory: str | Path) -> RunDirectory:
    """Open the output directory of a run.

        run = maze.load("outputs/2026-01-31/12-00-00")
        run.episodes                            # a data frame
        run.trajectory(3).observations          # a numpy array

    Raises:
        OutputError: If the directory holds no run.
    """
    return RunDirectory(directory)


def resume(
    directory: str | Path,
    *,
    n_episodes: int | None = None,
    n_processes: int | None = None,
    retry_failed: bool = False,
    env: EnvSource | None = None,
    policy: PolicySource = None,
    wrappers: WrapperSource = None,
    trust: bool = False,
) -> RolloutResult:
    """Play the episodes that are missing in an output directory, or more of them.

        maze.resume("run", n_episodes=1000)

    What is recorded is kept; the outcome is that of an undisturbed run.

    Args:
        directory: of the run.
        n_episodes: to have in the end. ``None``: as many as were asked for.
        n_processes: to play in. ``None``: as many as before.
        retry_failed: whether failed episodes are played again.
        env: to be given if it was a Python object, of which the config holds only the name; it
            has to be the same. Likewise ``policy`` and ``wrappers``.
        policy: see ``env``.
        wrappers: see ``env``.
        trust: whether to import what the config of the run names, besides Maze and Gymnasium.

    Returns:
        The result over all episodes of the directory.

    Raises:
        ConfigError: If the run cannot be set up again.
        OutputError: If the directory holds no run, or another process writes to it.
    """
    options = {"runner.n_episodes": n_episodes, "runner.n_processes": n_processes}
    return resume_run(
        directory,
        {name: value for name, value in options.items() if value is not None},
        retry_failed=retry_failed,
        env=env,
        policy=policy,
        wrappers=wrappers,
        trust=trust,
    )


def verify(
    directory: str | Path,
    replay: HowMany = None,
    *,
    env: EnvSource | None = None,
    policy: PolicySource = None,
    wrappers: WrapperSource = None,
    n_processes: int | None = None,
    trust: bool = False,
) -> Verification:
    """Check whether an output directory holds what was played.

        print(maze.verify("run", replay="all"))

    Args:
        directory: of the run.
        replay: how many episodes to play again from config and seeds: ``"all"``, a fraction (a
            float up to 1) or a number. ``None``: only files and digests are compared.
        env: see ``resume``.
        policy: see ``resume``.
        wrappers: see ``resume``.
        n_processes: to play in. ``None``: as many as the run had.
        trust: see ``resume``.

    Returns:
        What was found; ``is_good`` says whether all is well.
    """
    return verify_run(
        directory,
        replay,
        env=env,
        policy=policy,
        wrappers=wrappers,
        n_processes=n_processes,
        trust=trust,
    )


def replay(
    directory: str | Path,
    episode_index: int,
    *,
    env: EnvSource | None = None,
    policy: PolicySource = None,
    wrappers: WrapperSource = None,
    trust: bool = False,
) -> Replay:
    """Play a recorded episode again from its seeds and recorded actions.

        maze.replay("run", 12).is_equal

    Args:
        directory: of the run.
        episode_index: of the episode.
        env: see ``resume``.
        policy: see ``resume``; asked only if no actions were recorded.
        wrappers: see ``resume``.
        trust: see ``resume``.

    Returns:
        The episode, and whether its digest proves that it is the recorded one.
    """
    run = RunDirectory(directory)
    return replay_episode(
        run, episode_index, env=env, policy=policy, wrappers=wrappers, trust=trust
    )
