"""Whether an output directory holds what was played, and whether it would be played so again.

Three questions, each more expensive than the one before it: do all files fit their checksums; does
every trajectory fit the digest in its row; and do episodes come out the same when they are played
again from config and seeds? Only the last one runs code that the directory names.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from maze.core.episode import EpisodeRow
from maze.core.errors import ConfigError, OutputError
from maze.core.ledger.check import Damage, find_damage
from maze.core.ledger.journal import (
    EPISODES_FILE,
    JOURNAL_FILE,
    STATISTICS_FILE,
    TRAJECTORY_FOLDER,
)
from maze.core.ledger.lock import is_locked
from maze.core.rollout.difference import Difference
from maze.core.rollout.job import EnvSource, PolicySource, WrapperSource
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.progress import Progress
from maze.core.rollout.replay import is_dangerous, replay_episode
from maze.core.rollout.rollout_runner import versions
from maze.core.rollout.run_directory import RunDirectory
from maze.core.rollout.setup import RunSetup
from maze.core.rollout.trust import GROUPS, check_trust
from maze.core.seeding import EpisodePlan
from maze.core.sinks.ledger_sink import CONFIG_FILE, file_checksum
from maze.core.trajectory.digest import recorded_digest_in

HowMany: TypeAlias = "Literal['all'] | float | int | None"
"""Of the episodes: all of them, a fraction (a float up to 1), a number, or none."""

_N_EXAMINED = 5
"""So many episodes that came out otherwise are looked at closely."""


@dataclass(frozen=True)
class Deviation:
    """An episode that came out otherwise when it was played again."""

    row: EpisodeRow
    """As it was recorded."""
    is_deterministic: bool | None
    """Whether it comes out the same each time that it is played now. ``None``: not looked at."""
    difference: Difference | None
    """The first one between the recording and what was played now; ``None``: not looked at."""

    def __str__(self) -> str:
        row = self.row
        text = f"episode {row.episode_index} (env_seed={row.env_seed}, agent_seed={row.agent_seed})"
        if self.difference is not None:
            text += f": {self.difference}"
        return text


@dataclass(frozen=True)
class Verification:
    """What was found out about an output directory."""

    path: Path
    n_requested: int
    n_episodes: int
    """Recorded."""
    n_trajectories: int
    """Recorded ones that fit the digest in the episode table."""
    n_lost: int
    """Those that do not, or cannot be read."""
    damage: tuple[Damage, ...]
    """What is not as it was written."""
    unfinished: tuple[Damage, ...]
    """What a killed process had begun to write. It does no harm: it never counted."""
    n_replayed: int
    n_not_replayable: int
    """Of those chosen, how many ended their process or hung, and were not played again."""
    deviations: tuple[Deviation, ...]
    changed_versions: tuple[str, ...]
    """Libraries that have another version than when the run was recorded."""
    goes_on: bool = False
    """Whether the run was still being written to."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is damaged, and everything that was played again came out the same."""
        return not self.damage and not self.deviations

    @property
    def is_deterministic(self) -> bool | None:
        """Whether episodes come out the same each time; ``None`` if there is nothing to tell by."""
        known = [
            one.is_deterministic for one in self.deviations if one.is_deterministic is not None
        ]
        if False in known:
            return False
        return True if known or self.n_replayed else None

    def lines(self) -> Iterator[str]:
        """Yield the report, line by line."""
        missing = self.n_requested - self.n_episodes
        left = ""
        if missing > 0:
            hint = "the run goes on" if self.goes_on else f"maze resume {self.path} plays them"
            left = f", {missing:,} missing ({hint})"
        yield f"episodes      {self.n_episodes:,} of {self.n_requested:,} recorded{left}"
        if self.damage:
            yield f"damage        {len(self.damage):,} found:"
            yield from (f"  {one}" for one in self.damage)
        else:
            yield "files         all as they were written"
        for one in self.unfinished:
            yield f"unfinished    {one}; it never counted"
        if self.n_trajectories or self.n_lost:
            others = f", {self.n_lost:,} do not" if self.n_lost else ""
            yield f"trajectories  {self.n_trajectories:,} fit their digests{others}"
        if self.n_replayed or self.n_not_replayable:
            n_equal = self.n_replayed - len(self.deviations)
            yield (
                f"replay        {n_equal:,} of {self.n_replayed:,} episodes came out the same"
                + (
                    f"; {self.n_not_replayable:,} that ended their process or hung were left out"
                    if self.n_not_replayable
                    else ""
                )
            )
            yield from (f"  {one}" for one in self.deviations[:_N_EXAMINED])
            if len(self.deviations) > _N_EXAMINED:
                yield f"  and {len(self.deviations) - _N_EXAMINED:,} more"
            if self.deviations:
                yield f"  {self._verdict()}"

    def _verdict(self) -> str:
        whose = Counter(one.difference.whose for one in self.deviations if one.difference)
        who = whose.most_common(1)[0][0] if whose else ""
        subject = {"environment": "the environment", "policy": "the policy"}.get(who, "something")
        if self.is_deterministic is False:
            return (
                f"{subject} is not deterministic: played twice now from the same seeds, it gave two"
                " different episodes. The files are not to blame"
            )
        changed = f" ({', '.join(self.changed_versions)})" if self.changed_versions else ""
        return (
            f"{subject} has changed since the run was recorded{changed}: played twice now, it gave"
            " the same episode, but not the recorded one"
        )

    def __str__(self) -> str:
        return "\n".join(self.lines())


