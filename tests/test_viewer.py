"""The viewer without a browser: its data, its frames, its server, and reports."""

import itertools
import json
import re
import signal
import urllib.request

import gymnasium as gym
import numpy as np
import psutil
import pyarrow as pa
import pytest

import maze
from maze.cli import maze as command
from maze.core.errors import ConfigError, OutputError
from maze.core.ledger.event_logs import EventLogs
from maze.core.seeding import Seeding
from maze.core.trajectory.trajectory import StepsStream
from maze.viewer.compare import compare_runs, first_divergence
from maze.viewer.episodes import is_image
from maze.viewer.export import make_report
from maze.viewer.frames import FrameError, Frames
from maze.viewer.runs import ViewedRun
from maze.viewer.server import Server, Viewer, application
from tests.commands import MAZE, started, wait_for
from tests.runs import numbered, sequential, with_config

starlette_testclient = pytest.importorskip("starlette.testclient")

DRAWN = {"_target_": "tests.viewer_envs.DrawnWalkEnv"}


def played(directory, env, n_episodes=6, policy=None, seeding=None, **options):
    sequential(n_episodes=n_episodes, output_dir=directory, **options).run_with(
        env, policy, seeding=seeding or numbered(n_episodes)
    )
    return directory


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return played(tmp_path_factory.mktemp("viewer") / "drawn", DRAWN)


@pytest.fixture(scope="module")
def structured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("viewer") / "structured"
    return played(directory, {"_target_": "tests.viewer_envs.HostileEventsEnv"}, 3)


def returns_of(directory):
    return np.asarray(maze.load(directory).table["return"])


# A run.


def test_the_summary_says_what_was_run_and_what_came_out(drawn):
    summary = ViewedRun(drawn).summary()
    assert summary["endings"] == {"terminated": 5, "truncated": 0, "failed": 1}
    assert summary["n_episodes"] == summary["n_requested"] == 6
    assert not summary["is_live"]
    mean = {row["name"]: row["mean"] for row in summary["statistics"]}
    returns = maze.load(drawn).table["return"]
    assert mean["return"] == pytest.approx(np.mean([returns[i] for i in (0, 1, 2, 4, 5)]))
    assert (
        summary["replay_command"]
        == f"maze replay {drawn} --episode {{episode_index}} --pdb --trust"
    )
    assert "_target_" in summary["config"]
    json.dumps(summary, allow_nan=False)


def test_columns_hold_every_episode_and_words_are_said_once(drawn):
    columns = ViewedRun(drawn).columns(["return", "ending", "env_seed"])
    assert columns["n"] == 6
    found = columns["columns"]
    assert found["return"]["numbers"] == returns_of(drawn).tolist()
    ending = found["ending"]
    assert [ending["words"][code] for code in ending["codes"]].count("failed") == 1
    assert len(ending["words"]) == 2
    with pytest.raises(OutputError, match="no column 'nix'"):
        ViewedRun(drawn).columns(["nix"])


def test_integers_that_a_browser_would_round_are_sent_as_text(tmp_path):
    directory = played(tmp_path / "run", "CartPole-v1", 1, seeding=Seeding(2**62 + 1, 2))
    seeding = ViewedRun(directory).summary()["seeding"]
    assert (seeding["env_base_seed"], seeding["agent_base_seed"]) == (str(2**62 + 1), 2)


def test_a_run_that_goes_on_is_shown_as_it_grows(tmp_path):
    with started(
        [*MAZE[:2], "maze.cli.maze_run", "env=gym_env", "runner=sequential",
         "runner.n_episodes=1000000", f"hydra.run.dir={tmp_path / 'run'}"],
        lambda _: (tmp_path / "run" / "episodes.parquet").exists()
        or (tmp_path / "run" / "journal.jsonl").exists(),
    ) as process:  # fmt: skip
        run = ViewedRun(tmp_path / "run")

        def grows():
            run.refresh()
            return run.summary()["n_episodes"] > 0

        wait_for(grows)
        before = run.version
        assert run.summary()["is_live"]
        assert run.summary()["n_requested"] == 1_000_000

        def has_more():
            run.refresh()
            return run.version > before

        wait_for(has_more)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        run.refresh()
        summary = run.summary()
        assert not summary["is_live"]
        assert summary["interrupted"]
        assert summary["resume_command"].startswith("maze resume ")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such directory"),
        (lambda path: path.mkdir(), "holds no run of Maze"),
        (lambda path: played(path / "inner", "CartPole-v1", 1), "is no run, but holds 1"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, make, said):
    make(tmp_path / "run")
    with pytest.raises(OutputError, match=said):
        ViewedRun(tmp_path / "run")


