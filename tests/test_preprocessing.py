"""Pre-processed observations: each transformation by an example, and the spaces that they make."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, ContractError, MissingExtraError, SpaceError
from maze.core.rollout.trust import what_would_be_imported
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.observation_stack_wrapper import ObservationStackWrapper
from maze.core.wrappers.preprocessing_wrapper import PreProcessing, PreProcessingWrapper
from maze.core.wrappers.preprocessors import (
    FlattenPreProcessor,
    OneHotPreProcessor,
    PreProcessor,
    ResizeImgPreProcessor,
    Rgb2GrayPreProcessor,
    TransposePreProcessor,
    UnSqueezePreProcessor,
)
from tests.contracts import WrapperContract, play, same
from tests.core_envs import tank_env
from tests.envs import EchoEnv, ReusedBufferEnv, TwoStepEnv
from tests.runs import SEEDING, open_run, sequential

MODULE = "maze.core.wrappers.preprocessors"


def echo(space: spaces.Space[Any]) -> GymMazeEnv:
    return GymMazeEnv(EchoEnv(space, spaces.Discrete(2)))


def entry(observation: str, name: str, keep_original: bool = False, **config: Any) -> Any:
    return {
        "observation": observation,
        "_target_": f"{MODULE}.{name}PreProcessor",
        "keep_original": keep_original,
        "config": config,
    }


class TestInAFlatEnvironment(WrapperContract):
    def make_inner(self):
        return echo(spaces.Box(0, 255, (6, 8, 3), np.uint8))

    def wrap(self, env):
        mapping = [
            entry("observation", "Rgb2Gray"),
            entry("observation-rgb2gray", "ResizeImg", target_size=[3, 4]),
            entry("observation-rgb2gray-resize_img", "UnSqueeze", dim=-3, keep_original=True),
        ]
        return PreProcessingWrapper(env, mapping)


class TestInAStructuredEnvironment(WrapperContract):
    def wrap(self, env):
        mapping = [entry("piece", "OneHot", keep_original=True), entry("sizes", "UnSqueeze", dim=0)]
        return PreProcessingWrapper(env, mapping)


# The pre-processors, by example.


def box(shape: tuple[int, ...], dtype: Any = np.float32, high: float = 9) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(("n", "shape"), [(None, (24,)), (1, (2, 3, 4)), (2, (2, 12)), (3, (24,))])
def test_flatten_makes_one_of_the_last_axes(n, shape):
    numbers = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    processor = FlattenPreProcessor(box((2, 3, 4), np.int16), n)
    flat = processor.process(numbers)
    assert flat.shape == processor.processed_space().shape == shape
    assert flat.ravel().tolist() == list(range(24))
    assert flat.dtype == processor.processed_space().dtype == np.int16


def test_a_number_without_a_shape_becomes_a_vector():
    processor = FlattenPreProcessor(box(()))
    assert processor.process(np.array(2.0, np.float32)).tolist() == [2.0]
    assert processor.processed_space().shape == (1,)


def test_transpose_reorders_the_axes_and_the_bounds():
    low = np.arange(6, dtype=np.float64).reshape(1, 2, 3)
    processor = TransposePreProcessor(spaces.Box(low, low + 1, dtype=np.float64), [2, 0, 1])
    assert processor.process(low).tolist() == [[[0, 3]], [[1, 4]], [[2, 5]]]
    assert processor.processed_space().low.tolist() == [[[0, 3]], [[1, 4]], [[2, 5]]]
    assert processor.processed_space().high.tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]
    last_first = TransposePreProcessor(box((4, 5, 3)), [-1, 0, 1])
    assert last_first.processed_space().shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("dim", "shape"), [(-3, (1, 4, 5)), (0, (1, 4, 5)), (1, (4, 1, 5)), (-1, (4, 5, 1))]
)
def test_unsqueeze_inserts_an_axis(dim, shape):
    processor = UnSqueezePreProcessor(box((4, 5)), dim)
    assert processor.processed_space().shape == shape
    assert processor.process(np.zeros((4, 5), np.float32)).shape == shape


@pytest.mark.parametrize(
    ("space", "value", "one_hot"),
    [
        (spaces.Discrete(4), 2, [0, 0, 1, 0]),
        (spaces.Discrete(3, start=-1), np.int64(-1), [1, 0, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (spaces.MultiDiscrete([2, 2], start=[5, 6]), np.array([5, 7]), [1, 0, 0, 1]),
        (box((2,), np.uint8, 2), np.array([2, 0], np.uint8), [[0, 0, 1], [1, 0, 0]]),
        (box((1, 2), np.float32, 1), np.array([[1, 0]], np.float32), [[[0, 1], [1, 0]]]),
        (box((), np.int32, 2), np.array(1, np.int32), [0, 1, 0]),
    ],
    ids=repr,
)
def test_one_hot_has_a_one_at_the_place_of_each_number(space, value, one_hot):
    processor = OneHotPreProcessor(space)
    processed = processor.process(value)
    assert processed.tolist() == one_hot
    assert processor.processed_space() == spaces.Box(0, 1, np.shape(one_hot), np.float32)
    assert processor.processed_space().contains(processed)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Discrete(4), 4),
        (spaces.Discrete(4), -1),
        (spaces.Discrete(3, start=2), 1),
        (spaces.MultiDiscrete([2, 3]), np.array([2, 0])),
        (box((1,), np.float32, 3), np.array([0.5], np.float32)),
        (box((1,), np.float32, 3), np.array([np.nan], np.float32)),
        (box((1,), np.float32, 3), np.array([4], np.float32)),
    ],
    ids=repr,
)
def test_a_number_without_a_place_is_an_error(space, value):
    with pytest.raises(SpaceError, match="has no one-hot form"):
        OneHotPreProcessor(space).process(value)


@pytest.mark.parametrize(
    ("rgb", "gray"),
    [
        ([255, 255, 255], 255),
        ([0, 0, 0], 0),
        ([255, 0, 0], 76),  # 76.245
        ([0, 255, 0], 150),  # 149.685
        ([0, 0, 255], 29),  # 29.07
        ([1, 2, 3], 2),  # 1.815
    ],
)
def test_gray_weighs_the_colours(rgb, gray):
    image = np.array(rgb, np.uint8).reshape(1, 1, 3)
    of_bytes = Rgb2GrayPreProcessor(box((1, 1, 3), np.uint8, 255)).process(image)
    assert (of_bytes.tolist(), str(of_bytes.dtype)) == ([[gray]], "uint8")
    of_integers = Rgb2GrayPreProcessor(box((1, 1, 3), np.int32)).process(image.astype(np.int32))
    assert (of_integers.tolist(), str(of_integers.dtype)) == ([[gray]], "int32")
    exact = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    for dtype in (np.float32, np.float64):
        of_floats = Rgb2GrayPreProcessor(box((1, 1, 3), dtype)).process(image.astype(dtype))
        assert of_floats[0, 0] == pytest.approx(exact)
        assert of_floats.dtype == dtype


def test_gray_of_bytes_is_what_pillow_makes():
    from PIL import Image

    image = np.random.default_rng(1).integers(256, size=(40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).convert("L"))
    gray = Rgb2GrayPreProcessor(box(image.shape, np.uint8, 255)).process(image)
    assert np.array_equal(gray, expected)
    first = Rgb2GrayPreProcessor(box((3, 40, 50), np.uint8, 255), rgb_dim=0)
    assert np.array_equal(first.process(np.moveaxis(image, 2, 0)), expected)


def test_resizing_takes_the_mean_of_the_area_that_a_pixel_covers():
    image = np.array([[0, 2, 10, 10], [4, 6, 30, 30]])
    for dtype in (np.uint8, np.float32):
        processor = ResizeImgPreProcessor(box((2, 4), dtype, 255), [1, 2])
        assert processor.process(image.astype(dtype)).tolist() == [[3, 20]]
    nearest = ResizeImgPreProcessor(box((2, 4), np.uint8), [4, 8], resample="nearest")
    assert nearest.process(image.astype(np.uint8))[::2, ::2].tolist() == image.tolist()


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_channel_is_resized_by_itself(n_channels, dtype):
    rng = np.random.default_rng(2)
    image = rng.integers(256, size=(9, 7, n_channels)).astype(dtype)
    image[:, :, -1] = 0  # as an opacity, it would make all others vanish
    space, plane = box(image.shape, dtype, 255), box((9, 7), dtype, 255)
    resized = ResizeImgPreProcessor(space, [4, 5], resample="bilinear").process(image)
    assert (resized.shape, resized.dtype) == ((4, 5, n_channels), dtype)
    alone = ResizeImgPreProcessor(plane, [4, 5], resample="bilinear")
    for index in range(n_channels):
        assert np.array_equal(resized[:, :, index], alone.process(image[:, :, index]))
    first = np.moveaxis(image, 2, 0)
    processor = ResizeImgPreProcessor(
        box(first.shape, dtype, 255), [4, 5], transpose=True, resample="bilinear"
    )
    assert np.array_equal(processor.process(first), np.moveaxis(resized, 2, 0))


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.float16])
def test_other_numbers_are_resized_as_floats(dtype):
    processor = ResizeImgPreProcessor(box((4, 4), dtype), [2, 2])
    assert processor.process(np.ones((4, 4), dtype)).dtype == np.float32
    assert processor.processed_space() == box((2, 2), np.float32)


def test_resizing_needs_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"Pillow.*maze-rollouts\[images\]"):
        ResizeImgPreProcessor(box((4, 4)), [2, 2])


IMAGES = st.sampled_from([np.uint8, np.int16, np.float32, np.float64]).flatmap(
    lambda dtype: (
        hnp.arrays(dtype, (2, 5, 4, 3), elements=st.integers(0, 200) if dtype == np.uint8 else None)
        if np.dtype(dtype).kind in "iu"
        else hnp.arrays(dtype, (2, 5, 4, 3), elements=st.floats(-1e6, 1e6, width=32))
    )
)


@settings(max_examples=60, deadline=None)
@given(
    bounds=IMAGES,
    make=st.sampled_from(
        [
            lambda space: FlattenPreProcessor(space, 2),
            lambda space: TransposePreProcessor(space, [1, 2, 0]),
            lambda space: UnSqueezePreProcessor(space, 1),
            Rgb2GrayPreProcessor,
            lambda space: ResizeImgPreProcessor(space, [3, 2], resample="box"),
            lambda space: ResizeImgPreProcessor(space, [7, 2], resample="bilinear"),
            lambda space: ResizeImgPreProcessor(space, [2, 9], resample="hamming"),
            lambda space: ResizeImgPreProcessor(space, [7, 9], resample="nearest"),
        ]
    ),
    unbounded=st.sampled_from([(), ("low",), ("low", "high")]),
)
def test_the_space_contains_every_observation(bounds, make, unbounded):
    low, high = bounds.min(axis=0), bounds.max(axis=0)
    inside = [low.copy(), high.copy(), *bounds]
    if bounds.dtype.kind == "f":
        if "low" in unbounded:
            low[:2] = -np.inf
        if "high" in unbounded:
            high[:] = np.inf
    processor = make(spaces.Box(low, high, dtype=bounds.dtype.type))
    space = processor.processed_space()
    for observation in inside:
        assert space.contains(processor.process(observation))


def test_a_pixel_that_is_not_bounded_leaves_no_bound_that_is_not_a_number():
    low = np.zeros((6, 6), np.float32)
    low[4] = -np.inf  # Some of its weights are zero.
    processor = ResizeImgPreProcessor(spaces.Box(low, np.inf), [2, 2], resample="bilinear")
    assert (processor.processed_space().low == -np.inf).all()
    assert (processor.processed_space().high == np.inf).all()


# The wrapper.


def test_entries_build_on_each_other():
    mapping = [
        entry("observation", "Rgb2Gray"),
        entry("observation-rgb2gray", "ResizeImg", target_size=[96, 96]),
        entry("observation-rgb2gray-resize_img", "UnSqueeze", dim=-3),
    ]
    env = PreProcessingWrapper(echo(box((210, 160, 3), np.uint8, 255)), mapping)
    key = "observation-rgb2gray-resize_img-unsqueeze"
    assert env.observation_space == spaces.Dict({key: box((1, 96, 96), np.uint8, 255)})
    observation, _ = env.reset(seed=1)
    assert list(observation) == [key]
    assert env.observation_space.contains(observation)


def test_the_original_can_be_kept():
    env = PreProcessingWrapper(TwoStepEnv(), [entry("piece", "OneHot", keep_original=True)])
    env.reset(seed=1)
    observation, *_ = env.step({"piece": 3})
    assert observation["piece"] == 3
    assert observation["piece-one_hot"].tolist() == [0, 0, 0, 1]
    assert set(observation) == set(env.observation_spaces["place"]) == {
        "size", "piece", "piece-one_hot",
    }  # fmt: skip


def test_a_step_key_without_the_observation_is_left_alone():
    inner = TwoStepEnv()
    env = PreProcessingWrapper(inner, [entry("piece", "OneHot")])
    assert env.observation_spaces["select"] is inner.observation_spaces["select"]
    given, _ = inner.reset(seed=1)
    assert env.observation(given) is given


def test_the_observation_of_the_environment_is_left_as_it_is():
    inner = echo(box((2, 3)))
    env = PreProcessingWrapper(inner, [entry("observation", "Flatten")])
    observation, _ = inner.reset(seed=1)
    env.observation(observation)
    assert list(observation) == ["observation"]
    assert observation["observation"].shape == (2, 3)


def test_an_environment_that_uses_its_buffer_again_is_recorded_as_it_was(tmp_path):
    wrappers = {PreProcessingWrapper: {"pre_processor_mapping": [entry("observation", "Flatten")]}}
    runner = sequential(n_episodes=1, output_dir=tmp_path)
    result = runner.run_with(ReusedBufferEnv, wrappers=wrappers, seeding=SEEDING)
    (trajectory,) = open_run(result)
    column = trajectory.by_step_key[0].observations["observation-flatten"]
    assert np.asarray(column).ravel().tolist() == [0, 1, 2, 3, 4]


def test_other_axes_are_recorded_as_they_were(tmp_path):
    mapping = [entry("observation", "Transpose", axes=[1, 0], keep_original=True)]
    runner = sequential(n_episodes=1, max_episode_steps=3, output_dir=tmp_path)
    result = runner.run_with(
        EchoEnv(box((2, 3)), spaces.Discrete(2)),
        wrappers={PreProcessingWrapper: {"pre_processor_mapping": mapping}},
        seeding=SEEDING,
    )
    (trajectory,) = open_run(result)
    columns = trajectory.by_step_key[0].observations
    original, transposed = (
        np.asarray(columns[key]) for key in ("observation", "observation-transpose")
    )
    assert transposed.shape == (4, 3, 2)
    assert np.array_equal(transposed, original.transpose(0, 2, 1))


def test_a_mask_cannot_be_taken_away():
    env = tank_env()
    mapping = [
        {"observation": "allowed", "_target_": f"{__name__}.Negated", "keep_original": False}
    ]
    with pytest.raises(ConfigError, match="'allowed', which is the mask of the action 'sell'"):
        PreProcessingWrapper(env, mapping)
    mapping[0]["keep_original"] = True
    wrapped = PreProcessingWrapper(env, mapping)
    assert set(wrapped.observation_space) == {"litres", "allowed", "allowed-negated"}
    assert wrapped.action_masks == env.action_masks


class Negated(PreProcessor):
    """A pre-processor of one's own."""

    tag = "negated"

    def processed_space(self):
        return self.observation_space

    def process(self, observation):
        return 1 - observation


