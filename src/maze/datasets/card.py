"""The dataset card: what is in a recording and where it comes from, for whoever is handed it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import OutputError
from maze.core.rollout.run_directory import RunDirectory

CARD_FILE = "README.md"
PROVENANCE_FILE = "provenance.parquet"

_SOURCE = ("name", "n_episodes", "fingerprint")
_FOR_OTHERS = (
    "The trajectories are Arrow IPC streams, the table of episodes is Parquet: other languages read"
    " them, too."
)


def card_of(directory: Path) -> str:
    """Return the card of a recording, in Markdown."""
    run = RunDirectory(directory)
    config = run.config
    about: Mapping[str, Any] = config.get("dataset") or {}
    table, statistics = run.table, run.statistics.get("statistics", {})
    endings = run.statistics.get("endings", {})
    lines = [
        f"# {_name(config)}",
        "",
        f"{len(table):,} episodes, {int(np.sum(table['n_steps'])):,} steps, recorded by Maze.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {ending} | {n:,} |" for ending, n in endings.items() if n),
    ]
    for name in ("return", "n_steps"):
        of = statistics.get(name)
        if of and of.get("mean") is not None:
            lines.append(
                f"| {name} | mean {of['mean']:.6g}, from {of['min']:.6g} to {of['max']:.6g} |"
            )
    lines += ["", "## Spaces", ""]
    for stream in run.streams:
        of_key = "" if len(run.streams) == 1 else f"`{stream.step_key}`: "
        lines.append(f"- {of_key}observation `{_short(stream.observation_space)}`")
        lines.append(f"- {of_key}action `{_short(stream.action_space)}`")
    lines += ["", "## Where it comes from", ""]
    if about:
        lines.append(f"Made by: {about.get('operation', 'unknown')}")
        options = {
            key: value for key, value in about.items() if key not in ("operation", "sources")
        }
        if options:
            lines += ["", "```json", json.dumps(options, indent=1, default=str), "```"]
        lines += ["", "| source | episodes | fingerprint |", "|---|---|---|"]
        lines += [
            f"| {' | '.join(str(one.get(name, '')) for name in _SOURCE)} |"
            for one in about.get("sources", ())
        ]
        if (directory / PROVENANCE_FILE).exists():
            lines += ["", f"`{PROVENANCE_FILE}` says it for each episode."]
    else:
        lines.append("It was played by Maze; `config.yaml` says how.")
    lines += [
        "",
        "## How to read it",
        "",
        "```python",
        "import maze",
        "",
        f'run = maze.load("{directory.name}")',
        "run.episodes",
        "run.trajectory(0).observations",
        "```",
        "",
        _FOR_OTHERS,
        "",
    ]
    return "\n".join(lines)


def write_provenance(path: Path, sources: NDArray[np.int32], episodes: Sequence[str]) -> None:
    """Write where each episode comes from: position of the source, and what it is called there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "episode_index": pa.array(np.arange(len(sources)), pa.int64()),
            "source": pa.array(sources, pa.int32()),
            "source_episode": pa.array(list(episodes), pa.string()),
        }
    )
    try:
        pq.write_table(table, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error


def _name(config: Mapping[str, Any]) -> str:
    from maze.core.rollout.rollout_runner import names_of

    env, policy = names_of(config)
    named = [name for name in (env, policy) if name and name != "None"]
    return " · ".join(named) or "Recording"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:197] + "..."