# An episode.


def test_time_lines_hold_what_was_recorded(drawn):
    view = ViewedRun(drawn).episode(1)
    trajectory = maze.load(drawn).trajectory(1)
    lines = view.overview(["reward", "return so far", "observation[0]", "action"], 0, 41, 1000)
    assert lines["reward"]["y"] == trajectory.rewards.tolist()
    assert lines["return so far"]["y"][-1] == pytest.approx(trajectory.rewards.sum())
    assert lines["observation[0]"]["y"] == pytest.approx(trajectory.observations[:, 0].tolist())
    assert lines["action"]["x"] == list(range(40))


def test_thinned_lines_keep_every_peak(tmp_path):
    env = {"_target_": "tests.viewer_envs.DrawnWalkEnv", "n_steps": 5000}
    view = ViewedRun(played(tmp_path / "run", env, 1, max_episode_steps=0)).episode(0)
    rewards = maze.load(tmp_path / "run").trajectory(0).rewards
    line = view.overview(["reward"], 0, 5001, 100)["reward"]
    assert len(line["x"]) <= 101
    assert max(line["high"]) == rewards.max()
    assert min(line["low"]) == rewards.min()
    part = view.overview(["reward"], 1000, 1050, 100)["reward"]
    assert part["x"][1:-1] == list(range(1000, 1050))


def test_steps_hold_values_of_the_actor_whose_turn_it_was(structured):
    view = ViewedRun(structured).episode(2)
    description = view.description()
    assert (description["n_env_steps"], description["n_steps"]) == (3, 6)
    assert description["is_structured"]
    steps = view.steps(0, 100)
    assert [step["actor"] for step in steps] == [*["select/0", "place/0"] * 3, "select/0"]
    assert [step["time"] for step in steps] == [0, 0, 1, 1, 2, 2, 3]
    assert steps[-1]["action"] == {}
    assert steps[-1]["reward"] is None
    assert set(steps[1]["observation"]) == {"observation.size", "observation.piece"}
    assert view.actors(0, 3, 100) == [[0, 1, "select/0"], [1, 2, "place/0"], [2, 3, "select/0"]]
    # With fewer points than steps, there are no gaps: several share a stretch.
    assert view.actors(0, 6, 4) == [[0, 6, ""]]
    assert view.actors(1, 2, 4) == [[1, 2, "place/0"]]


def test_events_stand_at_the_last_sub_step_of_their_time(structured):
    view = ViewedRun(structured).episode(0)
    marks = view.overview(["Placed", "Said"], 0, 7, 1000)
    assert marks["Placed"] == {"marks": [1, 3, 5], "counts": [1, 1, 1]}
    assert marks["Said"] == {"marks": [1, 3, 5], "counts": [2, 2, 2]}
    assert any("<script>alert(1)</script> & \t" in text for text in view.steps(1, 2)[0]["events"])


def test_a_failed_episode_has_its_steps_and_its_traceback(drawn):
    view = ViewedRun(drawn).episode(3)
    description = view.description()
    assert description["failure"]["place"] == "step"
    assert description["failure"]["step"] == 4
    assert "alert(1)" in description["failure"]["traceback"]
    assert len(view.steps(0, 100)) == 5
    assert view.steps(4, 5)[0]["action"]  # On which it broke.


