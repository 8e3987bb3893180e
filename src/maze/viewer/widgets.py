"""Widgets for notebooks. They need ipywidgets, pandas and matplotlib: the extra ``notebook``."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from maze.core.errors import OutputError
from maze.core.rollout.run_directory import RunDirectory
from maze.viewer.frames import FrameError
from maze.viewer.server import Viewer

_N_GROUPS_DRAWN = 12
_N_GROUPS_LISTED = 50
_N_BINS = 30
_PATIENCE = 1.0
"""Seconds to wait for what the replay showed."""
_AGGREGATES = ("count", "mean", "sum", "std", "min", "median", "max")


class EpisodeWidget(widgets.VBox):  # type: ignore[misc]
    """The frame and the values of a step, and what moves through the episode."""

    def __init__(self, directory: Path, episode_index: int, trust: bool) -> None:
        self._viewer = Viewer([directory], trust=trust)
        self._index = episode_index
        self._episode = self._viewer.runs[0].episode(episode_index)
        last = max(self._episode.description()["n_positions"] - 1, 0)
        self.play = widgets.Play(value=0, min=0, max=last, interval=100)
        self.slider = widgets.IntSlider(0, 0, last, description="step")
        self.slider.layout.width = "100%"
        widgets.jslink((self.play, "value"), (self.slider, "value"))
        self.image = widgets.Image(format="png")
        self.image.layout.max_width = "60%"
        self.values = widgets.HTML()
        self.status = widgets.HTML()
        self.slider.observe(lambda change: self.show(change["new"]), "value")
        super().__init__(
            [
                widgets.HBox([self.play, self.slider]),
                widgets.HBox([self.image, self.values]),
                self.status,
            ]
        )
        self.show(0)

    def show(self, step: int) -> None:
        """Show a step."""
        try:
            frames = self._viewer.frames[0]
            self.image.value = frames.get(self._index, step).read_bytes()
            is_last = step == self.slider.max
            status = frames.verdict(self._index, timeout=_PATIENCE if is_last else 0.0)
            told = status.verdict or f"Frames from: {status.source}."
        except (FrameError, FileNotFoundError) as error:
            self.image.value = b""
            told = f"No frame: {error}"
        self.status.value = f"<small>{html.escape(told)}</small>"
        self.values.value = _values_as_html(self._episode.steps(step, step + 1))

    def close(self) -> None:
        """Close it, and end what draws frames."""
        self._viewer.close()
        super().close()


class EventsWidget(widgets.VBox):  # type: ignore[misc]
    """Choices, a picture and a table."""

    def __init__(self, directory: RunDirectory, event_type: str | None) -> None:
        types = directory.event_types
        if not types:
            raise OutputError(f"no events were logged in {directory.path}")
        chosen = types[0] if event_type is None else event_type
        self._directory = directory
        self.events = directory.events(chosen)
        self.event_type = widgets.Dropdown(options=types, value=chosen, description="events")
        self.attribute = widgets.Dropdown(description="attribute")
        self.by = widgets.Dropdown(description="by")
        self.aggregate = widgets.Dropdown(
            options=_AGGREGATES, value="mean", description="aggregate"
        )
        self.picture = widgets.Image(format="png")
        self.table = widgets.HTML()
        self._offer()
        self.event_type.observe(lambda change: self._load(change["new"]), "value")
        for choice in (self.attribute, self.by, self.aggregate):
            choice.observe(lambda change: self._show(), "value")
        choices = [self.event_type, self.attribute, self.by, self.aggregate]
        super().__init__(
            [widgets.HBox(choices), widgets.HBox([self.picture, self.table])],
        )
        self._show()

    def _load(self, name: str) -> None:
        self.events = self._directory.events(name)
        self._offer()
        self._show()

    def _offer(self) -> None:
        columns = [name for name in self.events.columns if name != "episode_id"]
        self._is_offering = True
        self.attribute.options = _numeric(self.events) or columns
        self.attribute.value = self.attribute.options[0]
        self.by.options = [
            ("nothing", ""),
            ("episode", "episode_id"),
            *((name, name) for name in columns),
        ]
        self.by.value = ""
        self._is_offering = False

    def _show(self) -> None:
        if self._is_offering:
            return
        attribute, by, how = self.attribute.value, self.by.value, self.aggregate.value
        summary = event_statistics(self.events, attribute, by or None)
        self.table.value = _table_as_html(summary, how if by else None)
        self.picture.value = _picture(self.events, attribute, by or None, how)


def event_statistics(events: pd.DataFrame, attribute: str, by: str | None = None) -> pd.DataFrame:
    """Return count, mean, sum, spread, range and median of an attribute, a row for each group.

    Args:
        events: of one type, as ``RunDirectory.events`` gives them.
        attribute: one of its columns. Of text there is only the count.
        by: the column that tells the groups apart. ``None``: all events are one group.
    """
    names = list(_AGGREGATES) if attribute in _numeric(events) else ["count"]
    keys = events[by] if by else ["all"] * len(events)
    return events.groupby(keys, sort=True, dropna=False)[attribute].agg(names)  # type: ignore[arg-type]


def _numeric(events: pd.DataFrame) -> list[str]:
    numbers = events.select_dtypes("number").columns
    # Time is rather what to group by than what to measure.
    return sorted(numbers, key=lambda name: name == "env_time")


def _values_as_html(steps: Sequence[dict[str, Any]]) -> str:
    if not steps:
        return "<i>nothing was recorded here</i>"
    rows: list[tuple[str, str]] = []
    for name, value in steps[0].items():
        if name in ("observation", "action"):
            if name == "action" and not value:
                rows.append((name, "none: the episode is over"))
            rows += [(leaf, _told(one)) for leaf, one in value.items()]
        elif name == "events":
            rows += [("event", text) for text in value]
        elif value is not None:
            rows.append((name, _told(value)))
    cells = (
        f"<tr><th style='text-align: left; padding-right: 1em'>{html.escape(name)}</th>"
        f"<td>{html.escape(text)}</td></tr>"
        for name, text in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return str(value["text"]) if "text" in value else json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


def _table_as_html(summary: pd.DataFrame, first: str | None) -> str:
    if first is not None and first in summary.columns:
        summary = summary[[first, *summary.columns.drop(first)]]
    note = ""
    if len(summary) > _N_GROUPS_LISTED:
        note = f"<small>{len(summary):,} groups, of which {_N_GROUPS_LISTED} are listed</small>"
    table: str = summary.head(_N_GROUPS_LISTED).to_html(float_format="{:.4g}".format)
    return table + note  # Which pandas escapes.


def _picture(events: pd.DataFrame, attribute: str, by: str | None, how: str) -> bytes:
    """Draw a histogram; with many groups, the aggregate of each."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    is_number = attribute in _numeric(events)
    groups = {"": events} if by is None else dict(iter(events.groupby(by, dropna=False)))
    if len(groups) > _N_GROUPS_DRAWN:
        values = event_statistics(events, attribute, by)[how if is_number else "count"]
        x = values.index if by in _numeric(events) else range(len(values))
        axes.plot(x, values.to_numpy(), marker="." if len(values) < 200 else "")
        axes.set(xlabel=by, ylabel=_plain(f"{how} of {attribute}"))
    elif is_number:
        data = [group[attribute].dropna().to_numpy() for group in groups.values()]
        labels = [_plain(str(name)) for name in groups] if by else None
        axes.hist(data, bins=_N_BINS, histtype="bar" if len(data) == 1 else "step", label=labels)
        axes.set(xlabel=_plain(attribute), ylabel="events")
    else:
        counts = events[attribute].value_counts().head(_N_GROUPS_DRAWN)
        axes.barh([_plain(str(name)) for name in counts.index], counts.to_numpy())
        axes.set(xlabel="events")
    if by and is_number and len(groups) <= _N_GROUPS_DRAWN:
        axes.legend(title=_plain(by))
    axes.spines[["top", "right"]].set_visible(False)
    data_of_picture = io.BytesIO()
    figure.savefig(data_of_picture, format="png", dpi=100)
    return data_of_picture.getvalue()


def _plain(text: str) -> str:
    """Return text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
