"""Writes runs into one HTML file: the viewer's page with its data inside, for others to open.

It needs no server, no network and no Maze. It holds the table of all episodes, and the steps and
frames of some. Its size is limited: of the frames, every second, third, ... is kept until it fits.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import ConfigError, MazeError, OutputError
from maze.viewer.compare import compare_runs
from maze.viewer.episodes import N_STEPS_AT_ONCE, EpisodeView
from maze.viewer.runs import ViewedRun
from maze.viewer.server import Viewer, page

N_STEPS_EXPORTED = 5000
"""Of an episode; of a longer one, the last ones are left out, but for the time lines."""
_N_EPISODES_LISTED = 200_000
_N_POINTS = 1000
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)


@dataclass
class ReportedEpisode:
    """An episode in a report."""

    run_name: str
    index: int
    n_frames: int = 0
    every: int = 1
    """Of its frames, every so many-th one is there."""
    problem: str = ""
    """Why there are no frames, or not all steps."""


@dataclass(frozen=True)
class Report:
    """The page with runs in it. A notebook shows it; ``write`` makes a file of it."""

    html: str
    n_runs: int
    episodes: Sequence[ReportedEpisode]
    height: int = 720
    """Pixels that it has in a notebook."""

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return len(self.html.encode())

    def __repr__(self) -> str:
        runs = "a run" if self.n_runs == 1 else f"{self.n_runs} runs"
        return (
            f"<Report of {runs} with {len(self.episodes)} episodes to look at,"
            f" {self.n_bytes / 1e6:.1f} MB; write(path) makes a file of it>"
        )

    def _repr_html_(self) -> str:
        """Show it in a frame of its own, which can reach neither the notebook nor the network."""
        return (
            '<iframe sandbox="allow-scripts" title="Maze" style="width: 100%; border: 0;'
            f' height: {self.height}px" srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def write(self, path: str | Path) -> None:
        """Write it to a file, which is there as a whole or not at all.

        Raises:
            OutputError: If that cannot be done.
        """
        path = Path(path)
        temporary = path.with_name(path.name + ".writing")
        try:
            temporary.write_text(self.html, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def make_report(
    viewer: Viewer,
    *,
    episodes: Sequence[int] | None = None,
    with_frames: bool = True,
    max_bytes: int = 20 * 10**6,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Put runs into one page.

    Args:
        viewer: of the runs.
        episodes: indices of those to be looked at step by step, of each run. ``None``: the worst,
            the median and the best one by return, and the first that failed; of a second run, those
            with the same environment seeds.
        with_frames: whether to draw their frames.
        max_bytes: of the page.
        tell: called with what is being done, as it takes a while.

    Raises:
        OutputError: If there is no such episode.
        ConfigError: If the page is larger than ``max_bytes`` even without frames.
    """
    chosen = _chosen(viewer, episodes)
    data: dict[str, Any] = {
        "note": "",
        "runs": [run.summary() for run in viewer.runs],
        "columns": [_columns(run) for run in viewer.runs],
        "episodes": {},
        "comparisons": {},
        "divergences": {},
    }
    reported: list[ReportedEpisode] = []
    pictures: list[_Pictures] = []
    for number, index in chosen:
        run = viewer.runs[number]
        one = ReportedEpisode(data["runs"][number]["name"], index)
        tell(f"reading episode {index}")
        view = run.episode(index)
        embedded = _embedded(view, one)
        data["episodes"][f"{number}/{index}"] = embedded
        reported.append(one)
        n_positions = min(embedded["info"]["n_positions"], N_STEPS_EXPORTED)
        for image in embedded["info"]["images"]:
            name = image["name"]
            pictures.append(_Pictures(embedded["images"], name, n_positions, _images(view, name)))
        if with_frames:
            draw = _frames(viewer, number, index)
            pictures.append(_Pictures(embedded, "frames", n_positions, draw, one))
            try:
                draw(0)
            except MazeError as error:
                one.problem = str(error)
                pictures.pop()
    for a in range(len(viewer.runs)):
        for b in range(len(viewer.runs)):
            if a != b:
                _add_comparison(data, viewer, a, b, chosen)
    data["note"] = _note(viewer, chosen)
    n_bytes = len(_html(data).encode())
    if n_bytes > max_bytes:
        raise ConfigError(
            f"without any frame, the report has {n_bytes / 1e6:.1f} MB, and at most"
            f" {max_bytes / 1e6:g} are allowed: choose fewer episodes, or allow more"
        )
    _add_pictures(pictures, max_bytes - n_bytes, tell)
    for number, index in chosen:
        status = viewer.frame_status(number, index)
        data["episodes"][f"{number}/{index}"]["frame_status"] = status
    return Report(_html(data), len(viewer.runs), reported)


def _chosen(viewer: Viewer, episodes: Sequence[int] | None) -> list[tuple[int, int]]:
    """Return run and index of the episodes."""
    if episodes is not None:
        wanted = list(dict.fromkeys(episodes))
        for run in viewer.runs:
            for index in wanted:
                run.episode(index)  # Says whether there is such.
        return [(number, index) for number in range(len(viewer.runs)) for index in wanted]
    chosen: list[tuple[int, int]] = []
    for number, run in enumerate(viewer.runs):
        chosen += [(number, index) for index in _telling(run)]
    if len(viewer.runs) > 1:
        # Those that can be compared are worth more than those that cannot.
        first = [index for number, index in chosen if number == 0]
        chosen = [(0, index) for index in first]
        seeds = {viewer.runs[0].directory.table.row(index).env_seed for index in first}
        for number, run in enumerate(viewer.runs[1:], 1):
            table = run.directory.table
            of_seeds = np.isin(np.asarray(table["env_seed"]), list(seeds))
            indices = table.episode_indices[of_seeds].tolist()[: len(first)]
            chosen += [(number, index) for index in indices or _telling(run)]
    return chosen