def test_an_episode_without_a_trajectory_says_so(tmp_path):
    directory = played(tmp_path / "run", "CartPole-v1", 1, record_trajectory=False)
    description = ViewedRun(directory).episode(0).description()
    assert not description["has_data"]
    assert description["n_positions"] == description["n_env_steps"] + 1
    with pytest.raises(OutputError, match="no episode 5"):
        ViewedRun(directory).episode(5)


def test_a_damaged_episode_is_named_and_the_others_are_shown(tmp_path):
    directory = played(tmp_path / "run", DRAWN, 2)
    (path,) = (directory / "trajectory_data").glob("*.arrow")
    data = bytearray(path.read_bytes())
    data[-600] ^= 255
    path.write_bytes(bytes(data))
    problems = [ViewedRun(directory).episode(i).description() for i in range(2)]
    assert any(one["problems"] for one in problems)
    assert "damaged" in str([one["problems"] for one in problems])


def test_images_that_were_observed_are_shown(tmp_path):
    pytest.importorskip("Box2D")
    directory = played(tmp_path / "run", "CarRacing-v3", 1, max_episode_steps=3)
    view = ViewedRun(directory).episode(0)
    assert view.description()["images"] == [{"name": "observation", "step_key": "0"}]
    recorded = maze.load(directory).trajectory(0).observations
    for step in (2, 0):
        image = view.image("observation", step)
        assert image is not None
        assert np.array_equal(image, recorded[step])
    shown = view.steps(0, 1)[0]["observation"]["observation"]
    assert shown["shape"] == [96, 96, 3]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (gym.spaces.Box(0, 255, (84, 84, 4), np.uint8), True),
        (gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), True),
        (gym.spaces.Box(0, 1, (84, 84), np.float32), True),
        (gym.spaces.Box(0, 255, (128,), np.uint8), False),  # an Atari's memory
        (gym.spaces.Box(-1, 1, (84, 84), np.float32), False),
        (gym.spaces.Box(0, 255, (8, 8), np.uint8), False),  # a board
    ],
)
def test_images_are_told_from_other_arrays(space, expected):
    from maze.core.trajectory.columns import leaves

    (leaf,) = leaves(gym.spaces.Dict({"observation": space}), "observation")
    assert is_image(leaf) is expected


def test_what_a_network_thought_has_time_lines(tmp_path):
    pytest.importorskip("torch")
    from maze.train.trained_policy import TrainedPolicy
    from maze.train.trainers.a2c import A2C
    from maze.train.training_runner import TrainingRunner

    training = tmp_path / "training"
    TrainingRunner(show_progress=False).run_with(
        "CartPole-v1", A2C(), options={"n_steps": 100}, output_dir=training
    )
    policy = TrainedPolicy(training, record_decisions=True)
    view = ViewedRun(played(tmp_path / "run", "CartPole-v1", 1, policy)).episode(0)
    lines = view.overview(["P(action = 0)", "P(action = 1)", "value", "entropy"], 0, 500, 1000)
    assert len(lines) == 4
    for zero, one in zip(lines["P(action = 0)"]["y"], lines["P(action = 1)"]["y"], strict=True):
        assert zero + one == pytest.approx(1.0)
    assert lines["value"]["x"] == list(range(view.n_steps))


def test_events_of_an_episode_are_those_of_the_whole_log(structured):
    run = maze.load(structured)
    log = run.events("Said")
    for index in range(3):
        episode_id = run.table.row(index).episode_id
        told = [
            event.attributes["text"] for event in run.events_of(index) if event.event_type == "Said"
        ]
        assert told == log[log.episode_id == episode_id].text.tolist()
        # Without a journal, the log is looked through.
        found = EventLogs(structured, None).of_episode(index, episode_id)
        assert [e for e in found if e.event_type != "Reward"] == run.events_of(index)


