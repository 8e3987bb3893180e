"""Normalised observations: by frozen statistics that are the same in every process and lane."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, ContractError, SpaceError
from maze.core.rollout.trust import what_would_be_imported
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.normalization_strategies import NormalizationStrategy
from maze.core.wrappers.observation_normalization_wrapper import ObservationNormalizationWrapper
from maze.core.wrappers.observation_statistics import MomentsInOnePass, ObservationStatistics
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from maze.core.wrappers.sampling import sample_steps, sampling_policy
from tests.contracts import WrapperContract, play, same
from tests.core_envs import tank_env
from tests.envs import CountingEnv, EchoEnv, GlobalGeneratorsEnv, TwoStepEnv, WalkEnv
from tests.runs import HERE, HERE_LANES, WORKERS, WORKERS_LANES, assert_equal, content

Normalized = ObservationNormalizationWrapper
PATH = f"{ObservationNormalizationWrapper.__module__}.{ObservationNormalizationWrapper.__name__}"
ACTION = {"action": 0}


def counting(n_steps: int | None = 4) -> GymMazeEnv:
    """Observes 0, 1, 2, ..., ``n_steps``."""
    return GymMazeEnv(CountingEnv(n_steps))


def echo(space: spaces.Space[Any]) -> GymMazeEnv:
    return GymMazeEnv(EchoEnv(space, spaces.Discrete(2)))


def samples(env: StructuredEnv, n_samples: int, seed: int = 1234) -> list[Any]:
    played = sample_steps(env, n_samples, sampling_policy(None, env), seed)
    return [copy.deepcopy(step.observation) for step in played]


def first(env: StructuredEnv) -> Any:
    return env.reset(seed=1)[0]["observation"]


class TestInAFlatEnvironment(WrapperContract):
    def make_inner(self):
        return GymMazeEnv(WalkEnv())

    def wrap(self, env):
        return Normalized(
            env, default_strategy_config={"clip_range": [-3, 3], "axis": 0}, n_samples=50
        )


class TestInAStructuredEnvironment(WrapperContract):
    def wrap(self, env):
        return Normalized(env, "range_zero_one", n_samples=20)


class TestInAnEnvironmentWithMasks(WrapperContract):
    def make_inner(self):
        return tank_env()

    def wrap(self, env):
        return Normalized(env, n_samples=20)


# Worked examples.


def test_mean_zero_std_one():
    # One episode: 0, 1, 2, 3, 4, with mean 2 and variance (4 + 1 + 0 + 1 + 4) / 5 = 2.
    env = Normalized(counting(4), n_samples=4, default_strategy_config={"axis": 0})
    assert env.statistics["observation"]["mean"].tolist() == [2.0]
    assert env.statistics["observation"]["std"].tolist() == [np.sqrt(2.0)]
    observation, _ = env.reset(seed=1)
    seen = [observation, *(env.step(ACTION)[0] for _ in range(4))]
    root = np.sqrt(2.0)
    expected = [-root, -root / 2, 0.0, root / 2, root]
    assert [s["observation"][0] for s in seen] == pytest.approx(expected)


def test_range_zero_one():
    env = Normalized(counting(4), "range_zero_one", n_samples=4)
    assert {key: float(a) for key, a in env.statistics["observation"].items()} == {
        "min": 0.0,
        "max": 4.0,
    }
    env.reset(seed=1)
    assert [env.step(ACTION)[0]["observation"][0] for _ in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_what_lies_beyond_is_clipped_if_wanted():
    statistics = {"min": 1, "max": 2}
    env = Normalized(counting(), "range_zero_one", default_statistics=statistics)
    assert (first(env)[0], env.step(ACTION)[0]["observation"][0]) == (-1.0, 0.0)
    config = {"clip_range": [0, None]}
    env = Normalized(counting(), "range_zero_one", config, statistics)
    assert first(env)[0] == 0.0


def test_what_is_not_a_number_is_not_hidden_by_clipping():
    env = Normalized(counting(), "range_zero_one", {"clip_range": [0, 1]}, {"min": 0, "max": 1})
    nan = env.observation({"observation": np.array([np.nan], np.float32)})
    assert np.isnan(nan["observation"]).all()


@pytest.mark.parametrize(
    ("axis", "shape", "mean"),
    [
        (None, (), 2.5),  # one number for all
        (0, (2, 3), [[0, 1, 2], [3, 4, 5]]),  # each entry by itself
        ([0], (2, 3), [[0, 1, 2], [3, 4, 5]]),
        ([0, 1], (1, 3), [[1.5, 2.5, 3.5]]),  # the same for all rows, as for frames of a stack
        ([2, 0], (2, 1), [[1.0], [4.0]]),
        ([0, 1, 2], (1, 1), [[2.5]]),
    ],
)
def test_statistics_are_pooled_over_axes(axis, shape, mean):
    always = np.arange(6, dtype=np.float32).reshape(2, 3)
    env = echo(spaces.Box(always, always))
    statistics = Normalized(env, default_strategy_config={"axis": axis}, n_samples=7).statistics
    assert statistics["observation"]["mean"].shape == shape
    assert statistics["observation"]["mean"].tolist() == mean


def test_what_does_not_vary_is_divided_by_one():
    always = np.full((2,), 0.1)  # whose mean is rounded
    config = {"axis": 0}
    env = Normalized(
        echo(spaces.Box(always, always, dtype=np.float64)),
        "mean_zero_std_one",
        config,
        n_samples=98,
    )
    assert (env.statistics["observation"]["std"] == 0).all()
    assert np.abs(first(env)).max() < 1e-15
    env = Normalized(env.env, "range_zero_one", n_samples=99)
    assert first(env).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n_samples", [1, 5, 17])
def test_so_many_structured_steps_are_played(n_samples):
    flat = samples(counting(4), n_samples)
    assert len(flat) == n_samples + -(-n_samples // 4)  # and a reset for each episode
    structured = samples(TwoStepEnv(n_steps=3), n_samples)
    assert len(structured) == 2 * n_samples + -(-n_samples // 3)


# Spaces and dtypes.


@pytest.mark.parametrize(
    ("dtype", "normalized"),
    [
        (np.uint8, np.float32),
        (np.int64, np.float32),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
    ],
)
def test_dtypes(dtype, normalized):
    env = Normalized(echo(spaces.Box(0, 100, (3,), dtype)), n_samples=9)
    assert first(env).dtype == env.observation_space["observation"].dtype == normalized


def test_large_integers_keep_their_digits():
    start = 2**40
    inner = echo(spaces.Box(start, start + 4, (2,), np.int64))
    env = Normalized(inner, "range_zero_one", default_statistics={"min": start, "max": start + 4})
    observation = {"observation": np.array([start + 1, start + 3])}
    assert env.observation(observation)["observation"].tolist() == [0.25, 0.75]


def test_bounds_go_the_way_of_what_they_bound():
    low, high = np.array([-np.inf, 0, -4, -np.inf]), np.array([np.inf, 10, np.inf, 8])
    space = spaces.Box(low, high, dtype=np.float64)
    statistics = {"mean": 2, "std": 2}
    box: Any = Normalized(echo(space), default_statistics=statistics).observation_space
    assert box["observation"].low.tolist() == [-np.inf, -1, -3, -np.inf]
    assert box["observation"].high.tolist() == [np.inf, 4, np.inf, 3]
    config = {"clip_range": [-2, None]}
    box = Normalized(echo(space), "mean_zero_std_one", config, statistics).observation_space
    assert box["observation"].low.tolist() == [-2, -1, -2, -2]
    assert box["observation"].high.tolist() == [np.inf, 4, np.inf, 3]


def test_a_number_without_a_shape_is_normalised_too():
    env = Normalized(echo(spaces.Box(0, 4, (), np.float32)), n_samples=5)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert observation["observation"].shape == ()


BOXES = st.builds(
    lambda low, span, dtype: spaces.Box(
        low.astype(dtype), (low + np.abs(span)).astype(dtype), dtype=dtype
    ),
    low=hnp.arrays(np.float64, (3,), elements=st.integers(-100, 100)),
    span=hnp.arrays(np.float64, (3,), elements=st.integers(0, 1000)),
    dtype=st.sampled_from([np.int16, np.int32, np.float32, np.float64]),
)


@settings(deadline=None, max_examples=50)
@given(
    space=BOXES,
    strategy=st.sampled_from(["mean_zero_std_one", "range_zero_one"]),
    axis=st.sampled_from([None, 0, [0, 1]]),
    clip_range=st.sampled_from([None, [-1, 1], [None, 0.5], [0.1, None]]),
)
def test_the_space_contains_every_observation(space, strategy, axis, clip_range):
    inner = echo(space)
    config = {"clip_range": clip_range, "axis": axis}
    env = Normalized(inner, strategy, config, n_samples=8)
    normalized = env.observation_space
    for value in (space.low, space.high, *(s["observation"] for s in samples(inner, 8, seed=5))):
        assert normalized.contains(env.observation({"observation": value}))


# Estimation.


@settings(deadline=None, max_examples=50)
@given(
    values=hnp.arrays(
        np.float32, (70, 2, 3), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
    ),
    axes=st.sampled_from([None, (0,), (0, 1), (0, 2), (0, 1, 2)]),
    n_buffered=st.integers(1, 80),
)
def test_one_pass_gives_what_numpy_gives_on_all_samples(values, axes, n_buffered):
    in_one_pass = MomentsInOnePass((2, 3), np.dtype(np.float32), axes)
    in_one_pass._buffer = in_one_pass._buffer[:n_buffered]
    for value in values:
        in_one_pass.add(value)
    found = in_one_pass.result()
    assert found is not None
    wide = values.astype(np.float64)

    def expected(function: Any) -> Any:
        reduced = function(wide, axis=axes, keepdims=True)
        return reduced.reshape(()) if axes is None else reduced[0]

    mean, std = np.asarray(found.mean, float), np.asarray(found.std, float)
    np.testing.assert_allclose(mean, expected(np.mean), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, expected(np.std), rtol=1e-9, atol=1e-9)
    assert found.min.tolist() == expected(np.min).tolist()
    assert found.max.tolist() == expected(np.max).tolist()
    assert found.n * found.mean.size == values.size


@pytest.mark.parametrize("make", [lambda: GymMazeEnv(WalkEnv(7)), TwoStepEnv], ids=["flat", "two"])
def test_normalised_samples_have_mean_zero_and_std_one(make):
    env = Normalized(make(), n_samples=300, default_strategy_config={"axis": 0})
    by_name: dict[str, list[Any]] = {name: [] for name in env.statistics}
    for step in sample_steps(env.env, 300):
        for name, normalize in env._normalizers[step.actor.step_key]:
            by_name[name].append(normalize(step.observation[name]))
    for normalized in by_name.values():
        np.testing.assert_allclose(np.mean(normalized, axis=0), 0.0, atol=1e-5)
        np.testing.assert_allclose(np.std(normalized, axis=0), 1.0, atol=1e-5)


class SameNameEnv(TwoStepEnv):
    """Both step keys observe ``sizes``, of four pieces or of one."""

    def __init__(self) -> None:
        super().__init__()
        one = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.observation_spaces = {
            "select": self.observation_spaces["select"],
            "place": spaces.Dict({"sizes": one}),
        }

    def _observe(self) -> dict[str, Any]:
        observation = super()._observe()
        return {"sizes": observation.get("sizes", observation.get("size"))}


def test_step_keys_share_the_statistics_of_a_name():
    env = Normalized(SameNameEnv(), n_samples=30)
    seen = np.concatenate([observation["sizes"] for observation in samples(env.env, 30)])
    assert float(env.statistics["sizes"]["mean"]) == pytest.approx(seen.mean(dtype=np.float64))
    assert float(env.statistics["sizes"]["std"]) == pytest.approx(seen.std(dtype=np.float64))
    with pytest.raises(ConfigError, match=r"'sizes' share its statistics.*\(4,\).*\(1,\).*null"):
        Normalized(SameNameEnv(), default_strategy_config={"axis": 0}, n_samples=5)


def test_estimating_twice_gives_the_same_and_another_seed_something_else():
    one, again = (Normalized(GymMazeEnv("CartPole-v1"), n_samples=50) for _ in range(2))
    assert one.statistics == again.statistics
    assert Normalized(one.env, n_samples=50).statistics == one.statistics
    other = Normalized(GymMazeEnv("CartPole-v1"), n_samples=50, sampling_seed=2)
    assert one.statistics != other.statistics


def test_an_environment_of_global_generators_gives_the_same_and_they_are_left_as_they_were():
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), repr(np.random.get_state(legacy=False))
    one = Normalized(GymMazeEnv(GlobalGeneratorsEnv()), n_samples=50)
    assert (random.getstate(), repr(np.random.get_state(legacy=False))) == states
    random.seed(2)
    assert Normalized(GymMazeEnv(GlobalGeneratorsEnv()), n_samples=50).statistics == one.statistics


def test_a_copy_keeps_its_statistics_and_plays_nothing():
    def inside(env: Any) -> Any:
        return env.env.gym_env

    env = Normalized(counting(4), n_samples=4)
    assert len(inside(env).actions) == 4
    for copied in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert copied.statistics == env.statistics
        assert len(inside(copied).actions) == 4
    again = Normalized(GymMazeEnv("CartPole-v1"), n_samples=4).with_render_mode("rgb_array")
    assert inside(again).state is None  # nothing has reset it


def test_events_of_the_estimation_are_dropped():
    env = tank_env()
    events = env.events
    Normalized(env, n_samples=20)
    assert env.events is events
    assert not events


def test_statistics_are_not_estimated_in_a_window(monkeypatch):
    shown = []
    monkeypatch.setattr("maze.core.env.maze_env.MazeEnv.render", lambda env: shown.append(env))
    Normalized(tank_env(render_mode="human"), n_samples=5)
    assert not shown


def test_what_was_played_before_does_not_show():
    plain = GymMazeEnv(WalkEnv())
    expected = play(plain, seed=3)
    Normalized(plain, n_samples=7)
    assert same(play(plain, seed=3), expected)


def test_the_sampling_policy_decides_what_is_seen():
    by_chance = Normalized(GymMazeEnv("CartPole-v1"), n_samples=200)
    heuristic = {"_target_": "maze.core.agent.dummy_cartpole_policy.DummyCartPolePolicy"}
    balanced = Normalized(GymMazeEnv("CartPole-v1"), n_samples=200, sampling_policy=heuristic)
    assert balanced.statistics != by_chance.statistics
    with pytest.raises(ConfigError, match="'sampling_policy' has to be a StructuredPolicy"):
        Normalized(TwoStepEnv(), sampling_policy={"_target_": "builtins.dict"})


class MaskKeepingEnv(TwoStepEnv):
    """Breaks if a piece is selected that the mask does not allow."""

    def __init__(self) -> None:
        super().__init__()
        space = spaces.Dict(
            {**self.observation_spaces["select"], "allowed": spaces.Box(0, 1, (4,), np.int8)}
        )
        self.observation_spaces = {**self.observation_spaces, "select": space}
        self.action_masks = {"select": {"piece": "allowed"}}

    def step(self, action: Any) -> Any:
        if self._piece is None:
            assert action["piece"] == 2
        return super().step(action)

    def _observe(self) -> Any:
        observation = super()._observe()
        if self._piece is None:
            observation["allowed"] = np.array([0, 0, 1, 0], np.int8)
        return observation


def test_masks_are_kept_to_and_left_as_they_are():
    env = Normalized(MaskKeepingEnv(), n_samples=20)
    assert list(env.statistics) == ["sizes", "size"]
    observation, _ = env.reset(seed=1)
    assert observation["allowed"].tolist() == [0, 0, 1, 0]
    assert observation["allowed"].dtype == np.int8
    assert env.observation_spaces["select"]["allowed"] == spaces.Box(0, 1, (4,), np.int8)


# Law 1: the same files wherever episodes are played.


@pytest.mark.parametrize("env", ["CartPole-v1", TwoStepEnv], ids=["flat", "structured"])
def test_every_process_and_lane_normalises_alike(env, tmp_path):
    wrappers = {PATH: {"n_samples": 40, "default_strategy_config": {"axis": 0}}}
    contents = []
    for where in (HERE, HERE_LANES, WORKERS, WORKERS_LANES):
        runner = where.runner(n_episodes=9, max_episode_steps=9, output_dir=tmp_path / str(where))
        seeding = Seeding(env_base_seed=1, agent_base_seed=2)
        runner.run_with(env, wrappers=wrappers, seeding=seeding)
        contents.append(content(tmp_path / str(where)))
    for other in contents[1:]:
        assert_equal(other, contents[0])


def test_an_environment_that_was_given_as_an_object_normalises_alike(tmp_path):
    contents = []
    for name, where in (("here", HERE), ("lanes", HERE_LANES), ("workers", WORKERS)):
        env = RewardScalingWrapper(Normalized(GymMazeEnv(WalkEnv()), n_samples=30), 2.0)
        runner = where.runner(n_episodes=5, output_dir=tmp_path / name)
        runner.run_with(env, seeding=Seeding(env_base_seed=1, agent_base_seed=2))
        contents.append(content(tmp_path / name))
    for other in contents[1:]:
        assert_equal(other, contents[0])


# Given, saved and loaded.


def test_statistics_are_the_same_after_saving_and_loading(tmp_path):
    env = Normalized(TwoStepEnv(), n_samples=20, default_strategy_config={"axis": 0})
    path = tmp_path / "observation_statistics.npz"
    env.statistics.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert ObservationStatistics.load(path) == env.statistics
    again = Normalized(TwoStepEnv(), statistics=str(path), n_samples=1)
    assert again.statistics == env.statistics
    assert same(play(again, seed=3), play(env, seed=3))
    assert Normalized(TwoStepEnv(), statistics=env.statistics).statistics == env.statistics


def test_no_step_is_played_where_statistics_are_given():
    inner = CountingEnv()
    Normalized(GymMazeEnv(inner), default_statistics={"mean": 0, "std": 1})
    Normalized(GymMazeEnv(inner), statistics={"observation": {"mean": [0], "std": [1]}})
    manual = {"observation": {"statistics": {"mean": 0, "std": 1}}}
    Normalized(GymMazeEnv(inner), manual_config=manual)
    assert not inner.actions


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        st.dictionaries(
            st.sampled_from(["mean", "std", "min", "file"]),
            hnp.arrays(
                np.float64,
                hnp.array_shapes(min_dims=0, max_dims=2, max_side=3),
                elements=st.floats(allow_nan=False, allow_infinity=False),
            ),
            min_size=1,
        ),
        max_size=3,
    )
)
def test_any_statistics_come_out_of_the_file_as_they_went_in(by_observation):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "statistics.npz"
        ObservationStatistics(by_observation).save(path)
        assert ObservationStatistics.load(path) == ObservationStatistics(by_observation)


def test_statistics_cannot_be_changed():
    statistics = ObservationStatistics({"a": {"mean": np.zeros(2)}})
    with pytest.raises(ValueError, match="read-only"):
        statistics["a"]["mean"][0] = 1.0


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it was run')",)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.array([Evil()], dtype=object))


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def other_names(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weights=np.zeros(3))


def rewritten(path: Path, array: Any) -> None:
    arrays: dict[str, Any] = {"observation/mean": array}
    with path.open("wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.unlink(), "there are no observation statistics"),
        (lambda path: path.write_text("mean: 0"), "cannot be read as observation statistics"),
        (lambda path: path.write_bytes(b""), "cannot be read as observation statistics"),
        (damaged, "cannot be read as observation statistics"),
        (pickled, "cannot be read as observation statistics"),
        (single_array, "cannot be read as observation statistics"),
        (other_names, "array 'weights'.*'<observation>/<statistic>'"),
        (
            lambda path: rewritten(path, np.array([np.nan])),
            "'mean' of the statistics of 'observation' has to be a finite number",
        ),
    ],
    ids=["missing", "text", "empty", "damaged", "pickled", "an array", "other names", "nan"],
)
def test_a_file_of_something_else_is_refused(write, message, tmp_path):
    path = tmp_path / "statistics.npz"
    ObservationStatistics({"observation": {"mean": np.zeros(1)}}).save(path)
    write(path)
    with pytest.raises(ConfigError, match=message):
        ObservationStatistics.load(path)


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"default_strategy": "mean_zero"}, "no strategy 'mean_zero'.*mean_zero_std_one"),
        ({"default_strategy": "builtins.dict"}, "'default_strategy' is 'builtins.dict', expected"),
        ({"default_strategy": 3}, "'default_strategy' is 3"),
        ({"default_strategy_config": {"clip": [0, 1]}}, "Did you mean .*clip_range"),
        ({"default_strategy_config": {"clip_range": [1]}}, r"\[min, max\].*got \[1\]"),
        ({"default_strategy_config": {"clip_range": [1, 1]}}, "min < max"),
        ({"default_strategy_config": {"axis": 1}}, "'axis'.*with 0.*got 1"),
        ({"default_strategy_config": {"axis": [0, 0]}}, "different axes"),
        ({"default_strategy_config": {"axis": [0, 2]}}, r"'observation'.*\(1,\).*axes 1 to 1"),
        ({"default_statistics": {"min": 0, "max": 1}}, "needs the statistics mean, std.*min, max"),
        ({"default_statistics": {"mean": 0, "std": -1}}, "'std' cannot be negative"),
        ({"default_statistics": {"mean": "x", "std": 1}}, "finite number.*got 'x'"),
        ({"default_statistics": {"mean": [0, 0], "std": 1}}, r"'mean'.*\(2,\).*\(1,\)"),
        ({"default_statistics": 3}, "'observation' have to be a mapping"),
        ({"statistics": 3}, "'statistics' has to be a mapping"),
        ({"statistics": {"other": {"mean": 0, "std": 1}}}, "none of .*'observation'.*other"),
        ({"n_samples": 0}, "'n_samples'.*at least 1"),
        ({"sampling_seed": -1}, "'sampling_seed'.*got -1"),
        ({"exclude": "observation"}, "'exclude' has to be a list"),
        ({"manual_config": {"observatoin": {}}}, "Did you mean 'observation'"),
        (
            {"manual_config": {"observation": {"clip_range": [0, 1]}}},
            "'manual_config.observation.clip_range' is not an option.*strategy_config",
        ),
        (
            {"exclude": ["observation"], "manual_config": {"observation": {}}},
            "not normalised: it is excluded",
        ),
        (
            {"default_strategy": "range_zero_one", "default_statistics": {"min": 1, "max": 0}},
            "'max' cannot be below 'min'",
        ),
    ],
)
def test_errors_of_the_configuration(options, message):
    with pytest.raises(ConfigError, match=message):
        Normalized(counting(), **options)


def test_an_observation_that_did_not_occur_has_no_statistics():
    class NeverPlacesEnv(TwoStepEnv):
        def step(self, action):
            self._time += 1
            return self._observe(), 0.0, self._time == 3, False, {}

    with pytest.raises(ConfigError, match="'size': it did not occur in the 10 structured steps"):
        Normalized(NeverPlacesEnv(), n_samples=10)
    env = Normalized(
        NeverPlacesEnv(),
        n_samples=10,
        manual_config={"size": {"statistics": {"mean": 0, "std": 1}}},
    )
    assert set(env.statistics) == {"size", "sizes"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_statistics(value):
    class BrokenEnv(CountingEnv):
        def _observe(self):
            return np.array([value], np.float32)

    with pytest.raises(ContractError, match="'observation' held numbers that are not finite"):
        Normalized(GymMazeEnv(BrokenEnv()), n_samples=3)


def test_an_error_of_the_environment_says_that_statistics_were_gathered():
    class BrokenEnv(CountingEnv):
        def step(self, action):
            raise RuntimeError("it broke")

    with pytest.raises(RuntimeError, match="it broke") as caught:
        Normalized(GymMazeEnv(BrokenEnv()))
    assert any("to gather statistics, in episode 0, env_seed=" in n for n in caught.value.__notes__)


def test_an_observation_of_another_shape_is_an_error():
    env = Normalized(GymMazeEnv(WalkEnv()), default_statistics={"mean": [0, 1], "std": 1})
    with pytest.raises(SpaceError, match=r"'observation' cannot be normalised.*\(3,\)"):
        env.observation({"observation": np.zeros(3, np.float32)})
    with pytest.raises(ContractError, match="no 'observation', which is in its space"):
        env.observation({"other": 1})


# Options.


def test_observations_can_be_excluded_or_have_their_own_options():
    env = Normalized(
        TwoStepEnv(),
        default_strategy_config={"clip_range": [-1, 1], "axis": 0},
        exclude=["size", "not_in_this_variant"],
        manual_config={"sizes": {"strategy": "range_zero_one", "statistics": {"min": 0, "max": 2}}},
    )
    assert list(env.statistics) == ["sizes"]
    place, select = env.observation_spaces["place"], env.observation_spaces["select"]
    assert place == env.env.observation_spaces["place"]
    assert select["sizes"] == spaces.Box(0.0, 0.5, (4,), np.float32)


def test_an_own_config_adds_to_that_of_the_same_strategy():
    config = {"clip_range": [-1, 1], "axis": 0}
    manual = {"sizes": {"strategy_config": {"clip_range": [-2, 2]}}}
    env = Normalized(TwoStepEnv(), "mean_zero_std_one", config, manual_config=manual, n_samples=9)
    assert env.statistics["sizes"]["mean"].shape == (4,)
    box: Any = env.observation_spaces["select"]["sizes"]
    assert (box.low >= -2).all()
    assert box.high.max() > 1


class LargestOne(NormalizationStrategy):
    """Divides by the largest value."""

    statistic_names: ClassVar[tuple[str, ...]] = ("largest",)

    def __init__(self, factor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def statistics(self, moments):
        return {"largest": moments.max}

    def offset_and_scale(self, statistics):
        return np.zeros(()), statistics["largest"] / self.factor


@pytest.mark.parametrize("strategy", [LargestOne, f"{__name__}.LargestOne"])
def test_a_strategy_of_ones_own(strategy):
    env = Normalized(counting(4), strategy, {"factor": 10, "clip_range": [None, 7]}, n_samples=4)
    env.reset(seed=1)
    assert [env.step(ACTION)[0]["observation"][0] for _ in range(4)] == [2.5, 5.0, 7.0, 7.0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"default_strategy": "canary.X"},
        {"manual_config": {"observation": {"strategy": "canary.X"}}},
        {"sampling_policy": {"_target_": "canary.X"}},
    ],
)
def test_a_strategy_or_policy_that_a_config_names_is_imported_only_if_trusted(arguments):
    assert what_would_be_imported({"wrappers": {PATH: arguments}}) == ["canary.X"]
    as_list = {"wrappers": [{"_target_": PATH, **arguments}]}
    assert what_would_be_imported(as_list) == ["canary.X"]
    assert (
        what_would_be_imported({"wrappers": {PATH: {"default_strategy": "range_zero_one"}}}) == []
    )


def test_what_is_no_box_of_numbers_is_left_as_it_is():
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiBinary(2)})
    env = Normalized(echo(space))
    assert len(env.statistics) == 0
    assert env.observation_space == space
    assert same(play(env), play(env.env))
