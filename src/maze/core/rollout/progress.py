"""The progress bar of a run: episodes, steps per second, time left and the running mean return."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_REFRESHES_PER_SECOND = 8


class Progress:
    """A bar on the terminal for as long as the context lasts; it leaves no trace.

    It is drawn on standard error, so that standard output can be piped away.
    """

    def __init__(self, total: int, show: bool | None = None) -> None:
        """Make a bar that is not shown yet.

        Args:
            total: episodes to play.
            show: ``None`` shows it if standard error is a terminal.
        """
        self._total = total
        self._is_shown = _is_terminal() if show is None else show
        self._bar: RichProgress | None = None
        self._started = 0.0

    def __enter__(self) -> Progress:
        if self._is_shown:
            self._bar = _make_bar(self._total)
            self._started = time.monotonic()
            self._bar.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, n_episodes: int, n_steps: int, mean_return: float) -> None:
        """Tell how far the run is. Cheap: drawing is done elsewhere, a few times a second.

        Args:
            n_episodes: finished so far.
            n_steps: of these episodes.
            mean_return: of these episodes; NaN if there are none.
        """
        if self._bar is None:
            return
        seconds = time.monotonic() - self._started
        speed = f"{n_steps / seconds:,.0f} steps/s" if n_steps and seconds > 0 else ""
        mean = "" if math.isnan(mean_return) else f"mean return {mean_return:,.4g}"
        self._bar.update(self._bar.task_ids[0], completed=n_episodes, speed=speed, mean=mean)


def _is_terminal() -> bool:
    # Standard error is None where there is no console at all (pythonw).
    return sys.stderr is not None and sys.stderr.isatty()


class _Screen:
    """Where the bar is drawn. A run does not end because its terminal was closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _make_bar(total: int) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("episodes"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[mean]}"),
        console=Console(file=_Screen(sys.stderr), force_terminal=True),  # type: ignore[arg-type]
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=True,
        expand=True,
        # What an environment prints goes above the bar; a piped standard output is left alone.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )
    bar.add_task("", total=total, speed="", mean="")
    return bar
