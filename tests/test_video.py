"""Filming recorded episodes after the fact: real videos, looked into with PyAV."""

import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from maze.cli import maze as maze_command
from maze.core.errors import ConfigError, OutputError
from maze.core.rollout.job import EnvRecipe
from maze.core.rollout.rendering import VideoFile, VideoRecorder, without_display
from maze.core.rollout.run_directory import RunDirectory
from maze.core.seeding import EpisodeSpec
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from tests.envs import TwoStepEnv, WalkEnv, raise_error
from tests.runs import numbered, open_run, sequential, with_config

av = pytest.importorskip("av")


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


class DrawnEnv(WalkEnv):
    """Draws the number of its steps as a row of white squares, and the seed as a colour."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, n_steps: int = 6) -> None:
        super().__init__(n_steps)
        self.render_mode = render_mode

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        image = np.full((32, 128, 3), 60 * (self.seed or 0), dtype=np.uint8)
        image[8:24, : 16 * self.count] = 255
        return image


class DrawnFaultyEnv(DrawnEnv):
    def step(self, action: Any) -> Any:
        if self.count == 2 and self.seed == 1:
            raise_error()
        return super().step(action)


class CannotDrawEnv(DrawnEnv):
    def render(self) -> Any:
        raise NotImplementedError


def record(tmp_path: Path, env: Any, **options: Any) -> RunDirectory:
    options = {"n_episodes": 4, "max_episode_steps": 50, **options}
    runner = sequential(output_dir=tmp_path / "run", **options)
    return open_run(runner.run_with(env, seeding=numbered(options["n_episodes"])))


def frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def n_squares(frame: NDArray[np.uint8]) -> int:
    """Count the white squares of a ``DrawnEnv``."""
    return int((frame[16, 8::16].min(axis=-1) > 250).sum())


def film(run: RunDirectory, *arguments: str) -> int:
    return maze_command.main(["video", str(run.path), *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("video_format", ["mp4", "gif"])
def test_each_observation_is_a_frame(video_format, tmp_path):
    run = record(tmp_path, DrawnEnv)
    assert film(run, "--episode", "2", "--format", video_format, "--trust") == 0
    assert names(run.path / "video") == [f"episode_000002.{video_format}"]
    seen = frames(run.path / "video" / f"episode_000002.{video_format}")
    assert [n_squares(frame) for frame in seen] == list(range(7))
    assert seen[0].shape == (32, 128, 3)
    assert abs(int(seen[0].mean()) - 120) < 8


@pytest.mark.parametrize("name", ["CartPole-v1", "LunarLander-v3", "FrozenLake-v1"])
def test_an_environment_that_was_recorded_without_rendering_is_filmed(name, tmp_path, capsys):
    run = record(tmp_path, name, n_episodes=2)
    assert film(run, "--episode", "0", "1") == 0
    for row in run.table:
        seen = frames(run.path / "video" / f"episode_{row.episode_index:06d}.mp4")
        assert len(seen) == row.n_steps + 1
        assert len({frame.shape for frame in seen}) == 1
        assert not np.array_equal(seen[0], seen[-1])
    assert capsys.readouterr().out.count("proven by its digest") == 2


def test_worst_and_best_are_chosen_by_return_among_those_that_did_not_fail(tmp_path, capsys):
    run = record(tmp_path, DrawnFaultyEnv)
    returns = {row.episode_index: row.episode_return for row in run.table}
    del returns[1]
    worst, middle, best = sorted(returns, key=lambda index: returns[index])
    assert film(run, "--trust") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [f"episode_00000{index}.mp4 ({why})" in line for line, index, why in zip(
        lines, (worst, best), ("worst", "best"), strict=True
    )] == [True, True]  # fmt: skip
    assert film(run, "--worst", "2", "--best", "1", "--failed", "--episode", "0", "--trust") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    why = {int(line.partition("episode_")[2][:6]): line for line in lines}
    assert "(worst" in why[middle]
    assert "(failed)" in why[1]
    assert "failed (environment after 2 steps: ValueError: the pole broke)" in why[1]
    assert "asked for" in why[0]


def test_a_failed_episode_is_filmed_up_to_its_failure(tmp_path):
    run = record(tmp_path, DrawnFaultyEnv)
    assert film(run, "--failed", "--trust") == 0
    assert [n_squares(frame) for frame in frames(run.path / "video" / "episode_000001.mp4")] == [
        0,
        1,
        2,
    ]


def test_the_rate_and_the_folder_can_be_chosen(tmp_path):
    run = record(tmp_path, DrawnEnv)
    arguments = ["--episode", "1", "--trust"]
    assert film(run, *arguments, "--output", str(tmp_path / "films")) == 0
    assert film(run, *arguments, "--output", str(tmp_path / "slow"), "--fps", "2.5") == 0
    rates = {}
    for folder in ("films", "slow"):
        with av.open(str(tmp_path / folder / "episode_000001.mp4")) as video:
            rates[folder] = float(video.streams.video[0].average_rate)
    assert rates == {"films": 10.0, "slow": 2.5}
    assert not (run.path / "video").exists()


def test_a_replay_can_be_a_gif(tmp_path):
    run = record(tmp_path, DrawnEnv)
    path = tmp_path / "mine.gif"
    arguments = ["replay", str(run.path), "--episode", "1", "--trust", "--video", str(path)]
    assert maze_command.main(arguments) == 0
    assert [n_squares(frame) for frame in frames(path)] == list(range(7))


def test_what_was_not_recorded_so_is_said_so(tmp_path, capsys):
    run = record(tmp_path, partial(DrawnEnv, n_steps=5))
    assert "functools.partial" in run.config["env"]
    run = with_config(run.path, {"env": "tests.test_video.DrawnEnv"})
    assert film(run, "--episode", "0", "--trust") == 1
    assert "it differs from the recorded episode. ending at step 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (WalkEnv, "render"),
        (TwoStepEnv, "does not say how it is made with another render mode"),
        (CannotDrawEnv, r"its render\(\) is not implemented"),
    ],
)
def test_an_environment_that_cannot_be_filmed_is_told(env, message, tmp_path, capsys):
    run = record(tmp_path, env)
    assert film(run, "--episode", "0", "--trust") == 2
    printed = capsys.readouterr().err
    assert message.replace("\\", "") in printed
    assert "Traceback" not in printed
    assert not list(run.path.glob("video/*"))


def test_a_choice_of_none_is_told(tmp_path, capsys):
    run = record(tmp_path, DrawnEnv)
    assert film(run, "--failed", "--trust") == 2
    assert "no such episode" in capsys.readouterr().err
    assert film(run, "--episode", "7", "--trust") == 2
    assert "there is no episode 7" in capsys.readouterr().err


# Render modes.


def made(source: Any, mode: str = "rgb_array") -> Any:
    return EnvRecipe(source).rendering(mode).build().render_mode


def test_whatever_makes_an_environment_gets_the_render_mode_if_it_takes_it():
    def with_mode(render_mode=None):
        return DrawnEnv(render_mode)

    path = "tests.test_video.DrawnEnv"
    for source in (DrawnEnv, with_mode, {"_target_": path}, {"_target_": DrawnEnv}):
        assert made(source) == "rgb_array"
    assert made({"_target_": path, "render_mode": None}) == "rgb_array"
    assert made(partial(DrawnEnv, render_mode="rgb_array"), "human") == "rgb_array"
    assert made(partial(GymMazeEnv, "CartPole-v1")) == "rgb_array"
    with pytest.raises(ConfigError):
        made(lambda: DrawnEnv())


def test_what_was_watched_when_it_was_recorded_is_filmed_without_a_window(tmp_path):
    env = {"_target_": DrawnEnv, "render_mode": "human"}
    run = record(tmp_path, env)
    assert film(run, "--episode", "1", "--trust") == 0
    assert len(frames(run.path / "video" / "episode_000001.mp4")) == 7


# Files.


def image(value: int, size: tuple[int, int] = (16, 16)) -> NDArray[np.uint8]:
    return np.full((*size, 3), value, dtype=np.uint8)


def test_a_video_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "film.mp4"
    video = VideoFile(path, 30)
    video.add(image(0))
    assert not path.exists()
    video.close()
    assert len(frames(path)) == 1
    assert names(path.parent) == ["film.mp4"]


def test_a_video_that_is_not_finished_leaves_nothing_and_keeps_what_was_there(tmp_path):
    (tmp_path / "episode_000003.mp4").write_text("an older film")
    env = EnvRecipe(DrawnEnv).rendering("rgb_array").build()
    env.reset(seed=1)
    recorder = VideoRecorder(tmp_path)
    for step in range(100):  # So many that some are written.
        recorder.after_step(env, EpisodeSpec(3, 1, 1), step)
    assert names(tmp_path) == ["episode_000003.mp4", "episode_000003.mp4.writing"]
    with pytest.raises(KeyboardInterrupt), recorder:
        raise KeyboardInterrupt
    assert names(tmp_path) == ["episode_000003.mp4"]
    assert (tmp_path / "episode_000003.mp4").read_text() == "an older film"
    with VideoRecorder(tmp_path) as recorder:
        recorder.after_step(env, EpisodeSpec(3, 1, 1), 0)
    assert len(frames(tmp_path / "episode_000003.mp4")) == 1


class SlowlyDrawnEnv(DrawnEnv):
    def render(self) -> Any:
        time.sleep(0.01)
        return super().render()


def test_filming_that_is_interrupted_leaves_no_half_video(tmp_path):
    run = record(tmp_path, SlowlyDrawnEnv, n_episodes=1)
    endless = {"_target_": "tests.test_video.SlowlyDrawnEnv", "n_steps": 100_000}
    runner = {**run.config["runner"], "max_episode_steps": 0}
    run = with_config(run.path, {"env": endless, "runner": runner})
    (run.path / "trajectory_data" / "steps_0.arrow").unlink()  # The policy plays on and on.
    with subprocess.Popen(
        [sys.executable, "-m", "maze.cli.maze", "video", str(run.path), "--trust"],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not list(run.path.glob("video/*.writing")):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] == "interrupted\n"
        finally:
            process.kill()
    assert process.returncode == 130
    assert names(run.path / "video") == []


def test_an_episode_without_a_frame_leaves_no_video(tmp_path):
    run = record(tmp_path, DrawsOnlySeedZeroEnv, n_episodes=2, render=True)
    assert [row.ending for row in run.table] == ["terminated", "failed"]
    assert names(run.path / "video") == ["episode_000000.mp4"]


class DrawsOnlySeedZeroEnv(DrawnEnv):
    def render(self) -> Any:
        if self.seed:
            raise RuntimeError("the graphics card is gone")
        return super().render()


def test_odd_sizes_are_filmed_but_one_size_at_a_time(tmp_path):
    video = VideoFile(tmp_path / "film.mp4", 30)
    video.add(image(0, (17, 33)))
    with pytest.raises(ConfigError, match=r"after 1 steps has shape \(16, 33, 3\)"):
        video.add(image(0, (16, 33)))
    video.close()
    assert frames(tmp_path / "film.mp4")[0].shape == (16, 32, 3)


def test_each_frame_of_a_gif_has_colours_of_its_own(tmp_path):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    video = VideoFile(tmp_path / "film.gif", 20, "gif")
    for one in images:
        video.add(one)
    video.close()
    seen = frames(tmp_path / "film.gif")
    assert len(seen) == 5
    assert all(np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(seen, images, strict=True))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the video"):
        VideoFile(tmp_path / "file" / "film.mp4", 30)


FILM_LONG = """
import resource, sys
from pathlib import Path
import numpy as np
from maze.core.rollout.rendering import VideoFile

