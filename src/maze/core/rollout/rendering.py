"""Showing episodes while they are played: in a window, or in video files where there is none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, MissingExtraError
from maze.core.seeding import EpisodeSpec

DEFAULT_FRAMES_PER_SECOND = 30


def has_display() -> bool:
    """Return whether a window can be opened."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


@contextlib.contextmanager
def without_display() -> Iterator[None]:
    """Have graphics libraries draw into memory, unless the user said otherwise.

    They are told by environment variables, and read them when they are first used. Without,
    SDL complains on stderr and MuJoCo ends the process.
    """
    settings = {"SDL_VIDEODRIVER": "dummy", "MUJOCO_GL": "egl"}
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class VideoRecorder:
    """Writes the frames of each episode to ``episode_<index>.mp4``, one frame at a time.

    Args:
        directory: is made when the first frame comes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file: _VideoFile | None = None
        self._index = -1

    def __enter__(self) -> VideoRecorder:
        """Return itself."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        exception_traceback: TracebackType | None,
    ) -> None:
        """Finish the last file."""
        self._finish()

    def after_step(self, env: StructuredEnv, spec: EpisodeSpec, step: int) -> None:
        """Take a frame. ``step`` is 0 after the reset, which begins a new file."""
        if step == 0:
            self._finish()
            frames_per_second = (env.metadata or {}).get("render_fps") or DEFAULT_FRAMES_PER_SECOND
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / f"episode_{spec.index:06d}.mp4"
            self._file = _VideoFile(path, int(frames_per_second))
        frame: Any = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise ConfigError(
                f"render() of {env} returned {type(frame).__name__}, expected an image of shape"
                " (height, width, 3)"
            )
        assert self._file is not None
        self._file.add(frame)

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _VideoFile:
    def __init__(self, path: Path, frames_per_second: int) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError("PyAV, which writes video files,", "render") from None
        self._av: Any = av
        self._container: Any = av.open(str(path), "w")
        self._frames_per_second = frames_per_second
        self._stream: Any = None

    def add(self, frame: NDArray[Any]) -> None:
        # Encoders want an even number of pixels on each side.
        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._frames_per_second)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
        image = np.ascontiguousarray(frame[:height, :width, :3], dtype=np.uint8)
        self._write(self._av.VideoFrame.from_ndarray(image, format="rgb24"))

    def close(self) -> None:
        if self._stream is not None:
            self._write(None)
        self._container.close()

    def _write(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