def _telling(run: ViewedRun) -> list[int]:
    """Return the episodes with the lowest, the median and the highest return, and a failed one."""
    table = run.directory.table
    indices = table.episode_indices.tolist()
    endings, returns = list(table["ending"]), np.asarray(table["return"], dtype=np.float64)
    played = [i for i in range(len(indices)) if endings[i] != "failed" and returns[i] == returns[i]]
    played.sort(key=lambda i: (returns[i], i))
    places = [played[0], played[len(played) // 2], played[-1]] if played else []
    places += [i for i in range(len(indices)) if endings[i] == "failed"][:1]
    return [indices[i] for i in dict.fromkeys(places)]


def _columns(run: ViewedRun) -> dict[str, Any]:
    names = [column["name"] for column in run.summary()["columns"]]
    n = len(run.directory)
    if n > _N_EPISODES_LISTED:
        raise ConfigError(
            f"{run.path} has {n:,} episodes, and a report lists at most {_N_EPISODES_LISTED:,}"
        )
    return run.columns(names)


def _embedded(view: EpisodeView, reported: ReportedEpisode) -> dict[str, Any]:
    info = view.description()
    n_positions = info["n_positions"]
    channels = [channel["name"] for channel in info["channels"]]
    stop = min(n_positions, N_STEPS_EXPORTED)
    if stop < n_positions:
        reported.problem = f"only the first {stop:,} of its steps"
    steps: list[dict[str, Any]] = []
    for start in range(0, stop, N_STEPS_AT_ONCE):
        steps += view.steps(start, min(start + N_STEPS_AT_ONCE, stop))
    overview = view.overview([*channels, *info["events"]], 0, n_positions, _N_POINTS)
    return {
        "info": info,
        "overview": {"channels": overview, "actors": view.actors(0, n_positions, _N_POINTS)},
        "steps": steps,
        "frames": None,
        "frame_status": {},
        "images": {},
    }


def _add_comparison(
    data: dict[str, Any], viewer: Viewer, a: int, b: int, chosen: Sequence[tuple[int, int]]
) -> None:
    one, other = viewer.runs[a].directory, viewer.runs[b].directory
    data["comparisons"][f"{a}/{b}"] = compare_runs(one, other)
    for number, index in chosen:
        for other_number, other_index in chosen:
            if (number, other_number) == (a, b):
                key = f"{a}/{b}/{index}/{other_index}"
                try:
                    data["divergences"][key] = viewer.divergence(a, index, b, other_index)
                except OutputError:
                    continue  # One of them was not recorded.


def _note(viewer: Viewer, chosen: Sequence[tuple[int, int]]) -> str:
    total = sum(len(run.directory) for run in viewer.runs)
    return (
        f"A report, written by maze view: the steps of {len(chosen)} of {total:,} episodes are in"
        " it; the table and the statistics are about all of them."
    )


# Pictures.


@dataclass
class _Pictures:
    """Pictures of the steps of one episode."""

    target: dict[str, Any]
    name: str
    n: int
    draw: Callable[[int], NDArray[np.uint8] | None]
    reported: ReportedEpisode | None = None


def _frames(viewer: Viewer, number: int, index: int) -> Callable[[int], NDArray[np.uint8] | None]:
    def draw(step: int) -> NDArray[np.uint8]:
        from PIL import Image

        with Image.open(viewer.frames[number].get(index, step)) as image:
            return np.asarray(image.convert("RGB"))

    return draw


def _images(view: EpisodeView, name: str) -> Callable[[int], NDArray[np.uint8] | None]:
    return lambda step: view.image(name, step)


def _add_pictures(pictures: Sequence[_Pictures], n_bytes: int, tell: Callable[[str], None]) -> None:
    """Add pictures, as many as there is room for; each episode gets the same share.

    What one does not need is there for those after it, so the shortest come first.
    """
    left = n_bytes
    for i, one in enumerate(sorted(pictures, key=lambda pictures: pictures.n)):
        share = left // (len(pictures) - i)
        tell(f"drawing pictures of {one.n:,} steps ({i + 1} of {len(pictures)})")
        steps, urls, every = _encoded(one, share)
        left -= sum(map(len, urls)) + 16 * len(urls)
        if urls:
            one.target[one.name] = {"steps": steps, "urls": urls}
        if one.reported is not None:
            one.reported.n_frames, one.reported.every = len(urls), every


def _encoded(pictures: _Pictures, share: int) -> tuple[list[int], list[str], int]:
    """Return every n-th picture, with the smallest n with which they have so many bytes."""
    every, kept = 1, {}
    size = 0
    for step in range(pictures.n):
        if step % every:
            continue
        pixels = pictures.draw(step)
        if pixels is None:
            continue
        kept[step] = _url(pixels)
        size += len(kept[step]) + 16
        while size > share and kept:
            every *= 2
            kept = {step: url for step, url in kept.items() if step % every == 0}
            size = sum(len(url) + 16 for url in kept.values())
            if every > pictures.n:
                return [], [], every
    return list(kept), list(kept.values()), every


def _url(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "WEBP", quality=80, method=2)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _html(data: dict[str, Any]) -> str:
    """Return the page with data in it, none of which can end the script that holds it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, code)
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<script type="application/json" id="maze-data">{text}</script>'
    )
    before, closing, after = page().partition("<head>")
    return f"{before}{closing}{head}{after}"
