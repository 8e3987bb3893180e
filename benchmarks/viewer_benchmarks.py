"""How long it takes until there is something to see: the viewer in a real browser.

Needs Chromium, and the extra ``test``.

    python benchmarks/viewer_benchmarks.py
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import maze

N_REPEATS = 5
N_LARGE = 100_000
N_LONG = 100_000


def main() -> None:
    """Record runs, look at them, print the table."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no Chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        small, large, long = (Path(folder) / name for name in ("small", "large", "long"))
        maze.rollout("CartPole-v1", n_episodes=50, seed=1, output_dir=small)
        print(f"recording {N_LARGE:,} episodes, and one of {N_LONG:,} steps", file=sys.stderr)
        maze.rollout("CartPole-v1", n_episodes=N_LARGE, n_processes=2, seed=1, output_dir=large)
        maze.rollout(
            {
                "_target_": "maze_envs.logistics.supply_chain.env.supply_chain_env",
                "max_episode_steps": N_LONG // 4,
                "n_stages": 4,
            },
            n_episodes=1,
            seed=1,
            output_dir=long,
        )
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto("about:blank")  # The browser itself is not measured.
        rows: list[tuple[str, float | None, list[float]]] = [
            (
                "command to usable page, 50 episodes",
                1.5,
                [opened(page, small) for _ in range(N_REPEATS)],
            ),
            (
                f"command to usable page, {N_LARGE:,} episodes",
                2.0,
                [opened(page, large) for _ in range(N_REPEATS)],
            ),
        ]
        with Served(small) as served:
            rows += frames(page, served.url)
        with Served(large) as served:
            rows.append((f"sorting {N_LARGE:,} episodes", None, sorting(page, served.url)))
        with Served(long) as served:
            rows.append(
                (f"an episode of {N_LONG:,} sub-steps opened", None, opening(page, served.url))
            )
            rows.append(("key to the values of its next step", None, stepping(page)))
        browser.close()
    print("| What | Median | Range | Budget |\n|---|---|---|---|")
    for name, budget, seconds in rows:
        limit = "" if budget is None else f"under {told(budget)}"
        print(
            f"| {name} | {told(statistics.median(seconds))}"
            f" | {told(min(seconds))} to {told(max(seconds))} | {limit} |"
        )


def told(seconds: float) -> str:
    """Return seconds, or milliseconds, as text."""
    return f"{seconds:.2f} s" if seconds >= 0.2 else f"{seconds * 1000:.1f} ms"


class Served:
    """``maze view`` in a process of its own, as long as it is needed."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "maze.cli.maze", "view", str(directory), "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[0]

    def __enter__(self) -> Served:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def opened(page: Any, directory: Path) -> float:
    """Return the seconds from the command to the table of episodes, which can be clicked."""
    start = time.perf_counter()
    with Served(directory) as served:
        page.goto(served.url)
        page.locator(".table .body .row").first.wait_for()
        return time.perf_counter() - start


TIMED = """
([press, isDone]) => new Promise((resolve) => {
  const done = new Function("return " + isDone);
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  const look = () => (done() || seconds() > 10 ? resolve(seconds()) : setTimeout(look, 0));
  new Function(press)();
  look();
})
"""
"""Measures in the page, so that the driver of the browser does not count."""


def timed(page: Any, press: str, is_done: str) -> float:
    """Return the seconds from doing something in the page until something holds."""
    seconds: float = page.evaluate(TIMED, [press, is_done])
    return seconds


KEY = (
    "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))"
)
FRAME = "document.querySelector('.picture img[data-step]')?.dataset.step === '{}'"


def frames(page: Any, url: str) -> list[tuple[str, float | None, list[float]]]:
    """Return how long the first frame takes, and those that were prefetched."""
    first, next_ones = [], []
    for episode in range(N_REPEATS):
        start = time.perf_counter()
        page.goto(f"{url}#/run/0/episode/{episode}")
        page.locator(f'.picture img[alt*="pisode {episode}"][data-step="0"]').first.wait_for()
        first.append(time.perf_counter() - start)
        page.wait_for_timeout(1000)
        next_ones += [timed(page, KEY, FRAME.format(step)) for step in range(1, 6)]
    return [
        ("an episode's page to its first frame", None, first),
        ("key to the next frame, prefetched", 0.05, next_ones),
    ]


def sorting(page: Any, url: str) -> list[float]:
    """Return how long a click on a column's title takes."""
    page.goto(url)
    page.locator(".table .body .row").first.wait_for()
    button = "document.querySelector('.table .head button[title=\"Sort by return\"]')"
    found = []
    for _ in range(N_REPEATS):
        arrow = page.locator('.table .head button[title="Sort by return"] .arrow').inner_text()
        next_arrow = "▼" if arrow == "▲" else "▲"
        found.append(
            timed(page, f"{button}.click()", f"{button}.innerText.includes('{next_arrow}')")
        )
    return found


def opening(page: Any, url: str) -> list[float]:
    """Return how long it takes until the time lines of an episode are drawn."""
    found = []
    for _ in range(N_REPEATS):
        page.goto("about:blank")
        start = time.perf_counter()
        page.goto(f"{url}#/run/0/episode/0")
        page.locator("main.episode svg path").first.wait_for(state="attached")
        found.append(time.perf_counter() - start)
    return found


def stepping(page: Any) -> list[float]:
    """Return how long the values of the next step take."""
    title = "one.textContent.split(' time ')[0].trim()"
    heading = f"[...document.querySelectorAll('h2')].some((one) => {title} === 'Step {{}}')"
    return [timed(page, KEY, heading.format(step)) for step in range(1, 20)]


if __name__ == "__main__":
    main()
