"""The table at the end of ``--multirun``: a line for each run, read from its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from maze.cli.messages import aligned

HEADER = ("run", "overrides", "episodes", "mean return", "mean steps", "failed")


def sweep_table(sweep_directory: Path) -> str:
    """Return the table over the runs below a directory, in the order of their names."""
    runs = [path.parent.parent for path in sweep_directory.rglob(".hydra/overrides.yaml")]
    runs.sort(key=lambda run: [(len(part), part) for part in run.parts])  # 2 before 10
    overrides = [_overrides(run) for run in runs]
    shared = set.intersection(*map(set, overrides)) if len(runs) > 1 else set()
    rows = [
        (
            str(run.relative_to(sweep_directory)),
            " ".join(option for option in options if option not in shared),
            *_numbers(run),
        )
        for run, options in zip(runs, overrides, strict=True)
    ]
    return "\n".join([*aligned([HEADER, *rows]), f"output: {sweep_directory}"])


def _numbers(run: Path) -> tuple[str, str, str, str]:
    training = run / "training.json"
    if training.exists():
        return _numbers_of_training(training)
    try:
        content = json.loads((run / "statistics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ("0", "did not finish", "", "")
    returns, steps = (content["statistics"].get(name) or {} for name in ("return", "n_steps"))
    return (
        str(content["n_episodes"]),
        _with_interval(returns),
        _number(steps.get("mean")),
        str(content["endings"].get("failed", 0)),
    )


def _numbers_of_training(path: Path) -> tuple[str, str, str, str]:
    """Return those of the best evaluation."""
    try:
        best = json.loads(path.read_text(encoding="utf-8"))["best"]
    except (OSError, ValueError, KeyError):
        return ("0", "did not finish", "", "")
    if best is None:
        return ("0", "not evaluated", "", "")
    returns = best["returns"]
    return (str(returns["n"]), _with_interval(returns), "", str(best["n_failed"]))


def _with_interval(summary: dict[str, Any]) -> str:
    low, high = summary.get("ci_low"), summary.get("ci_high")
    interval = "" if low is None or high is None else f" ± {_number((high - low) / 2)}"
    return _number(summary.get("mean")) + interval


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _overrides(run: Path) -> list[str]:
    return [str(option) for option in OmegaConf.load(run / ".hydra" / "overrides.yaml")]
