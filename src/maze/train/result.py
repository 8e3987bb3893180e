"""What a training returns, and what it prints meanwhile."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from maze.core.statistics.summary import Summary

RESULT_FILE = "training.json"


@dataclass(frozen=True)
class Evaluation:
    """The policy's returns on the fixed plan of episodes, after so many steps."""

    n_steps: int
    n_updates: int
    returns: Summary
    n_failed: int
    """Episodes that broke; they are not in the returns."""

    def to_json_dict(self) -> dict[str, Any]:
        """Return it in types of JSON."""
        return {
            "n_steps": self.n_steps,
            "n_updates": self.n_updates,
            "returns": self.returns.to_json_dict(),
            "n_failed": self.n_failed,
        }


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training."""

    n_steps: int
    """Structured steps that were played, in all sessions of the training."""
    n_updates: int
    evaluations: Sequence[Evaluation]
    """In their order; the last one is of the last weights."""
    best: Evaluation | None
    """The one whose weights were kept. ``None`` without evaluations."""
    seconds: float
    """Of this session."""
    steps_per_second: float
    """Of collecting and learning in this session, without evaluations."""
    output_directory: Path
    interrupted: bool
    stopped_because: str
    """Why it ended before its last step: empty if it did not."""
    env_name: str
    algorithm_name: str

    @property
    def best_return(self) -> float:
        """The mean return of the best evaluation; NaN without evaluations."""
        return math.nan if self.best is None else self.best.returns.mean

    def to_json_dict(self) -> dict[str, Any]:
        """Return it in types of JSON, for ``training.json``."""
        return {
            "env": self.env_name,
            "algorithm": self.algorithm_name,
            "n_steps": self.n_steps,
            "n_updates": self.n_updates,
            "seconds": self.seconds,
            "steps_per_second": self.steps_per_second,
            "interrupted": self.interrupted,
            "stopped_because": self.stopped_because,
            "best": None if self.best is None else self.best.to_json_dict(),
            "last": self.evaluations[-1].to_json_dict() if self.evaluations else None,
        }

    def __str__(self) -> str:
        lines = [f"{self.env_name} · {self.algorithm_name} · {self.n_steps:,} steps", ""]
        if self.best is not None:
            lines.append(
                f"best return  {_mean(self.best.returns)} after {self.best.n_steps:,} steps"
            )
            last = self.evaluations[-1]
            if last is not self.best:
                lines.append(f"last return  {_mean(last.returns)}")
        lines.append(f"time         {self.seconds:.1f} s · {self.steps_per_second:,.0f} steps/s")
        if self.interrupted:
            lines.append("interrupted  go on with maze resume")
        if self.stopped_because:
            lines.append(f"ended        {self.stopped_because}")
        lines.append(f"output       {self.output_directory}")
        return "\n".join(lines)

    __repr__ = __str__


class Reporter:
    """Prints a line for each row of the log.

    Args:
        n_steps: of the whole training.
        show: whether to print at all.
        metrics: of the algorithm, printed as far as there are such.
        file: where to; ``None``: standard output of the moment.
    """

    def __init__(
        self,
        n_steps: int,
        show: bool,
        metrics: Sequence[str] = (),
        file: TextIO | None = None,
    ) -> None:
        self._n_steps, self._show, self._file = n_steps, show, file
        self._metrics = metrics
        self._has_header = False

    def row(
        self,
        row: Mapping[str, float],
        evaluation: Evaluation | None,
        is_best: bool,
        steps_per_second: float,
    ) -> None:
        """Print where the training is."""
        metrics = [name for name in self._metrics if name in row] or ["return_mean"]
        titles = ["return" if name == "return_mean" else _title(name) for name in metrics]
        if not self._has_header:
            named = "".join(f"  {title:>{max(9, len(title))}}" for title in titles)
            self._print(f"{'steps':>11}{named}  {'evaluation':>20}  {'steps/s':>8}  {'left':>8}")
            self._has_header = True
        n_steps = int(row["n_steps"])
        shown = (
            "" if evaluation is None else _mean(evaluation.returns) + (" *" if is_best else "  ")
        )
        left = (self._n_steps - n_steps) / steps_per_second if steps_per_second else 0.0
        numbers = "".join(
            f"  {_number(row[name]):>{max(9, len(title))}}"
            for name, title in zip(metrics, titles, strict=True)
        )
        self._print(
            f"{n_steps:>11,}{numbers}  {shown:>20}"
            f"  {steps_per_second:>8,.0f}  {_duration(max(left, 0)):>8}"
        )

    def say(self, text: str) -> None:
        """Print something else."""
        self._print(text)

    def _print(self, text: str) -> None:
        if self._show:
            print(text, file=self._file or sys.stdout, flush=True)


def _title(name: str) -> str:
    return name.replace("validation_", "valid. ").replace("_", " ")


def _mean(returns: Summary) -> str:
    half = returns.ci_half_width
    return _number(returns.mean) + (f" ± {_number(half)}" if half == half else "")


def _number(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