def test_recordings_that_were_made_up_are_refused(tmp_path, monkeypatch):
    directory = played(tmp_path / "run", "CartPole-v1", 1)
    rows = StepsStream.parts

    def with_a_gap(stream, index):
        for batch in rows(stream, index):
            steps = batch.column("step").to_numpy() * 2**20
            place = batch.schema.get_field_index("step")
            yield batch.set_column(place, "step", pa.array(steps, batch.schema.field(place).type))

    monkeypatch.setattr(StepsStream, "parts", with_a_gap)
    description = ViewedRun(directory).episode(0).description()
    assert not description["has_data"]
    assert "not counted one by one" in description["problems"][0]


# Frames.


def test_frames_are_drawn_by_playing_again_and_proven(drawn):
    from PIL import Image

    with Frames(drawn, trust=True) as frames:
        for step in (0, 7, 40, 3):
            with Image.open(frames.get(1, step)) as image:
                assert image.getpixel((0, 0)) == (5 * step,) * 3
        wait_for(lambda: frames.status(1).verdict)
        status = frames.status(1)
        assert (status.source, status.is_equal) == ("replay", True)
        # What was not asked for is drawn too when there is time.
        wait_for(lambda: all(frames._path(1, step).exists() for step in range(41)))
        folder = frames._path(1, 0).parent.parent
    assert not folder.exists()


def test_a_failed_episode_is_drawn_up_to_where_it_failed(drawn):
    with Frames(drawn, trust=True) as frames:
        assert frames.get(3, 4).exists()
        with pytest.raises(FrameError, match="no frame of step 5"):
            frames.get(3, 5)


def test_an_episode_that_is_not_as_recorded_is_reported_as_such(tmp_path):
    env = {"_target_": "tests.viewer_envs.ChangingEnv"}
    with Frames(played(tmp_path / "run", env, 1), trust=True) as frames:
        frames.get(0, 0)
        wait_for(lambda: frames.status(0).verdict)
        assert frames.status(0).is_equal is False
        assert frames.status(0).differs_at == 4


def test_nothing_is_imported_that_the_user_does_not_trust(drawn):
    with Frames(drawn) as frames, pytest.raises(FrameError, match="--trust"):
        frames.get(0, 0)


def test_an_environment_that_ends_its_process_takes_along_only_the_frames(tmp_path):
    env = {"_target_": "tests.viewer_envs.DiesDrawingEnv"}
    with Frames(played(tmp_path / "run", env, 2), trust=True) as frames:
        assert frames.get(0, 0).exists()
        with pytest.raises(FrameError, match="exit code 7"):
            frames.get(0, 20)
        assert frames.get(1, 0).exists()


def test_a_stored_video_is_used_where_there_is_one(tmp_path, capsys):
    pytest.importorskip("av")
    directory = played(tmp_path / "run", "CartPole-v1", 1)
    assert command.main(["video", str(directory), "--episode", "0"]) == 0
    n_steps = maze.load(directory).table["n_steps"][0]
    with Frames(directory) as frames:
        assert frames.get(0, int(n_steps)).exists()
        assert frames.status(0).source == "video"


def test_the_process_that_draws_ends_with_the_viewer(drawn):
    with Frames(drawn, trust=True) as frames:
        frames.get(0, 0)
        assert frames._process is not None
        process = psutil.Process(frames._process.pid)
        assert process.is_running()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


# Two runs.


def test_runs_are_compared_pair_by_pair(tmp_path):
    one = played(tmp_path / "one", DRAWN, 6)
    other = played(tmp_path / "other", DRAWN, 4, policy=lambda observation: 2)
    compared = compare_runs(maze.load(one), maze.load(other))
    assert compared["pairs"] == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert compared["n_alone"] == [2, 0]
    row = compared["statistics"][0]
    a, b = (returns_of(run)[:3] for run in (one, other))
    assert row["name"] == "return"
    assert row["mean"] == pytest.approx(np.mean(b - a))  # Pair 3 failed.
    assert row["n"] == row["n_higher"] == 3


