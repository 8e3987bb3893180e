"""Makes recordings of recordings: merges them, splits them, keeps a part of one.

Each result is an output directory of its own. Episodes come out as they were recorded, bit for bit
(their digests are compared), with new indices and their old seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from maze.core.episode import EpisodeRow, EpisodeSpec, EventText
from maze.core.errors import ConfigError
from maze.core.events.event import Reward
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.run_directory import RunDirectory
from maze.datasets.recorded import RecordedSpaces, recorded_episode
from maze.datasets.recordings import Directories, Recordings
from maze.datasets.selection import SelectionSource, make_selection
from maze.datasets.writer import Origin, Written, write_recording

_RUNNER = "maze.core.rollout.sequential_rollout_runner.SequentialRolloutRunner"
"""What plays an episode of such a recording again."""

_CARRIED = ("env", "wrappers", "policy", "model")
"""Groups of a config that stay true where all sources agree on them."""

EVERYTHING: Mapping[str, Any] = {"endings": ["terminated", "truncated", "failed"]}
"""A selection of all episodes."""


def merge(
    directories: Directories,
    output_dir: str | Path,
    selection: SelectionSource = None,
    *,
    command: str = "",
) -> RolloutResult:
    """Write the episodes of several recordings, or some of one, as a recording.

        merge(["run_1", "run_2"], "both")
        merge("run_1", "good", {"min_return": 200})

    Args:
        directories: of recordings with equal spaces.
        output_dir: which holds no recording yet.
        selection: which episodes; see ``Selection``. ``None``: all, failed ones too.
        command: what was typed.

    Raises:
        ConfigError: If the spaces differ.
        OutputError: If data is damaged, or nothing is left.
    """
    recordings = Recordings(directories, EVERYTHING if selection is None else selection)
    several = len(recordings.runs) > 1
    operation = "merge" if several else "copy" if selection is None else "filter"
    chosen = _every_episode(recordings)
    return _write(recordings, chosen, output_dir, operation, {}, command)


def split(
    directories: Directories,
    output_dirs: Sequence[str | Path],
    shares: Sequence[float],
    *,
    seed: int = 0,
    selection: SelectionSource = None,
    command: str = "",
) -> list[RolloutResult]:
    """Share out the episodes of recordings to several new ones, drawn by chance.

        split("run", ["train", "validation"], [0.9, 0.1])

    Args:
        directories: of recordings with equal spaces.
        output_dirs: one for each share.
        shares: of the episodes; together 1.
        seed: of the draw.
        selection: which episodes; ``None``: all.
        command: what was typed.

    Raises:
        ConfigError: If the shares do not add up to 1, or one of them gets no episode.
    """
    if len(output_dirs) != len(shares) or not shares or min(shares) <= 0:
        raise ConfigError(
            f"a split needs a share above 0 for each directory, got {list(shares)} for"
            f" {len(output_dirs)} directories"
        )
    if abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"the shares of a split have to add up to 1, these make {sum(shares):g}")
    recordings = Recordings(directories, EVERYTHING if selection is None else selection)
    chosen = _every_episode(recordings)
    bounds = np.round(np.cumsum([0.0, *shares]) * len(chosen)).astype(int)
    if (np.diff(bounds) < 1).any():
        raise ConfigError(f"{len(chosen)} episodes are too few for shares of {list(shares)}")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(chosen))
    results: list[RolloutResult] = []
    for i, output_dir in enumerate(output_dirs):
        part = chosen[np.sort(order[bounds[i] : bounds[i + 1]])]
        about = {"part": i, "shares": list(shares), "seed": seed}
        results.append(_write(recordings, part, output_dir, "split", about, command))
    return results


def _every_episode(recordings: Recordings) -> Any:
    """Return recording and index of each episode, those without any step included."""
    places: list[tuple[int, int]] = []
    for number, run in enumerate(recordings.runs):
        places += [(number, index) for index in recordings.selection.indices(run).tolist()]
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def _write(
    recordings: Recordings,
    chosen: Any,
    output_dir: str | Path,
    operation: str,
    about: Mapping[str, Any],
    command: str,
) -> RolloutResult:
    runs = recordings.runs
    rows = [runs[number].table.row(index) for number, index in chosen.tolist()]
    numbers = chosen[:, 0].tolist()
    seeds = [(row.env_seed, row.agent_seed) for row in rows]
    selection = recordings.selection.to_dict()
    if recordings.selection == make_selection(EVERYTHING):
        selection = {}
    config = config_of(
        runs,
        operation,
        {**about, **({"selection": selection} if selection else {})},
        [
            [row for number, row in zip(numbers, rows, strict=True) if number == i]
            for i in range(len(runs))
        ],
        len(rows),
    )

    def written(specs: Sequence[EpisodeSpec]) -> Iterator[Written]:
        for number, row, spec in zip(numbers, rows, specs, strict=True):
            yield from recorded(runs[number], row, spec)

    return write_recording(
        output_dir,
        RecordedSpaces.of(runs[0]),
        config,
        seeds,
        written,
        origins=[
            Origin(number, str(row.episode_index))
            for number, row in zip(numbers, rows, strict=True)
        ],
        keep_events=all((run.path / "event_logs").is_dir() for run in runs),
        command=command,
    )


def recorded(run: RunDirectory, row: EpisodeRow, spec: EpisodeSpec) -> Iterator[Written]:
    """Return a recorded episode with its events, to be written under another index."""
    for played in recorded_episode(run, row, spec):
        is_last = not hasattr(played, "part_id")
        # All events come with the last piece: their order is that of time within the episode.
        events = _events(run, row, played.episode_id) if is_last else {}
        yield Written(played, events, row.attempts)


def _events(run: RunDirectory, row: EpisodeRow, episode_id: str) -> dict[str, EventText]:
    found: dict[str, EventText] = {}
    for name, (columns, lines) in run.event_lines_of(row.episode_index).items():
        if name == Reward.__name__ or not lines:
            continue
        texts = "".join(f"{episode_id}\t{line.partition(chr(9))[2]}\n" for line in lines)
        found[name] = EventText(columns, (texts.encode(),))
    return found


def config_of(
    runs: Sequence[RunDirectory],
    operation: str,
    about: Mapping[str, Any],
    rows: Sequence[Sequence[EpisodeRow]],
    n_episodes: int,
) -> dict[str, Any]:
    """Return the config of a recording that is made of others.

    Args:
        runs: the sources.
        operation: what is done with them.
        about: its options.
        rows: of the episodes that are taken from each of them.
        n_episodes: in all.
    """
    configs = [run.config for run in runs]
    limits = [(one.get("runner") or {}).get("max_episode_steps") or 0 for one in configs]
    config: dict[str, Any] = {
        "runner": {
            "_target_": _RUNNER,
            "n_episodes": n_episodes,
            "max_episode_steps": max(limits) if all(limits) else 0,
        }
    }
    for group in _CARRIED:
        values = [one.get(group) for one in configs]
        if values[0] is not None and all(value == values[0] for value in values):
            config[group] = copy.deepcopy(values[0])
    config["dataset"] = {
        "operation": operation,
        **about,
        "sources": [source_of(run, of_run) for run, of_run in zip(runs, rows, strict=True)],
    }
    return config


def source_of(run: RunDirectory, rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    """Say what a recording is made of: the name of a source, and what of it."""
    earlier = (run.config.get("dataset") or {}).get("sources")
    return {
        "name": run.path.resolve().name,
        "n_episodes": len(rows),
        "fingerprint": fingerprint(rows),
        **{
            key: copy.deepcopy(run.config[key])
            for key in ("env", "policy", "wrappers", "seeding")
            if run.config.get(key)
        },
        **({"made_of": earlier} if earlier else {}),
    }


def fingerprint(rows: Sequence[EpisodeRow]) -> str:
    """Return a hash over the digests of episodes: equal for equal episodes in the same order."""
    hashed = xxhash.xxh3_128()
    for row in rows:
        hashed.update(row.digest.encode())
    return hashed.hexdigest()