@pytest.mark.parametrize("target", [Negated, f"{__name__}.Negated"])
def test_a_pre_processor_of_ones_own(target):
    space = spaces.MultiBinary(3)
    env = PreProcessingWrapper(echo(space), [PreProcessing("observation", target)])
    given = {"observation": np.array([1, 0, 0], np.int8)}
    assert env.observation(given)["observation-negated"].tolist() == [0, 1, 1]


def test_what_a_config_names_is_imported_only_if_trusted():
    path = "maze.core.wrappers.preprocessing_wrapper.PreProcessingWrapper"
    mapping = [entry("observation", "Flatten"), {"observation": "a", "_target_": "canary.X"}]
    config = {"wrappers": {path: {"pre_processor_mapping": mapping}}}
    assert what_would_be_imported(config) == ["canary.X"]


def test_it_works_below_and_above_other_wrappers():
    stack = [{"observation": "observation-flatten", "stack_steps": 2}]
    env: StructuredEnv = PreProcessingWrapper(echo(box((2, 2))), [entry("observation", "Flatten")])
    env = ObservationStackWrapper(env, stack)
    env = PreProcessingWrapper(env, [entry("observation-flatten", "Transpose", axes=[1, 0])])
    assert env.observation_space["observation-flatten-transpose"].shape == (4, 2)
    assert all(env.observation_space.contains(step.observation) for step in play(env))


