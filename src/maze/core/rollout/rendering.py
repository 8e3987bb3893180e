"""Showing episodes while they are played: in a window, or in video files where there is none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, MissingExtraError, OutputError
from maze.core.seeding import EpisodeSpec

DEFAULT_FRAMES_PER_SECOND = 30

VideoFormat: TypeAlias = Literal["mp4", "gif"]

VIDEO_FORMATS: tuple[VideoFormat, ...] = get_args(VideoFormat)

# The pauses of a GIF are counted in hundredths of a second, and viewers take one for a mistake.
_MAX_GIF_FRAMES_PER_SECOND = 50


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


def video_file_name(episode_index: int, video_format: VideoFormat = "mp4") -> str:
    """Return the name of an episode's video in the output directory's folder ``video``."""
    return f"episode_{episode_index:06d}.{video_format}"


class VideoRecorder:
    """Writes the frames of each episode to ``episode_<index>.mp4``, one frame at a time.

    A file appears when its episode is over, as a whole, and takes the place of one of that name.
    What was not finished, since something else was raised, leaves none. Use it as a context
    manager.

    Args:
        directory: is made when the first frame comes.
        video_format: of the files.
        frames_per_second: ``None``: what the environment says in its metadata.
        file_name: of the only episode that is filmed, instead of one by its index.
    """

    def __init__(
        self,
        directory: Path,
        *,
        video_format: VideoFormat = "mp4",
        frames_per_second: float | None = None,
        file_name: str | None = None,
    ) -> None:
        self.directory = directory
        self._format: VideoFormat = video_format
        self._frames_per_second = frames_per_second
        self._file_name = file_name
        self._file: VideoFile | None = None
        self.n_files = 0
        """Videos begun."""

    def __enter__(self) -> VideoRecorder:
        """Return itself."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        exception_traceback: TracebackType | None,
    ) -> None:
        """Finish the last file, or drop it if its episode was not played to its end."""
        # A generator that is closed was between two episodes.
        if exception_type is None or exception_type is GeneratorExit:
            self._finish()
        elif self._file is not None:
            self._file.discard()

    def after_step_unless_shown(self, env: StructuredEnv, spec: EpisodeSpec, step: int) -> None:
        """Take a frame, unless the environment shows itself in a window."""
        if env.render_mode != "human":
            self.after_step(env, spec, step)

    def after_step(self, env: StructuredEnv, spec: EpisodeSpec, step: int) -> None:
        """Take a frame. ``step`` is 0 after the reset, which begins a new file."""
        if step == 0:
            self._finish()
            name = self._file_name or video_file_name(spec.index, self._format)
            frames_per_second = (
                self._frames_per_second
                or (env.metadata or {}).get("render_fps")
                or DEFAULT_FRAMES_PER_SECOND
            )
            self._file = VideoFile(self.directory / name, frames_per_second, self._format)
            self.n_files += 1
        try:
            frame: Any = env.render()
        except NotImplementedError as error:
            raise ConfigError(f"{env} cannot be filmed: its render() is not implemented") from error
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] < 3:
            raise ConfigError(
                f"render() of {env} returned {_describe(frame)}, expected an image of shape"
                " (height, width, 3)"
            )
        assert self._file is not None
        self._file.add(frame)

    def _finish(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class VideoFile:
    """A video that is written frame by frame, and is there as a whole or not at all.

    Args:
        path: where it appears when it is closed. Its folder is made.
        frames_per_second: of the video.
        video_format: of the file.

    Raises:
        MissingExtraError: If PyAV is not installed.
        OutputError: If it cannot be written.
    """

    def __init__(
        self, path: Path, frames_per_second: float, video_format: VideoFormat = "mp4"
    ) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError("PyAV, which writes video files,", "render") from None
        self.path = path
        self._av: Any = av
        self._format = video_format
        rate = Fraction(frames_per_second).limit_denominator(1000)
        limit = Fraction(_MAX_GIF_FRAMES_PER_SECOND)
        self._rate = min(rate, limit) if video_format == "gif" else rate
        self._temporary = path.with_name(path.name + ".writing")
        self._shape: tuple[int, ...] = ()
        self._n_frames = 0
        self._stream: Any = None
        self._graph: Any = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container: Any = av.open(str(self._temporary), "w", format=video_format)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def add(self, frame: NDArray[Any]) -> None:
        """Append an image of shape (height, width, 3 or more), with values from 0 to 255.

        Raises:
            ConfigError: If it has another size than the first one.
            OutputError: If it cannot be written.
        """
        if self._stream is None:
            self._shape = frame.shape
            # Encoders want an even number of pixels on each side.
            self._begin(frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2)
        elif frame.shape != self._shape:
            raise ConfigError(
                f"the image after {self._n_frames} steps has shape {frame.shape}, those before it"
                f" {self._shape}: a video has images of one size"
            )
        height, width = self._stream.height, self._stream.width
        image = np.ascontiguousarray(frame[:height, :width, :3], dtype=np.uint8)
        encoded = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        encoded.pts, encoded.time_base = self._n_frames, 1 / self._rate
        self._n_frames += 1
        self._encode(encoded)

    def close(self) -> None:
        """Finish the file and let it appear. Without a frame there is none.

        Raises:
            OutputError: If it cannot be written.
        """
        if self._stream is None:
            self.discard()
            return
        try:
            self._encode(None)
            self._container.close()
            os.replace(self._temporary, self.path)
        except OSError as error:
            self.discard()
            raise _cannot_write(self.path, error) from error

    def discard(self) -> None:
        """Leave no file."""
        with contextlib.suppress(OSError):
            self._container.close()
        self._temporary.unlink(missing_ok=True)

    def _begin(self, height: int, width: int) -> None:
        codec, pixels = ("gif", "pal8") if self._format == "gif" else ("libx264", "yuv420p")
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = pixels
        if self._format == "gif":
            self._graph = _palettes(self._av, height, width, 1 / self._rate)

    def _encode(self, frame: Any) -> None:
        """Write a frame, or what is left after the last one (``None``)."""
        try:
            if self._graph is None:
                self._mux(frame)
                return
            self._graph.push(frame)
            with contextlib.suppress(self._av.error.BlockingIOError, self._av.error.EOFError):
                while True:
                    self._mux(self._graph.pull())
            if frame is None:
                self._mux(None)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def _palettes(av: Any, height: int, width: int, time_base: Fraction) -> Any:
    """Return a filter that gives each image its 256 colours, without waiting for later ones."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=time_base)
    split, sink = graph.add("split"), graph.add("buffersink")
    palette = graph.add("palettegen", "stats_mode=single")
    use = graph.add("paletteuse", "new=1")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write the video {path}: {error.strerror or error}")


def _describe(frame: Any) -> str:
    if isinstance(frame, np.ndarray):
        return f"an array of shape {frame.shape}"
    return "nothing" if frame is None else f"a {type(frame).__name__}"