video = VideoFile(Path(sys.argv[1]), 30, sys.argv[2])
frame = np.zeros((240, 320, 3), np.uint8)
peaks = []
for i in range(700):
    frame[:, i % 320] += 40
    video.add(frame)
    if i in (200, 699):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
video.close()
print(peaks[1] - peaks[0])
"""


@pytest.mark.parametrize("video_format", ["mp4", "gif"])
def test_memory_does_not_grow_with_the_length_of_a_video(video_format, tmp_path):
    """500 frames of 230 kB are 115 MB."""
    done = subprocess.run(
        [sys.executable, "-c", FILM_LONG, str(tmp_path / "film"), video_format],
        capture_output=True,
        text=True,
        check=True,
    )
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 50_000


def test_memory_does_not_grow_with_the_length_of_a_filmed_episode(tmp_path):
    run = record(tmp_path, partial(DrawnEnv, n_steps=2000), n_episodes=1, max_episode_steps=0)
    from maze.core.rollout.replay import replay_episode

    with without_display(), VideoRecorder(tmp_path / "video") as video:
        tracemalloc.start()
        replay = replay_episode(
            run,
            0,
            env=partial(DrawnEnv, n_steps=2000),
            trust=True,
            after_step=video.after_step,
            render_mode="rgb_array",
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert replay.is_equal
    assert peak < 6e6  # The frames are 24 MB.
    assert len(frames(tmp_path / "video" / "episode_000000.mp4")) == 2001
