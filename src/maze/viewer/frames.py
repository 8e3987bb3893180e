"""Frames of recorded episodes: from stored videos, or drawn while an episode is played again.

They are files in a temporary folder of a bounded size, which is removed in the end. A process of
its own draws them (``maze.viewer.frame_worker``).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maze.core.errors import MazeError, MissingExtraError
from maze.viewer.frame_worker import N_AHEAD, frame_path

_LARGEST_CACHE = 2**29
"""Bytes."""
_PATIENCE = 30.0
"""Seconds that may pass without the process getting any further."""


class FrameError(MazeError):
    """A frame that cannot be had; says why."""


@dataclass
class FrameStatus:
    """Where the frames of an episode come from."""

    source: str = ""
    """``replay`` or ``video``; empty before the first one."""
    verdict: str = ""
    """What the replay showed, as a sentence; empty before it came to its end."""
    is_equal: bool | None = None
    """Whether it is the recorded episode; ``None`` as long as it is not known."""
    differs_at: int | None = None
    """The first sub-step that differs."""
    last_step: int | None = None
    """The last one that has a frame; ``None`` as long as it is not known."""
    error: str = ""
    """Why there is none."""


class Frames:
    """The frames of a run. Methods may be called from several threads.

    Args:
        run: the output directory.
        trust: whether to import what the config of the run names.
    """

    def __init__(self, run: Path, *, trust: bool = False) -> None:
        self._run, self._trust = run, trust
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self._status: dict[int, FrameStatus] = {}
        self._asked: tuple[int, int, int] | None = None
        """Episode, and the first and last step of what the process is about to draw."""
        self._written: deque[tuple[int, int, int]] = deque()
        """Episode, step and bytes, oldest first."""
        self._n_bytes = 0
        self._n_messages = 0
        self._is_closed = False

    def __enter__(self) -> Frames:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process and remove the files."""
        self.close()

    def status(self, episode: int) -> FrameStatus:
        """Return what is known by now."""
        with self._changed:
            return self._status.get(episode, FrameStatus())

    def verdict(self, episode: int, timeout: float) -> FrameStatus:
        """Return what is known, if need be after some seconds: a replay tells at its very end."""

        def is_known() -> bool:
            status = self._status.get(episode, FrameStatus())
            return bool(status.verdict or status.error or status.source == "video")

        with self._changed:
            self._changed.wait_for(is_known, timeout)
            return self._status.get(episode, FrameStatus())

    def get(self, episode: int, step: int) -> Path:
        """Return the file of a frame, a PNG; waits until it is there.

        Args:
            episode: index of it.
            step: how many sub-steps had been done when it was taken.

        Raises:
            FrameError: If it cannot be had.
        """
        with self._changed:
            path = self._path(episode, step)
            deadline = time.monotonic() + _PATIENCE
            n_messages = self._n_messages
            while not path.exists():
                status = self._status.get(episode, FrameStatus())
                if status.error:
                    raise FrameError(status.error)
                if status.last_step is not None and step > status.last_step:
                    raise FrameError(f"there is no frame of step {step}: the episode ends before")
                if self._is_closed:
                    raise FrameError("the viewer was closed")
                self._ask(episode, step)
                self._changed.wait(timeout=1.0)
                if n_messages != self._n_messages:
                    n_messages = self._n_messages
                    deadline = time.monotonic() + _PATIENCE
                if time.monotonic() > deadline:
                    self._stop()
                    self._status[episode] = FrameStatus(
                        error=f"no frame came for {_PATIENCE:.0f} s: the environment hangs"
                    )
            return path

    def start(self) -> None:
        """Start the process, which takes a moment, before a frame is needed."""
        with self._changed:
            self._running()

    def close(self) -> None:
        """End the process and remove the files."""
        with self._changed:
            self._is_closed = True
            self._stop()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
            self._changed.notify_all()

    def _path(self, episode: int, step: int) -> Path:
        if self._folder is None and not self._is_closed:
            self._folder = tempfile.TemporaryDirectory(
                prefix="maze_frames_", ignore_cleanup_errors=True
            )
        return frame_path(Path(self._folder.name if self._folder else ""), episode, step)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        try:
            import PIL.Image  # noqa: F401
        except ImportError:
            raise MissingExtraError("Pillow, which writes images,", "viewer") from None
        self._path(0, 0)
        assert self._folder is not None
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "maze.viewer.frame_worker"),
                *(str(self._run), self._folder.name),
                *(["--trust"] if self._trust else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the server, which ends it.
        )
        self._asked = None
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _ask(self, episode: int, step: int) -> None:
        asked = self._asked
        process = self._running()
        if asked is not None and self._asked is not None:
            asked_episode, first, last = asked
            if asked_episode == episode and first <= step <= last:
                return
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # It died: whoever listens to it says so.
            process.stdin.write(json.dumps({"episode": episode, "step": step}) + "\n")
            process.stdin.flush()
        self._asked = episode, step, step + N_AHEAD

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._changed:
                self._note(json.loads(line))
                self._n_messages += 1
                self._changed.notify_all()
        code = process.wait()
        with self._changed:
            if self._process is process:
                self._process = None
                if self._asked is not None:
                    self._status[self._asked[0]] = FrameStatus(
                        error="the process that drew it ended unexpectedly"
                        f" ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
                    )
                self._asked = None
            self._changed.notify_all()

    def _note(self, message: dict[str, Any]) -> None:
        episode = int(message["episode"])
        status = self._status.setdefault(episode, FrameStatus())
        if "frame" in message:
            self._written.append((episode, int(message["frame"]), int(message["n_bytes"])))
            self._n_bytes += int(message["n_bytes"])
            while self._n_bytes > _LARGEST_CACHE:
                old_episode, old_step, n_bytes = self._written.popleft()
                self._path(old_episode, old_step).unlink(missing_ok=True)
                self._n_bytes -= n_bytes
        elif "last_step" in message:
            status.last_step = int(message["last_step"])
        elif "source" in message:
            status.source = str(message["source"])
        elif "verdict" in message:
            status.verdict = str(message["verdict"])
            status.is_equal = message.get("is_equal")
            status.differs_at = message.get("differs_at")
        elif "error" in message:
            status.error = str(message["error"])

    def _stop(self) -> None:
        process, self._process = self._process, None
        self._asked = None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
