"""Recordings as something to learn from: read by shards, chosen from, written again."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import maze
from maze.core.errors import ConfigError, OutputError
from maze.core.rollout.play import PlayOptions
from maze.core.rollout.run_directory import RunDirectory
from maze.core.seeding import Seeding
from maze.datasets.convert import Plan, convert, plan_conversion
from maze.datasets.edit import fingerprint, merge, split
from maze.datasets.recordings import FIELDS, Recordings, flat_returns
from maze.datasets.selection import ClipTerminated, ClipTruncated, DropShort, Selection
from tests.envs import CountingEnv, FailsNowAndThenEnv
from tests.runs import numbered, sequential

CUTTING = {
    "_target_": "maze_envs.logistics.cutting_2d.env.cutting_2d_structured_masked",
    "max_pieces_in_inventory": 30,
    "raw_piece_size": [100, 100],
    "static_demand": [[30, 15], [20, 20]],
}
NORMALIZATION = (
    "maze.core.wrappers.observation_normalization_wrapper.ObservationNormalizationWrapper"
)
STACK = "maze.core.wrappers.observation_stack_wrapper.ObservationStackWrapper"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings of CartPole, of which one has episodes that are truncated."""
    folder = tmp_path_factory.mktemp("runs")
    maze.rollout("CartPole-v1", n_episodes=30, seed=1, output_dir=folder / "a")
    maze.rollout(
        "CartPole-v1", n_episodes=20, seed=2, max_episode_steps=20, output_dir=folder / "b"
    )
    return [folder / "a", folder / "b"]


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structured") / "run"
    maze.rollout(CUTTING, n_episodes=6, seed=1, max_episode_steps=15, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes that were handed over in parts of 16 steps."""
    from unittest import mock

    folder = tmp_path_factory.mktemp("parts") / "run"
    runner = sequential(n_episodes=12, max_episode_steps=0)
    job = type(runner)._job

    def with_parts(self, *arguments):
        return replace(job(self, *arguments), play=PlayOptions(0, part_steps=16))

    with mock.patch.object(type(runner), "_job", with_parts):
        runner.run_with("CartPole-v1", seeding=Seeding(1, 1), output_dir=folder)
    return folder


def collected(recordings: Recordings, fields=FIELDS, **options):
    """All rows, in the order of episodes and steps."""
    rows = [batch[0] for batch in recordings.batches(7, fields, **options)]
    whole = {
        name: np.concatenate(
            [
                next(iter(one.values[name].values()))
                if isinstance(one.values[name], dict)
                else one.values[name]
                for one in rows
            ]
        )
        for name in fields
    }
    order = np.lexsort((whole["step"], whole["episode"]))
    return {name: values[order] for name, values in whole.items()}


@pytest.mark.parametrize("kind", ["whole", "in parts"])
def test_transitions_are_those_of_the_trajectories(runs, in_parts, kind):
    directories = runs if kind == "whole" else [in_parts]
    recordings = Recordings(directories)
    rows = collected(recordings, discount=0.9)
    at = 0
    for episode in range(recordings.n_episodes):
        run, index = recordings.place(episode)
        trajectory = run.trajectory(index)
        n = len(trajectory)
        here = slice(at, at + n)
        assert (rows["episode"][here] == episode).all()
        assert np.array_equal(rows["observations"][here], trajectory.observations[:-1])
        assert np.array_equal(rows["next_observations"][here], trajectory.observations[1:])
        assert np.array_equal(rows["actions"][here], trajectory.actions)
        assert np.array_equal(rows["rewards"][here], trajectory.rewards)
        assert rows["terminated"][here].tolist() == [False] * (n - 1) + [trajectory.terminated]
        assert rows["truncated"][here].tolist() == [False] * (n - 1) + [trajectory.truncated]
        expected = 0.0
        for t in reversed(range(n)):
            expected = trajectory.rewards[t] + 0.9 * expected
            assert rows["returns"][at + t] == pytest.approx(expected)
        at += n
    assert at == len(rows["step"]) == recordings.n_steps


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    discount=st.floats(0, 1),
    data=st.data(),
)
def test_returns_follow_their_recursion_whatever_the_episodes(lengths, discount, data):
    n = sum(lengths)
    rewards = np.array(data.draw(st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)))
    table = pa.table({"episode_index": pa.array(np.repeat(np.arange(len(lengths)), lengths))})
    found = flat_returns(rewards, table, discount)
    ends = set(np.cumsum(lengths) - 1)
    for i in range(n):
        following = 0.0 if i in ends else discount * found[i + 1]
        assert found[i] == pytest.approx(rewards[i] + following)


def test_the_episodes_in_parts_have_parts(in_parts):
    shards = Recordings(in_parts).shards
    assert len({shard.entry for shard in shards}) > 12


def test_each_pass_gives_every_transition_once_in_another_order(runs):
    recordings = Recordings(runs)
    fields = ("episode", "step")
    passes = []
    for seed in (1, 1, 2):
        rows = [b[0] for b in recordings.batches(16, fields, seed=seed, rows_in_memory=200)]
        assert all(one.n == 16 for one in rows[:-1])
        passes.append(
            [
                (int(e), int(s))
                for one in rows
                for e, s in zip(one.values["episode"], one.values["step"], strict=True)
            ]
        )
    assert passes[0] == passes[1] != passes[2]
    assert sorted(passes[0]) == sorted(passes[2])
    assert len(set(passes[0])) == len(passes[0]) == recordings.n_steps


def test_workers_share_the_shards(in_parts):
    recordings = Recordings(in_parts)
    found = [
        (int(e), int(s))
        for worker in range(3)
        for batch in recordings.batches(8, ("episode", "step"), worker=(worker, 3))
        for e, s in zip(batch[0].values["episode"], batch[0].values["step"], strict=True)
    ]
    assert len(set(found)) == len(found) == recordings.n_steps


def test_what_is_in_memory_does_not_depend_on_the_recording(runs):
    recordings = Recordings(runs)
    pickled = pickle.dumps(recordings)
    assert len(pickled) < 5_000
    again = pickle.loads(pickled)
    assert again.n_steps == recordings.n_steps
    assert len(again.shards) == len(recordings.shards)


def test_sequences_keep_to_their_episode_and_are_filled_up(runs):
    recordings = Recordings(runs[0])
    (rows,) = [
        recordings.sequences(shard, 8, ("observations", "actions", "step", "episode"))[0]
        for shard in recordings.shards
    ]
    mask, step, episode = rows.values["mask"], rows.values["step"], rows.values["episode"]
    assert mask.shape == step.shape == (rows.n, 8)
    assert mask.sum() == recordings.n_steps
    assert rows.values["observations"]["observation"].shape == (rows.n, 8, 4)
    for i in range(rows.n):
        n = int(mask[i].sum())
        assert mask[i, :n].all()
        assert (np.diff(step[i, :n]) == 1).all()
        assert len(set(episode[i, :n].tolist())) == 1
        assert not rows.values["observations"]["observation"][i, n:].any()


def test_a_selection_asks_the_table_of_episodes(runs):
    table = maze.load(runs[0]).table
    returns = np.asarray(table["return"])
    chosen = Selection(min_return=20.0, max_return=40.0).indices(maze.load(runs[0]))
    assert chosen.tolist() == np.flatnonzero((returns >= 20) & (returns <= 40)).tolist()
    truncated = Selection(endings=["truncated"]).indices(maze.load(runs[1]))
    assert [maze.load(runs[1]).table.row(i).ending for i in truncated] == ["truncated"] * len(
        truncated
    )
    assert 0 < len(truncated) < 20
    assert Selection(n_episodes=3).indices(maze.load(runs[0])).tolist() == [0, 1, 2]


def test_a_selection_asks_the_event_logs(structured):
    run = maze.load(structured)
    with pytest.raises(OutputError, match=r"no events of type 'Rewards'.*Did you mean 'Reward'"):
        Selection(event="Rewards").indices(run)
    name = next(one for one in run.event_types if one != "Reward")
    ids = set(run.events(name)["episode_id"])
    expected = [row.episode_index for row in run.table if row.episode_id in ids]
    assert Selection(event=name).indices(run).tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endings": ["won"]}, "'endings' has to be a list of terminated"),
        ({"endings": "truncated"}, "'endings' has to be a list"),
        ({"min_return": "high"}, "'min_return' has to be a number"),
        ({"n_episodes": 0}, "'n_episodes' has to be a whole number from 1"),
        ({"min_retrun": 1.0}, "Did you mean 'runner.dataset.selection.min_return'"),
    ],
)
def test_a_wrong_selection_is_refused(runs, options, message):
    with pytest.raises(ConfigError, match=message):
        Recordings(runs, options)


def test_processors_leave_out_ends_and_short_episodes(runs):
    rows = {(run.path, row.episode_index): row for run in map(maze.load, runs) for row in run.table}
    recordings = Recordings(
        runs,
        processors=[ClipTerminated(3), ClipTruncated(5), DropShort(10)],
    )
    for episode in range(recordings.n_episodes):
        run, index = recordings.place(episode)
        row = rows[run.path, index]
        clipped = row.n_steps - (3 if row.ending == "terminated" else 5)
        assert recordings.n_kept(episode) == clipped >= 10
    read = collected(recordings)
    counts = np.bincount(read["episode"])
    assert counts.tolist() == [recordings.n_kept(i) for i in range(recordings.n_episodes)]
    n_dropped = sum(
        row.n_steps - (3 if row.ending == "terminated" else 5) < 10 for row in rows.values()
    )
    assert recordings.n_episodes == 50 - n_dropped
    assert n_dropped > 0


def test_nothing_left_to_learn_from_is_an_error(runs):
    with pytest.raises(OutputError, match="none of the 30 episodes"):
        Recordings(runs[0], {"min_return": 1e6})


def test_a_split_keeps_episodes_whole(runs):
    first, second = Recordings(runs).split(0.2, seed=3)
    assert second is not None
    assert (first.n_episodes, second.n_episodes) == (40, 10)

    def places(recordings):
        return {
            (run.path, index) for run, index in map(recordings.place, range(recordings.n_episodes))
        }

    assert not places(first) & places(second)
    assert len(collected(second)["step"]) == second.n_steps
    assert Recordings(runs).split(0)[1] is None


def test_recordings_with_other_spaces_are_not_read_together(runs, structured):
    with pytest.raises(ConfigError, match="cannot be learnt from together: their step keys"):
        Recordings([runs[0], structured])


def test_sub_steps_are_read_by_step_key(structured):
    recordings = Recordings(structured)
    fields = ("observations", "actions", "rewards", "returns", "step", "episode", "env_time")
    (read,) = [recordings.read(shard, fields, 0.5) for shard in recordings.shards]
    trajectory = maze.load(structured).trajectory(2)
    steps: dict[int, float] = {}
    for key, part in trajectory.by_step_key.items():
        rows = read[key]
        here = rows.values["episode"] == 2
        n = len(part.rewards)
        for name, values in part.observations.items():
            assert np.array_equal(rows.values["observations"][name][here], values[:n])
        assert np.array_equal(rows.values["rewards"][here], part.rewards)
        steps.update(
            zip(rows.values["step"][here].tolist(), rows.values["returns"][here], strict=True)
        )
    # Two sub-steps a structured step: nothing is discounted between them.
    expected = 0.0
    rewards = trajectory.rewards
    times = {
        int(s): int(t)
        for part in trajectory.by_step_key.values()
        for s, t in zip(part.steps, part.env_times, strict=True)
    }
    for step in reversed(range(len(rewards))):
        is_last = step == len(rewards) - 1
        factor = 0.5 if not is_last and times[step + 1] != times[step] else 1.0
        expected = rewards[step] + factor * expected
        assert steps[step] == pytest.approx(expected)


def test_next_observations_of_several_actors_are_refused_with_a_way_out(structured):
    recordings = Recordings(structured)
    with pytest.raises(ConfigError, match="sequences give what each"):
        recordings.read(recordings.shards[0], ("next_observations",))


def test_a_damaged_shard_is_read_without_the_damaged_episodes(runs, tmp_path):
    import shutil

    shutil.copytree(runs[0], tmp_path / "run")
    path = tmp_path / "run" / "trajectory_data" / "steps_0.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    recordings = Recordings(tmp_path / "run")
    with pytest.warns(UserWarning, match="damaged"):
        read = [recordings.read(shard) for shard in recordings.shards]
    assert sum(rows.n for one in read for rows in one.values()) < recordings.n_steps


def test_without_a_journal_the_same_is_read(runs, tmp_path):
    import shutil

    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / "journal.jsonl").unlink()
    expected, found = (collected(Recordings(path)) for path in (runs[0], tmp_path / "run"))
    for name in FIELDS:
        assert np.array_equal(expected[name], found[name]), name


# Recordings that are made of others.


def digests(directory: Path) -> list[str]:
    return [row.digest for row in RunDirectory(directory).table]


def test_merged_recordings_hold_all_episodes_as_they_were(runs, tmp_path):
    result = merge(runs, tmp_path / "both")
    assert result.n_done == 50
    assert digests(tmp_path / "both") == digests(runs[0]) + digests(runs[1])
    assert maze.verify(tmp_path / "both").is_good
    run = maze.load(tmp_path / "both")
    assert [row.env_seed for row in run.table][:30] == [
        row.env_seed for row in maze.load(runs[0]).table
    ]
    sources = run.config["dataset"]["sources"]
    assert [one["name"] for one in sources] == ["a", "b"]
    assert sources[0]["fingerprint"] == fingerprint(list(maze.load(runs[0]).table))
    provenance = pq.read_table(tmp_path / "both" / "provenance.parquet").to_pylist()
    assert provenance[31] == {"episode_index": 31, "source": 1, "source_episode": "1"}
    card = (tmp_path / "both" / "README.md").read_text()
    assert "50 episodes" in card
    assert sources[1]["fingerprint"] in card


def test_a_merged_recording_is_not_resumed(runs, tmp_path):
    merge(runs, tmp_path / "both")
    with pytest.raises(ConfigError, match=r"come from other recordings\. Complete those"):
        maze.resume(tmp_path / "both", n_episodes=60)


def test_an_episode_of_a_merged_recording_can_be_replayed(runs, tmp_path):
    merge(runs, tmp_path / "both")
    assert maze.replay(tmp_path / "both", 12).is_equal
    merge(runs[1], tmp_path / "one", {"endings": ["truncated"]})
    assert maze.verify(tmp_path / "one", replay=5).is_good


def test_events_and_statistics_come_along(structured, tmp_path):
    merge([structured], tmp_path / "again")
    before, after = maze.load(structured), maze.load(tmp_path / "again")
    assert after.event_types == before.event_types
    for name in before.event_types:
        assert before.events(name).equals(after.events(name)), name
    assert [row.statistics for row in before.table] == [row.statistics for row in after.table]
    assert digests(structured) == digests(tmp_path / "again")


def test_long_episodes_stay_in_parts(tmp_path):
    long = tmp_path / "long"
    # 65,536 steps are a part: three of them, one that ends with it, and one of a step more.
    for i, n_steps in enumerate((140_000, 65_536, 65_537)):
        maze.rollout(CountingEnv, n_episodes=1, max_episode_steps=n_steps, output_dir=f"{long}{i}")
    long = tmp_path / "long"
    merge([f"{long}{i}" for i in range(3)], long)
    assert digests(long) == [digest for i in range(3) for digest in digests(Path(f"{long}{i}"))]
    assert maze.verify(long).is_good
    recordings = Recordings(long)
    assert sum(recordings.n_rows(shard)[0] for shard in recordings.shards) == 271_073


def test_a_filtered_recording_holds_what_was_selected(runs, tmp_path):
    merge(runs[0], tmp_path / "good", {"min_return": 25.0})
    expected = [row.digest for row in maze.load(runs[0]).table if row.episode_return >= 25]
    assert digests(tmp_path / "good") == expected
    about = maze.load(tmp_path / "good").config["dataset"]
    assert (about["operation"], about["selection"]) == ("filter", {"min_return": 25.0})


def test_splitting_shares_out_every_episode_once(runs, tmp_path):
    split(runs, [tmp_path / "train", tmp_path / "test"], [0.8, 0.2], seed=1)
    parts = digests(tmp_path / "train"), digests(tmp_path / "test")
    assert [len(part) for part in parts] == [40, 10]
    assert sorted(parts[0] + parts[1]) == sorted(digests(runs[0]) + digests(runs[1]))
    assert maze.verify(tmp_path / "test").is_good


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.0, 0.0], [0.5]])
def test_shares_that_do_not_add_up_are_refused(runs, tmp_path, shares):
    with pytest.raises(ConfigError, match="share"):
        split(runs, [tmp_path / "x", tmp_path / "y"], shares)


def test_failed_episodes_are_merged_with_their_failures(tmp_path):
    maze.rollout(
        lambda: FailsNowAndThenEnv(13),
        n_episodes=30,
        seed=numbered(30),
        output_dir=tmp_path / "run",
    )
    merge([tmp_path / "run"], tmp_path / "again")
    before, after = maze.load(tmp_path / "run"), maze.load(tmp_path / "again")
    assert "failed" in [row.ending for row in before.table]
    assert [row.failure for row in before.table] == [row.failure for row in after.table]
    assert maze.verify(tmp_path / "again").is_good
    assert Recordings(tmp_path / "run").n_episodes == before.statistics["endings"]["terminated"]


# Recordings in another form.


def test_recorded_observations_are_shown_to_new_wrappers(runs, tmp_path):
    wrappers: dict[str, Any] = {
        NORMALIZATION: {
            "default_strategy": "mean_zero_std_one",
            "default_strategy_config": {"clip_range": [-3, 3], "axis": 0},
        },
        STACK: {"stack_config": [{"observation": "observation", "stack_steps": 3}]},
    }
    recordings = Recordings(runs[0])
    plan = plan_conversion(recordings, "CartPole-v1", wrappers)
    assert plan.how == "wrappers"
    converted = convert(recordings, "CartPole-v1", wrappers, tmp_path / "new", plan)
    # What a rollout with the wrapper sees of the same episodes.
    maze.rollout(
        "CartPole-v1", n_episodes=30, seed=1, wrappers=wrappers, output_dir=tmp_path / "played"
    )
    assert digests(tmp_path / "new") == digests(tmp_path / "played")
    assert converted.n_steps == recordings.n_steps


def test_where_wrappers_cannot_be_played_back_the_episodes_are_played_again(runs, tmp_path):
    wrappers: dict[str, Any] = {"gymnasium.wrappers.TimeAwareObservation": {}}
    recordings = Recordings(runs)
    plan = plan_conversion(recordings, "CartPole-v1", wrappers)
    assert plan == Plan("replay", None)
    converted = convert(recordings, "CartPole-v1", wrappers, tmp_path / "new", plan)
    assert isinstance(converted.observation_spaces[0]["observation"], spaces.Box)
    assert converted.observation_spaces[0]["observation"].shape == (5,)
    assert [row.ending for row in maze.load(tmp_path / "new").table] == [
        row.ending for run in map(maze.load, runs) for row in run.table
    ]


def test_a_recording_with_the_same_wrappers_is_taken_as_it_is(runs):
    assert plan_conversion(Recordings(runs), "CartPole-v1", {}).how == "recorded"


def test_an_environment_that_does_other_things_is_noticed(runs, tmp_path):
    with pytest.raises(OutputError, match="comes out differently"):
        convert(
            Recordings(runs[0]),
            {
                "_target_": "maze.core.wrappers.maze_gym_env_wrapper.make_gym_maze_env",
                "name": "CartPole-v1",
                "kwargs": {"sutton_barto_reward": True, "max_episode_steps": 9},
            },
            {},
            tmp_path / "new",
            Plan("replay", None),
        )


def test_actions_of_another_form_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="recorded actions are not those"):
        convert(Recordings(runs[0]), "MountainCar-v0", {}, tmp_path / "new", Plan("replay", None))