def verify_run(
    directory: str | Path,
    replay: HowMany = None,
    *,
    env: EnvSource | None = None,
    policy: PolicySource = None,
    wrappers: WrapperSource = None,
    n_processes: int | None = None,
    trust: bool = False,
    show_progress: bool | None = None,
) -> Verification:
    """Check an output directory.

    Args:
        directory: of the run.
        replay: how many of the episodes to play again, chosen by chance.
        env: takes the place of the config's, for a run whose environment was a Python object.
        policy: likewise.
        wrappers: likewise.
        n_processes: to play in. ``None``: as many as the run had.
        trust: whether to import what the config names, if that is not known to be harmless.
        show_progress: whether to draw a progress bar. ``None``: if stderr is a terminal.

    Raises:
        OutputError: If the directory holds no run.
        ConfigError: If episodes are to be played again, and cannot be.
    """
    goes_on = is_locked(Path(directory))
    run = RunDirectory(directory)
    damage = list(_damaged_files(run))
    table = run.table
    if run.journal is not None:
        unlisted = set(table.episode_indices.tolist()) - set(run.journal.episode_indices().tolist())
        if unlisted:
            what = f"the lines are missing that {EPISODES_FILE} was made from"
            damage.append(Damage(JOURNAL_FILE, what, tuple(sorted(unlisted))))
    known = {index for one in damage if _is_of_steps(one) for index in one.episode_indices}
    n_trajectories = n_lost = 0
    with Progress(len(table), show_progress) as progress:
        for n_checked, row in enumerate(table):
            reason = _wrong_trajectory(run, row)
            n_lost += bool(reason)
            n_trajectories += bool(run.streams and not reason)
            if reason and row.episode_index not in known:
                damage.append(Damage(TRAJECTORY_FOLDER, reason, (row.episode_index,)))
            progress.update(n_checked, 0, float("nan"))
    chosen = _chosen(table.episode_indices.tolist(), replay)
    deviations: list[Deviation] = []
    replayable: list[int] = []
    if chosen:
        given = {"env": env, "policy": policy, "wrappers": wrappers}
        check_trust(run.config, trust, [group for group in GROUPS if given.get(group) is None])
        replayable = [index for index in chosen if not is_dangerous(table.row(index))]
        deviations = _played_again(run, replayable, given, n_processes, trust, show_progress)
    before = {} if run.journal is None else run.journal.versions
    now = versions()
    n_requested = None if run.journal is None else run.journal.n_requested
    return Verification(
        path=run.path,
        goes_on=goes_on,
        n_requested=len(table) if n_requested is None else n_requested,
        n_episodes=len(table),
        n_trajectories=n_trajectories,
        n_lost=n_lost,
        damage=tuple(one for one in damage if not one.is_unfinished),
        unfinished=tuple(one for one in damage if one.is_unfinished),
        n_replayed=len(replayable),
        n_not_replayable=len(chosen) - len(replayable),
        deviations=tuple(deviations),
        changed_versions=tuple(
            f"{name} {before[name]} -> {version}"
            for name, version in now.items()
            if name in before and before[name] != version
        ),
    )


def _is_of_steps(damage: Damage) -> bool:
    return damage.file.startswith(TRAJECTORY_FOLDER)


