"""A process that draws the frames of recorded episodes, for ``maze.viewer.frames``.

An environment that hangs or crashes while it is drawn takes this process along and not the page.
Requests come as lines of JSON on stdin, what was done is told as such on stdout, and the images
are files. An episode is played on as far as it is asked for; a request for an earlier step begins
it again. When there is nothing else to do, it is played to its end, so that its digest can be
compared, and the frames of a short one are drawn in advance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, MazeError
from maze.core.rollout.rendering import has_display, video_file_name, without_display
from maze.core.rollout.replay import recorded_row, refusal, replay_episode
from maze.core.rollout.run_directory import RunDirectory
from maze.core.seeding import EpisodeSpec

N_AHEAD = 90
"""Frames that are drawn beyond the one that was asked for."""
N_STEPS_DRAWN_WHOLE = 3000
"""Episodes up to that length are drawn to the end when there is time."""


@dataclass(frozen=True)
class _Request:
    episode: int
    step: int

    @property
    def last(self) -> int:
        return self.step + N_AHEAD


class _Redirected(ConfigError):
    """Ends a play, since another frame is wanted. Errors of this kind are passed on as such."""

    def __init__(self, request: _Request | None) -> None:
        super().__init__("another frame is wanted")
        self.request = request


class FrameWorker:
    """Plays and draws.

    Args:
        run: the output directory.
        folder: where the images go, as ``<episode>/<step>.png``.
        trust: whether to import what the config names.
        told: gets lines of JSON.
    """

    def __init__(self, run: Path, folder: Path, trust: bool, told: IO[str]) -> None:
        self._run, self._folder, self._trust, self._told = run, folder, trust, told
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._settled: set[int] = set()
        """Episodes of which it was told whether they are as recorded."""

    def serve(self, lines: IO[str]) -> None:
        """Answer requests until there are no more."""
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        request = self._requests.get()
        while request is not None:
            request = self._answer(request)

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._requests.put(_Request(**json.loads(line)))
        self._requests.put(None)
        # Whoever asked is gone; an environment that hangs would never notice.
        threading.Timer(2.0, os._exit, (0,)).start()

    def _answer(self, request: _Request) -> _Request | None:
        episode = request.episode
        try:
            directory = RunDirectory(self._run)
            video = self._run / "video" / video_file_name(episode)
            if video.exists():
                self._tell(source="video", episode=episode)
                self._decode(video, request)
                self._tell(verdict="", episode=episode)
            else:
                self._tell(source="replay", episode=episode)
                self._replay(directory, request)
        except _Redirected as redirected:
            return redirected.request
        except MazeError as error:
            self._tell(error=str(error), episode=episode)
        except Exception as error:
            self._tell(error=f"{type(error).__name__}: {error}", episode=episode)
        return self._requests.get()

    def _replay(self, directory: RunDirectory, request: _Request) -> None:
        row = recorded_row(directory, request.episode)
        if reason := refusal(row):
            raise ConfigError(f"it is not played again: {reason}")
        is_short = row.n_steps <= N_STEPS_DRAWN_WHOLE
        while True:
            play = _Play(self, request, is_short)
            replay = replay_episode(
                directory,
                request.episode,
                trust=self._trust,
                after_step=play.after_step,
                render_mode="rgb_array",
            )
            difference = replay.first_difference
            if request.episode not in self._settled:
                self._settled.add(request.episode)
                self._tell(
                    episode=request.episode,
                    verdict=replay.explanation,
                    is_equal=replay.is_equal,
                    differs_at=None if difference is None else difference.step,
                )
            self._tell(episode=request.episode, last_step=play.last_step)
            if not is_short or not play.skipped:
                return
            request = _Request(request.episode, 0)  # There is time for those left out.

    def _decode(self, video: Path, request: _Request) -> None:
        try:
            import av
        except ImportError:
            raise ConfigError("PyAV, which reads video files, is not installed") from None
        with av.open(str(video)) as container:
            step = -1
            for step, frame in enumerate(container.decode(video=0)):
                self.draw(request.episode, step, frame.to_ndarray(format="rgb24"))
        self._tell(episode=request.episode, last_step=step)

    def next_request(self, wait: bool) -> tuple[bool, _Request | None]:
        """Return whether there is a request, and which; ``None`` if there will be none."""
        try:
            return True, self._requests.get(block=wait)
        except queue.Empty:
            return False, None

    def is_settled(self, episode: int) -> bool:
        """Return whether it is known if the episode is as recorded."""
        return episode in self._settled

    def has(self, episode: int, step: int) -> bool:
        """Return whether a frame is there."""
        return frame_path(self._folder, episode, step).exists()

    def draw(self, episode: int, step: int, frame: NDArray[Any]) -> None:
        """Write a frame, as a whole or not at all, and tell it."""
        from PIL import Image

        path = frame_path(self._folder, episode, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".writing")
        pixels = np.ascontiguousarray(frame[:, :, :3], dtype=np.uint8)
        Image.fromarray(pixels).save(temporary, "PNG", compress_level=1)
        n_bytes = temporary.stat().st_size
        os.replace(temporary, path)
        self._tell(frame=step, episode=episode, n_bytes=n_bytes)

    def _tell(self, **fields: Any) -> None:
        self._told.write(json.dumps(fields) + "\n")
        self._told.flush()


class _Play:
    """One play of an episode: which of its frames are drawn, and when it waits."""

    def __init__(self, worker: FrameWorker, request: _Request, is_short: bool) -> None:
        self._worker = worker
        self.request = request
        self._is_short = is_short
        self.last_step = 0
        self.skipped = False
        """Whether frames were left out because a later one was asked for."""

    def after_step(self, env: StructuredEnv, spec: EpisodeSpec, step: int) -> None:
        """Draw the frame if it is wanted."""
        self.last_step = step
        worker, episode = self._worker, self.request.episode
        # All the rest can wait, once it is known that this is the recorded episode.
        is_done = not self._is_short and step > self.request.last and worker.is_settled(episode)
        is_new, request = worker.next_request(wait=is_done)
        while is_new:
            if request is None or request.episode != episode or request.step < step:
                raise _Redirected(request)
            self.request = request
            is_done = not self._is_short and step > request.last and worker.is_settled(episode)
            is_new, request = worker.next_request(wait=is_done)
        is_wanted = self._is_short or step <= self.request.last
        if step < self.request.step:
            self.skipped = True
        elif is_wanted and not worker.has(episode, step):
            worker.draw(episode, step, _frame_of(env))


def _frame_of(env: StructuredEnv) -> NDArray[Any]:
    try:
        frame: Any = env.render()
    except NotImplementedError:
        frame = None
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] < 3:
        what = "nothing" if frame is None else f"a {type(frame).__name__}"
        raise ConfigError(f"{env} draws no image: its render() returned {what}")
    return frame


def frame_path(folder: Path, episode: int, step: int) -> Path:
    """Return where a frame is."""
    return folder / str(episode) / f"{step}.png"


@contextlib.contextmanager
def _own_stdout() -> Iterator[IO[str]]:
    """Yield a stream to stdout of which environments know nothing: they print to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as told:
        os.dup2(2, 1)
        yield told


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trust", action="store_true")
    arguments = parser.parse_args()
    if arguments.trust:
        sys.path.append(os.getcwd())
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(_own_stdout())
        if not has_display():
            stack.enter_context(without_display())
        worker = FrameWorker(arguments.run, arguments.folder, arguments.trust, told)
        with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
            worker.serve(sys.stdin)


if __name__ == "__main__":
    main()
