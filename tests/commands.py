"""The commands as users start them: processes that are watched, sent signals, and cleaned up."""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

import maze
from maze.core.episode import EpisodeRow

REPOSITORY = Path(__file__).parents[1]
MAZE_RUN = (sys.executable, "-m", "maze.cli.maze_run")
MAZE = (sys.executable, "-m", "maze.cli.maze")

RUNNER_OPTIONS = {
    "sequential": ["runner=sequential"],
    "parallel": ["runner.n_processes=2"],
    "lanes": ["runner.n_processes=2", "runner.n_lanes=4"],
}


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], has_begun: Callable[[psutil.Popen], bool], **options: Any
) -> Iterator[psutil.Popen]:
    """Start a command, wait until it is where it should be, and clean up in the end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = psutil.Popen([*command], **options)
    try:
        wait_for(lambda: process.poll() is not None or has_begun(process))
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        for one in [*processes_below(process), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


@contextlib.contextmanager
def maze_run(
    directory: Path, *options: str, has_begun: Callable[[psutil.Popen], bool] | None = None
) -> Iterator[psutil.Popen]:
    """Start a run that would take minutes, and wait until it has recorded episodes."""
    with started(
        [*long_run(directory), *options],
        has_begun or (lambda _: has_episodes(directory)),
        cwd=REPOSITORY,
    ) as process:
        yield process


def long_run(directory: Path) -> list[str]:
    options = ["env=gym_env", "runner.n_episodes=1000000"]
    return [*MAZE_RUN, f"hydra.run.dir={directory}", *options]


def has_lines(path: Path, n: int) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") >= n


def has_episodes(directory: Path) -> bool:
    """Return whether the journal lists any, or a part of one."""
    path = directory / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kinds = (b'"kind": "episodes"', b'"kind": "part"')
    return any(kind in line[:80] for line in lines for kind in kinds if line.endswith(b"\n"))


def processes_below(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def assert_none_stays(processes: Sequence[psutil.Process]) -> None:
    wait_for(lambda: not any(map(is_running, processes)), seconds=5)


def send(signal_number: int, processes: Sequence[psutil.Process]) -> None:
    """Send a signal to all of them, as a terminal does to all below it."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)


def assert_journal_and_trajectories_agree(directory: Path) -> list[EpisodeRow]:
    """Whatever the journal lists is there, whole."""
    run = maze.load(directory)
    rows = list(run.table)
    assert rows
    by_index = {trajectory.episode_index: trajectory for trajectory in run}
    for row in rows:
        trajectory = by_index[row.episode_index]
        assert len(trajectory) == row.n_steps
        assert trajectory.rewards.sum() == row.episode_return
    return rows


class Terminal:
    """A terminal, of which a command is in the foreground."""

    _CONTROLLED = (
        "import fcntl, os, sys, termios;"
        " fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " os.execv(sys.executable, sys.argv[1:])"
    )

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        self._shown = bytearray()
        self._is_closing = threading.Event()
        self._reader = threading.Thread(target=self._read)

    @contextlib.contextmanager
    def running(
        self, command: Sequence[str], has_begun: Callable[[psutil.Popen], bool]
    ) -> Iterator[psutil.Popen]:
        """Start a command of Python in it."""
        self._reader.start()
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        python = [sys.executable, "-c", self._CONTROLLED]
        options: dict[str, Any] = {**ends, "start_new_session": True, "cwd": REPOSITORY}
        try:
            with started([*python, *command], has_begun, **options) as process:
                yield process
        finally:
            self.close()

    @property
    def shown(self) -> str:
        """All that was shown until now."""
        return self._shown.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        """Close the window."""
        if not self._is_closing.is_set():
            self._is_closing.set()
            self._reader.join()
            os.close(self._theirs)
            os.close(self._ours)

    def _read(self) -> None:
        # Nobody may be reading when it is closed, since it would stay open then.
        while not self._is_closing.is_set():
            if select.select([self._ours], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):  # Nobody has it open on the other side.
                    self._shown += os.read(self._ours, 65536)
