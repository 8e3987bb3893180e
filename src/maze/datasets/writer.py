"""Writes episodes that were not played here as a recording: an output directory like any other.

Whatever they are made of (other recordings, another library's format), they go through the encoder
and the ledger of a rollout, so that the directory can be verified, looked at and learnt from in
the same way. Beside it, a ``README.md`` (the dataset card) and ``provenance.parquet`` say where
each episode comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from maze.core.episode import Episode, EpisodeBatch, EpisodePart, EpisodeSpec, EventText
from maze.core.errors import OutputError
from maze.core.rollout.checks import EpisodeChecks
from maze.core.rollout.encoding import BatchEncoder, HasSpaces
from maze.core.rollout.job import Job
from maze.core.rollout.player import BATCH_BYTES, BATCH_STEPS
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.rollout_runner import Batches, RolloutRunner
from maze.core.seeding import Seeding
from maze.core.trajectory.columns import part_steps
from maze.datasets.card import CARD_FILE, PROVENANCE_FILE, card_of, write_provenance


@dataclass(frozen=True)
class Written:
    """An episode to write, or a part of one that precedes it."""

    played: Episode | EpisodePart
    events: Mapping[str, EventText] = field(default_factory=dict)
    """By name of the event type, each with one text: the lines of its log, without ``Reward``."""
    attempts: int = 1


@dataclass(frozen=True)
class Origin:
    """Where an episode comes from."""

    source: int
    """Position among the sources that the config lists."""
    episode: str
    """Its index or id there."""


class _Writer(RolloutRunner):
    """A runner that has the episodes already."""

    def __init__(
        self,
        spaces: HasSpaces,
        written: Callable[[Sequence[EpisodeSpec]], Iterable[Written]],
        n_episodes: int,
        *,
        keep_events: bool,
        checks: bool,
    ) -> None:
        super().__init__(n_episodes, 0, True, keep_events, on_nan="count")
        self._spaces, self._written, self._is_checked = spaces, written, checks

    def episodes(self, job: Job, specs: Sequence[EpisodeSpec]) -> Batches:
        """Encode what is there."""
        spaces = self._spaces
        encoder = BatchEncoder(
            spaces,
            job.encoder,
            part_steps(spaces.observation_spaces, spaces.action_spaces),
            job.metadata,
        )
        checks = EpisodeChecks(spaces.observation_spaces, spaces.action_spaces, job.checks)
        waiting: list[Written] = []
        n_steps = n_bytes = 0
        for one in self._written(specs):
            if isinstance(one.played, EpisodePart):
                if waiting:
                    yield _encoded(encoder, waiting)
                    waiting, n_steps, n_bytes = [], 0, 0
                batch = encoder.encode_part(one.played)
                yield replace(batch, events={**batch.events, **one.events})
                continue
            if self._is_checked:
                (episode,) = checks.check([one.played])
                one = replace(one, played=episode)
            assert isinstance(one.played, Episode)
            waiting.append(one)
            n_steps += len(one.played.rewards)
            n_bytes += one.played.n_bytes()
            if n_steps >= BATCH_STEPS or n_bytes >= BATCH_BYTES:
                yield _encoded(encoder, waiting)
                waiting, n_steps, n_bytes = [], 0, 0
        if waiting:
            yield _encoded(encoder, waiting)


def _encoded(encoder: BatchEncoder, written: Sequence[Written]) -> EpisodeBatch:
    for one in written:
        assert isinstance(one.played, Episode)
        encoder.add(one.played, one.attempts)
    batch = encoder.flush()
    columns: dict[str, tuple[str, ...]] = {}
    for one in written:
        for name, text in one.events.items():
            columns.setdefault(name, text.columns)
    events = {
        name: EventText(
            names,
            tuple(one.events[name].texts[0] if name in one.events else b"" for one in written),
        )
        for name, names in columns.items()
    }
    return replace(batch, events={**batch.events, **events})


def write_recording(
    directory: str | Path,
    spaces: HasSpaces,
    config: Mapping[str, Any],
    seeds: Sequence[tuple[int, int]],
    written: Callable[[Sequence[EpisodeSpec]], Iterable[Written]],
    *,
    origins: Sequence[Origin] = (),
    keep_events: bool = True,
    checks: bool = False,
    command: str = "",
    show_progress: bool | None = False,
) -> RolloutResult:
    """Write episodes into a new output directory.

    Args:
        directory: which holds no recording yet.
        spaces: of all episodes.
        config: for ``config.yaml``; ``dataset`` says where the episodes come from.
        seeds: environment's and policy's, of each episode.
        written: makes the episodes of specs with these seeds, in their order.
        origins: of each episode.
        keep_events: whether events are logged.
        checks: whether values are compared with the bounds of their spaces.
        command: what was typed.
        show_progress: whether to draw a progress bar.

    Returns:
        As a rollout does.

    Raises:
        OutputError: If there are no episodes, or the directory cannot be written.
    """
    directory = Path(directory)
    if not len(seeds):
        raise OutputError("there are no episodes to write")
    env_seeds, agent_seeds = zip(*seeds, strict=True)
    writer = _Writer(spaces, written, len(seeds), keep_events=keep_events, checks=checks)
    writer.show_progress = show_progress
    result = writer.run_with(
        "",
        seeding=Seeding(0, 0, env_seeds, agent_seeds),
        output_dir=directory,
        config=config,
        command=command,
    )
    if origins:
        write_provenance(
            directory / PROVENANCE_FILE,
            np.array([origin.source for origin in origins], np.int32),
            [origin.episode for origin in origins],
        )
    (directory / CARD_FILE).write_text(card_of(directory), encoding="utf-8")
    return result