def test_the_first_difference_of_two_episodes_is_found(tmp_path):
    asked = itertools.count()

    def at_step_four(observation):
        return 2 if next(asked) == 4 else 1

    one = maze.load(played(tmp_path / "one", DRAWN, 1, policy=lambda observation: 1))
    other = maze.load(played(tmp_path / "other", DRAWN, 1, policy=at_step_four))
    assert first_divergence(one, 0, other, 0) == {"step": 4, "what": "action"}
    assert first_divergence(one, 0, one, 0) == {"step": None, "what": ""}
    env = {**DRAWN, "n_steps": 10}
    short = maze.load(played(tmp_path / "short", env, 1, policy=lambda observation: 1))
    assert first_divergence(one, 0, short, 0) == {"step": 10, "what": "length"}


# The server.


@pytest.fixture(scope="module")
def client(drawn, structured):
    with Viewer([drawn, structured], trust=True) as viewer:
        yield starlette_testclient.TestClient(
            application(viewer, 8000), base_url="http://127.0.0.1:8000"
        )


def test_the_server_tells_runs_episodes_and_steps(client):
    assert [run["n_episodes"] for run in client.get("/api/runs").json()] == [6, 3]
    assert client.get("/api/runs/0/version").json() == {"version": 1}
    episode = client.get("/api/runs/0/episodes/1").json()
    assert episode["n_steps"] == 40
    overview = client.get(
        "/api/runs/0/episodes/1/overview", params={"names": '["reward"]', "to": 41, "points": 10}
    ).json()
    assert len(overview["channels"]["reward"]["low"]) == 10
    assert len(client.get("/api/runs/0/episodes/1/steps?from=0&to=3").json()) == 3
    frame = client.get("/api/runs/0/episodes/1/frames/2")
    assert frame.headers["content-type"] == "image/png"
    # At this address there may be another run next time.
    assert frame.headers["cache-control"] == "no-store"
    assert client.get("/api/runs/0/episodes/1/frames").json()["source"] == "replay"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/runs/7", 404),
        ("/api/runs/0/episodes/99", 404),
        ("/api/runs/0/episodes/99/frames/0", 404),
        ("/api/runs/0/episodes/1/frames/99", 409),
        ("/api/runs/0/columns?names=nix", 400),
        ("/api/runs/0/columns?names=[1]", 400),
        ('/api/runs/0/columns?names=["nix"]', 404),
        ("/api/runs/0/episodes/1/steps?from=-1", 400),
        ("/api/runs/0/episodes/1/images/0?name=..%2F..%2Fconfig.yaml", 404),
        ("/api/runs/0/../../../etc/passwd", 404),
        ("/..%2f..%2fetc/passwd", 404),
        ("/api/runs/0/episodes/..%2F..%2F1", 404),
    ],
)
def test_bad_requests_are_refused(client, path, status):
    assert client.get(path).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Host": "localhost.evil.example:8000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_others_get_nothing(client, headers):
    response = client.get("/api/runs", headers=headers)
    assert response.status_code == 403
    assert "n_episodes" not in response.text