def _damaged_files(run: RunDirectory) -> Iterator[Damage]:
    journal = run.journal
    if journal is None:
        yield Damage(JOURNAL_FILE, "the file is missing, so that nobody vouches for the others")
        return
    yield from find_damage(run.path, journal)
    if journal.finished is None:
        return
    checksums = journal.finished.get("checksums")
    for name in (CONFIG_FILE, EPISODES_FILE, STATISTICS_FILE):
        try:
            found = file_checksum(run.path / name)
        except FileNotFoundError:
            yield Damage(name, "the file is missing")
            continue
        except OSError as error:
            yield Damage(name, f"the file cannot be read: {error.strerror or error}")
            continue
        if isinstance(checksums, Mapping) and found != checksums.get(name):
            yield Damage(name, "the file does not fit its checksum")


def _wrong_trajectory(run: RunDirectory, row: EpisodeRow) -> str:
    """Return what is wrong with what was recorded of an episode; empty if nothing is."""
    try:
        digest = recorded_digest_in(run.streams, row.episode_index)
    except OutputError as error:
        return str(error)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        return f"it cannot be understood ({error})"
    if digest == row.digest:
        return ""
    if all(stream.rows(row.episode_index) is None for stream in run.streams):
        # It was not recorded, or ended its process before anything could be.
        is_missing = run.streams and row.n_steps
        return "there are no rows of an episode that had steps" if is_missing else ""
    return f"the digest is {digest}, and the table says {row.digest}"


def _chosen(indices: Sequence[int], how_many: HowMany) -> list[int]:
    if how_many is None:
        return []
    if how_many == "all":
        return list(indices)
    if isinstance(how_many, str) or how_many <= 0:
        raise ConfigError(f"replay is {how_many!r}, expected 'all', a fraction or a number")
    n = max(1, round(how_many * len(indices))) if isinstance(how_many, float) else how_many
    # A generator of its own: the global ones are for environments and policies to use.
    return sorted(random.Random().sample(list(indices), min(n, len(indices))))


def _played_again(
    run: RunDirectory,
    indices: Sequence[int],
    given: Mapping[str, Any],
    n_processes: int | None,
    trust: bool,
    show_progress: bool | None,
) -> list[Deviation]:
    """Play episodes again in worker processes, and look at those that came out otherwise."""
    if not indices:
        return []
    setup = replace(
        RunSetup.from_config(run.config),
        **{name: value for name, value in given.items() if value is not None},
    )
    job = setup.job()
    n = n_processes or setup.build_runner().n_processes
    runner = ParallelRolloutRunner(n, n_episodes=len(indices))
    chosen = np.array(indices, dtype=np.int64)
    if "dataset" in run.config:  # Its episodes come from elsewhere, with seeds of their own.
        rows = [run.table.row(index) for index in indices]
        seeds = np.array([(row.env_seed, row.agent_seed) for row in rows], dtype=np.int64)
        plan = EpisodePlan(seeds[:, 0], seeds[:, 1], None, chosen)
    else:
        plan = setup.plan(max(indices) + 1).only(chosen)
    differ: list[EpisodeRow] = []
    again: dict[int, str] = {}
    with Progress(len(indices), show_progress) as progress:
        n_done = n_steps = 0
        for batch in runner.episodes(job, plan):
            for played in batch.rows:
                row = run.table.row(played.episode_index)
                if _key(played) != _key(row):
                    differ.append(row)
                    again[row.episode_index] = played.digest
                n_done, n_steps = n_done + 1, n_steps + played.n_steps
            progress.update(n_done, n_steps, float("nan"))
    differ.sort(key=lambda row: row.episode_index)
    return [
        _examined(run, row, again[row.episode_index], given, trust)
        if position < _N_EXAMINED
        else Deviation(row, None, None)
        for position, row in enumerate(differ)
    ]


def _examined(
    run: RunDirectory, row: EpisodeRow, other_digest: str, given: Mapping[str, Any], trust: bool
) -> Deviation:
    replays = [
        replay_episode(run, row.episode_index, acted_by="policy", trust=trust, **given)
        for _ in range(2)
    ]
    digests = {other_digest, *(replay.episode.digest for replay in replays)}
    difference = next((one.first_difference for one in replays if one.first_difference), None)
    return Deviation(row, len(digests) == 1, difference)


def _key(row: EpisodeRow) -> tuple[Any, ...]:
    """Return what has to be the same; what exceptions say may name addresses or processes."""
    failure = row.failure
    failed = None if failure is None else (failure.place, failure.step, failure.exception_type)
    return row.digest, row.ending, row.truncated_by, row.n_steps, failed
