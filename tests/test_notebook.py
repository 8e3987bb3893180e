"""The viewer in a notebook."""

import re

import numpy as np
import pytest

import maze
from maze.core.errors import ConfigError, OutputError
from maze.viewer.widgets import event_statistics
from tests.runs import numbered, sequential

EVENTS = {"_target_": "tests.viewer_envs.HostileEventsEnv"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    directory = tmp_path_factory.mktemp("notebook") / "run"
    return sequential(n_episodes=4, output_dir=directory).run_with(
        "CartPole-v1", None, seeding=numbered(4)
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("notebook") / "chain"
    env = {"_target_": "maze_envs.logistics.supply_chain.env.supply_chain_env"}
    return maze.rollout(env, n_episodes=3, seed=1, output_dir=directory)


def test_a_result_is_shown_in_a_frame_that_reaches_nothing(result):
    shown = maze.view(result, episodes=[2], height=500)._repr_html_()
    frame = re.fullmatch(r"<iframe (.*?) srcdoc=\"([^\"<>]*)\"></iframe>", shown, re.S)
    assert frame is not None
    assert 'sandbox="allow-scripts"' in frame[1]
    assert "height: 500px" in frame[1]


def test_results_directories_and_opened_runs_are_shown_alike(result):
    shown = {
        maze.view(run, with_frames=False).html
        for run in (result, result.output_directory, maze.load(result.output_directory))
    }
    assert len(shown) == 1


def test_a_view_tells_what_it_is_and_can_be_written(result, tmp_path):
    report = maze.view(result, result, episodes=[0], with_frames=False)
    assert re.match(r"<Report of 2 runs with 2 episodes to look at, 0\.\d MB", repr(report))
    report.write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == report.html


def test_a_view_keeps_to_its_size(result):
    whole = maze.view(result, episodes=[0])
    numbers_only = maze.view(result, episodes=[0], with_frames=False)
    limit = (whole.n_bytes + numbers_only.n_bytes) / 2 / 1e6
    limited = maze.view(result, episodes=[0], max_mb=limit)
    assert numbers_only.n_bytes < limited.n_bytes <= limit * 1e6
    with pytest.raises(ConfigError, match="without any frame"):
        maze.view(result, max_mb=0.01)


def test_what_was_not_recorded_cannot_be_viewed():
    with pytest.raises(ConfigError, match="output_dir="):
        maze.view(maze.rollout("CartPole-v1", n_episodes=1))
    with pytest.raises(ConfigError, match="nothing to look at"):
        maze.view()


# One episode.


@pytest.fixture
def widget(result):
    widget = maze.view_episode(result, 1)
    yield widget
    widget.close()


def test_the_slider_goes_from_the_first_to_the_last_position(widget, result):
    n_steps = result.episodes.row(1).n_steps
    assert (widget.slider.min, widget.slider.max) == (0, n_steps)
    assert (widget.play.min, widget.play.max) == (0, n_steps)


def test_each_step_has_its_frame_and_its_values(widget, result):
    trajectory = maze.load(result.output_directory).trajectory(1)
    images = []
    for step in (0, 3, widget.slider.max):
        widget.slider.value = step
        images.append(bytes(widget.image.value))
        assert f"{trajectory.observations[step][0]}"[:7] in widget.values.value
    assert all(image.startswith(b"\x89PNG") for image in images)
    assert len(set(images)) == 3
    assert "over" in widget.values.value
    assert "digest" in widget.status.value


def test_where_there_is_no_frame_the_widget_says_why(chain):
    widget = maze.view_episode(chain, 0)
    widget.close()  # What draws is gone; what was recorded is there.
    widget.slider.value = 1
    assert widget.image.value == b""
    assert "No frame: the viewer was closed" in widget.status.value
    assert "<table>" in widget.values.value


def test_nothing_from_a_run_is_taken_for_markup(tmp_path):
    maze.rollout(EVENTS, n_episodes=1, seed=1, output_dir=tmp_path / "run")
    widget = maze.view_episode(tmp_path / "run", 0)
    for step in range(widget.slider.max + 1):
        widget.slider.value = step
        assert "<script" not in widget.values.value
    widget.close()
    for event_type in maze.load(tmp_path / "run").event_types:
        assert "<script" not in maze.view_events(tmp_path / "run", event_type).table.value


def test_an_episode_that_is_not_there_is_refused(result):
    with pytest.raises(OutputError, match="99"):
        maze.view_episode(result, 99)


# Events.


def test_statistics_of_events_are_those_of_each_group(chain):
    events = maze.load(chain.output_directory).events("Ordered")
    by_stage = event_statistics(events, "units", "stage")
    for stage, row in by_stage.iterrows():
        units = events[events["stage"] == stage]["units"].to_numpy()
        assert row["count"] == len(units)
        assert row["mean"] == pytest.approx(units.mean())
        assert row["std"] == pytest.approx(units.std(ddof=1))
        assert (row["min"], row["median"], row["max"]) == (
            units.min(),
            np.median(units),
            units.max(),
        )
    whole = event_statistics(events, "units")
    assert whole["count"].sum() == by_stage["count"].sum() == len(events)


def test_every_event_type_attribute_and_grouping_has_a_picture_and_a_table(chain):
    widget = maze.view_events(chain)
    seen = set()
    for event_type in widget.event_type.options:
        widget.event_type.value = event_type
        for attribute in widget.attribute.options:
            widget.attribute.value = attribute
            for _, by in widget.by.options:
                widget.by.value = by
                assert bytes(widget.picture.value).startswith(b"\x89PNG")
                assert "<table" in widget.table.value
                seen.add((event_type, attribute, by, bytes(widget.picture.value)))
    assert len({picture for *_, picture in seen}) > len(seen) / 2


def test_events_that_were_not_logged_are_refused(chain, result, tmp_path):
    with pytest.raises(OutputError, match="Did you mean 'Ordered'"):
        maze.view_events(chain, "Orderd")
    sequential(n_episodes=1, output_dir=tmp_path / "run", record_event_logs=False).run_with(
        "CartPole-v1"
    )
    with pytest.raises(OutputError, match="no events were logged"):
        maze.view_events(tmp_path / "run")