def test_the_page_itself_is_answered_and_nothing_but_its_own_script_may_run(client):
    response = client.get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[^']+';", policy)
    assert "unsafe-eval" not in policy
    assert client.post("/api/runs").status_code == 405


def test_the_page_names_no_other_place(client):
    page = client.get("/").text
    assert len(page) < 100_000
    urls = set(re.findall(r"https?://[\w.]+", page))
    assert urls <= {"http://www.w3.org"}  # The name of SVG, which nobody fetches.


def test_the_server_listens_to_this_machine_only(drawn):
    with Viewer([drawn]) as viewer:
        server = Server(viewer)
        try:
            listening = [
                connection.laddr.ip
                for connection in psutil.Process().net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == server.port
            ]
            assert listening == ["127.0.0.1"]
            with pytest.raises(OutputError, match="cannot be used"):
                Server(viewer, server.port)
        finally:
            server.close()


def test_the_command_serves_until_it_is_interrupted(drawn):
    with started([*MAZE, "view", drawn, "--no-browser", "--trust"], lambda _: True) as process:
        line = process.stdout.readline()
        assert re.match(r"http://127\.0\.0\.1:\d+/  \(Ctrl-C ends it\)", line)
        with urllib.request.urlopen(f"{line.split()[0]}api/runs/0/episodes/0/frames/0") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""


def test_a_training_is_told_from_a_run(tmp_path, capsys):
    pytest.importorskip("torch")
    from maze.train.trainers.a2c import A2C
    from maze.train.training_runner import TrainingRunner

    TrainingRunner(show_progress=False).run_with(
        "CartPole-v1", A2C(), options={"n_steps": 100}, output_dir=tmp_path / "training"
    )
    assert command.main(["view", str(tmp_path / "training"), "--no-browser"]) == 2
    assert "holds a training" in capsys.readouterr().err


# Reports.


def embedded(html):
    text = re.search(r'<script type="application/json" id="maze-data">(.*?)</script>', html, re.S)
    assert text is not None
    return json.loads(text[1])


def test_a_report_holds_the_table_and_the_telling_episodes(drawn):
    with Viewer([drawn], trust=True) as viewer:
        report = make_report(viewer)
    returns = maze.load(drawn).table["return"]
    order = sorted((i for i in range(6) if i != 3), key=lambda i: returns[i])
    assert [one.index for one in report.episodes] == [order[0], order[2], order[4], 3]
    data = embedded(report.html)
    assert data["columns"][0]["n"] == 6
    episode = data["episodes"][f"0/{order[0]}"]
    assert len(episode["steps"]) == 41
    assert episode["frames"]["steps"] == list(range(41))
    assert episode["frame_status"]["is_equal"] is True
    assert data["episodes"]["0/3"]["info"]["failure"]["step"] == 4


def test_nothing_in_a_report_ends_the_script_that_holds_it(structured):
    with Viewer([structured]) as viewer:
        html = make_report(viewer, with_frames=False).html
    assert html.count("<script") == 2
    assert "<script>alert" not in html
    assert "<script>alert(1)" in json.dumps(embedded(html))


def test_a_report_keeps_to_its_size_by_leaving_out_frames(drawn):
    with Viewer([drawn], trust=True) as viewer:
        whole = make_report(viewer, episodes=[0])
        size = whole.n_bytes - 1000
        smaller = make_report(viewer, episodes=[0], max_bytes=size)
        assert smaller.n_bytes <= size
        assert smaller.episodes[0].every == 2
        assert smaller.episodes[0].n_frames == 21
        with pytest.raises(ConfigError, match="without any frame"):
            make_report(viewer, episodes=[0], max_bytes=1000)
        with pytest.raises(OutputError, match="no episode 99"):
            make_report(viewer, episodes=[99])


def test_a_report_without_frames_says_why(drawn, tmp_path, capsys):
    path = tmp_path / "report.html"
    arguments = ["view", str(drawn), "--export", str(path), "--episodes", "0"]
    assert command.main(arguments) == 0
    assert "episode 0: no frames: to play this run again" in capsys.readouterr().out
    assert command.main(["view", str(drawn), "--episodes", "0"]) == 2
    assert "--export" in capsys.readouterr().err
    assert command.main([*arguments[:2], "--export", str(tmp_path / "no" / "x.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_two_runs_in_a_report_can_be_compared(tmp_path):
    one = played(tmp_path / "one", DRAWN, 3)
    other = played(tmp_path / "other", DRAWN, 3, policy=lambda observation: 2)
    with Viewer([one, other]) as viewer:
        data = embedded(make_report(viewer, with_frames=False).html)
    assert data["comparisons"]["0/1"]["pairs"] == [[0, 1, 2], [0, 1, 2]]
    assert data["divergences"]["0/1/0/0"]["step"] is not None


def test_a_config_cannot_smuggle_markup_or_odd_values(tmp_path):
    directory = played(tmp_path / "run", "CartPole-v1", 1)
    config = {"env": {"name": "<img src=x onerror=alert(1)>", "x": float("nan")}, "seeding": [1]}
    with_config(directory, config)
    (directory / "config.yaml").unlink()
    with Viewer([directory]) as viewer:
        report = make_report(viewer, with_frames=False)
    assert "<img" not in report.html
