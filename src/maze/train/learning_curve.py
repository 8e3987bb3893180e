"""Learning curves as pictures: the mean return of evaluations over the steps that were played.

One training is drawn with the range of its episodes, several of the same kind as their mean with a
confidence band, so that algorithms can be compared over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import ConfigError, MissingExtraError, OutputError
from maze.core.statistics.summary import summarize
from maze.train.log import EVALUATIONS, TRAINING_LOG, read_rows


class Curve(NamedTuple):
    """Mean returns over steps."""

    n_steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def read_curve(directory: Path) -> Curve:
    """Return the curve of a training: its evaluations, or what was played if there were none.

    The band is the range from the worst to the best episode of an evaluation.

    Raises:
        OutputError: If the directory holds no training.
    """
    by_steps: dict[int, list[float]] = {}
    for row in read_rows(directory / EVALUATIONS):
        if row["ending"] != "failed":
            by_steps.setdefault(int(row["n_steps"]), []).append(float(row["return"]))
    if by_steps:
        rows = [(n, float(np.mean(r)), min(r), max(r)) for n, r in sorted(by_steps.items())]
    else:
        rows = [
            (int(row["n_steps"]), value, value, value)
            for row in read_rows(directory / TRAINING_LOG)
            if math.isfinite(value := float(row["return_mean"]))
        ]
    if not rows:
        raise OutputError(f"'{directory}' holds no training that was evaluated or has played")
    return Curve(*(np.array(column, np.float64) for column in zip(*rows, strict=True)))


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves, with the 95 % confidence interval of the mean as its band.

    The band is cut off at the lowest and highest curve, as returns often have bounds. Curves are
    interpolated at the steps of the shortest one, as they may be evaluated at slightly different
    ones.
    """
    if len(curves) == 1:
        return curves[0]
    shortest = min(curves, key=lambda curve: curve.n_steps[-1])
    first = max(curve.n_steps[0] for curve in curves)
    steps = shortest.n_steps[shortest.n_steps >= first]
    if not len(steps):
        steps = shortest.n_steps[-1:]
    values = np.array([np.interp(steps, curve.n_steps, curve.mean) for curve in curves])
    summaries = [summarize(column) for column in values.T]
    return Curve(
        steps,
        np.array([one.mean for one in summaries]),
        np.array([max(one.ci_low, one.min) for one in summaries]),
        np.array([min(one.ci_high, one.max) for one in summaries]),
    )


def draw(groups: Mapping[str, Sequence[Path]], path: Path, title: str = "") -> None:
    """Draw the curves of groups of trainings into a file.

    Args:
        groups: directories by the label of their curve.
        path: of the picture; its ending says in which format.
        title: above it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ConfigError: If the format is not known.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib, which draws learning curves,", "train") from None
    # Not by pyplot, which has a state of its own.
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for index, (label, directories) in enumerate(groups.items()):
        curve = mean_curve([read_curve(directory) for directory in directories])
        color = f"C{index}"
        axes.plot(
            curve.n_steps,
            curve.mean,
            color=color,
            linewidth=1.6,
            label=label,
            marker="o" if len(curve.n_steps) < 30 else None,
            markersize=3,
        )
        axes.fill_between(
            curve.n_steps, curve.low, curve.high, color=color, alpha=0.18, linewidth=0
        )
    axes.set_xlabel("steps")
    axes.set_ylabel("mean return of an evaluation")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(left=0)
    if title:
        axes.set_title(title, fontsize=11)
    if len(groups) > 1:
        axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise ConfigError(f"'{path}' is of no known format: {error}") from error


def draw_if_possible(directories: Sequence[Path], path: Path) -> None:
    """Draw the curve of trainings, if matplotlib is there and there is something to draw."""
    try:
        draw({"": directories}, path, directories[0].parent.name)
    except (MissingExtraError, OutputError):
        return