def test_no_entries_change_nothing():
    env = PreProcessingWrapper(TwoStepEnv(), [])
    assert same(play(env), play(TwoStepEnv()))


@pytest.mark.parametrize(
    ("space", "mapping", "message"),
    [
        (box((3,)), 3, "'pre_processor_mapping' has to be a list"),
        (box((3,)), [3], r"'pre_processor_mapping\[0\]' has to be a mapping"),
        (box((3,)), [{"observation": "observation"}], "has no '_target_'"),
        (box((3,)), [{"_target_": "x"}], "has no 'observation'"),
        (box((3,)), [{**entry("observation", "Flatten"), "tag": 1}], "'.*tag' is not an option"),
        (box((3,)), [entry("observatoin", "Flatten")], "Did you mean 'observation'"),
        (
            box((3,)),
            [entry("observation", "Flatten"), entry("observation", "UnSqueeze", dim=0)],
            "not an observation at that point.*There are: observation-flatten",
        ),
        (
            box((3,)),
            [entry("observation", "Flatten", True), entry("observation", "Flatten")],
            "'observation-flatten', which exists already",
        ),
        (box((3,)), [{**entry("observation", "Flatten"), "keep_original": 1}], "true or false"),
        (box((3,)), [{**entry("observation", "Flatten"), "config": 1}], "has to be a mapping"),
        (box((3,)), [entry("observation", "Flatter")], "Did you mean 'FlattenPreProcessor'"),
        (box((3,)), [entry("observation", "Flatten", dims=1)], "num_flatten_dims"),
        (box((3,)), [entry("observation", "Flatten", num_flatten_dims=2)], r"\(3,\) has 1 axes"),
        (box((3,)), [entry("observation", "Flatten", num_flatten_dims=0)], "at least 1"),
        (spaces.Discrete(3), [entry("observation", "Flatten")], "transforms a Box, got Discrete"),
        (box((3,)), [entry("observation", "Transpose", axes=[0, 0])], "each of the 1 axes"),
        (box((3,)), [entry("observation", "Transpose", axes="0")], "each of the 1 axes"),
        (box((3,)), [entry("observation", "UnSqueeze", dim=2)], "from -2 to 1.*got 2"),
        (box((3,)), [entry("observation", "UnSqueeze")], "needs .*dim"),
        (spaces.Text(3), [entry("observation", "OneHot")], "Discrete.*got Text"),
        (spaces.Box(-1, 1, (2,)), [entry("observation", "OneHot")], "goes below"),
        (spaces.Box(0, np.inf, (2,)), [entry("observation", "OneHot")], "give .* a lower one"),
        (box((2, 2, 4)), [entry("observation", "Rgb2Gray")], r"three colours.*\(2, 2, 4\)"),
        (box((2, 2, 3)), [entry("observation", "Rgb2Gray", rgb_dim=3)], "an axis of.*got 3"),
        (box((2, 3), np.int64), [entry("observation", "Rgb2Gray")], "got int64"),
        (box((3,)), [entry("observation", "ResizeImg", target_size=[2, 2])], "of shape"),
        (box((3, 3)), [entry("observation", "ResizeImg", target_size=[2])], r"\[height, width\]"),
        (box((3, 3)), [entry("observation", "ResizeImg", target_size=[0, 2])], "at least 1"),
        (
            box((3, 3)),
            [entry("observation", "ResizeImg", target_size=[2, 2], resample="lanczos")],
            "one of box, bilinear",
        ),
    ],
)
def test_errors_of_the_configuration(space, mapping, message):
    with pytest.raises(ConfigError, match=message):
        PreProcessingWrapper(echo(space), mapping)


def test_an_observation_that_lacks_its_key_is_an_error():
    env = PreProcessingWrapper(echo(box((3,))), [entry("observation", "Flatten")])
    with pytest.raises(ContractError, match="no 'observation', which is in its space"):
        env.observation({"other": 1})
