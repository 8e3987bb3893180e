"""The parts that trainings are made of, each on its own, by examples to be checked by hand."""

# Wrong arguments are passed on purpose, and modules are of no known type.
# mypy: disable-error-code="arg-type, index, operator, union-attr"

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maze.core.env.structured_env import ActorID
from maze.core.errors import ConfigError, MazeError, OutputError
from maze.core.rollout.play import PlayOptions
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.train.advantages import explained_variance, generalized_advantages
from maze.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from maze.train.collect import CUT, GOES_ON, TERMINATED, Collector, LaneState, join_segments
from maze.train.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
    distributions_of,
)
from maze.train.flat_parameters import FlatParameters
from maze.train.models.blocks import (
    ConvolutionBlock,
    DenseBlock,
    MaskedPoolingBlock,
    RecurrentBlock,
    SelfAttentionBlock,
    mask_logits,
)
from maze.train.models.build import build_model
from maze.train.models.custom import CustomModel
from maze.train.models.template import TemplateModel
from maze.train.observations import ObservationEncoder
from maze.train.replay_buffer import ReplayBuffer
from maze.train.specs import EnvSpecs
from maze.train.torch_policy import Noise, TorchPolicy, load_weights
from maze.train.trainers.algorithm import AlgorithmState
from maze.train.trainers.es import centred_ranks
from maze_envs.logistics.cutting_2d.env import cutting_2d_structured_masked
from maze_envs.logistics.supply_chain.env import supply_chain_env as supply_chain
from tests.contracts import PolicyContract
from tests.envs import CountingEnv, TwoStepEnv


def cutting(max_episode_steps=20):
    return cutting_2d_structured_masked(
        6, (4, 3), static_demand=[(1, 2), (2, 2)], max_episode_steps=max_episode_steps
    )


# Advantages.


def advantages(rewards, values, times, follows, discount=0.5, gae_lambda=1.0):
    found = generalized_advantages(
        np.array(rewards, np.float64),
        np.array(values, np.float32),
        np.array(times),
        np.array(follows),
        discount,
        gae_lambda,
    )
    return found.advantage.tolist()


def test_after_a_termination_nothing_is_worth_anything():
    # 1 + 0.5 * 1 - 3 and 1 - 4.
    assert advantages([1, 1], [3, 4], [0, 1], [GOES_ON, TERMINATED]) == [-1.5, -3.0]


def test_where_an_episode_is_cut_the_value_of_the_last_state_stands_for_the_rest():
    # 1 + 0.5 * 8 - 3; the decision that is cut has no advantage.
    assert advantages([1, 0], [3, 8], [0, 1], [GOES_ON, CUT]) == [2.0, 0.0]


def test_sub_steps_of_one_step_are_not_discounted():
    rewards, values = [0, 2, 0, 2], [0, 0, 0, 0]
    follows = [GOES_ON, GOES_ON, GOES_ON, TERMINATED]
    assert advantages(rewards, values, [0, 0, 1, 1], follows) == [3.0, 3.0, 2.0, 2.0]


def test_an_agent_that_waits_is_discounted_for_each_step():
    assert advantages([0, 8], [0, 0], [0, 3], [GOES_ON, TERMINATED]) == [1.0, 8.0]


def test_chains_do_not_leak_into_each_other():
    follows = [TERMINATED, GOES_ON, CUT, TERMINATED]
    assert advantages([1, 2, 0, 100], [0, 0, 4, 0], [5, 0, 1, 9], follows) == [1.0, 4.0, 0.0, 100.0]


def test_lambda_zero_looks_one_step_ahead():
    follows = [GOES_ON, GOES_ON, TERMINATED]
    assert advantages([1, 1, 1], [0, 2, 2], [0, 1, 2], follows, gae_lambda=0.0) == [2.0, 0.0, -1.0]


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from([0, 0, 0, 1, 2]))),
    st.floats(0, 1),
)
def test_monte_carlo_advantages_are_returns_minus_values(steps, discount):
    rewards = [r for r, _, _ in steps]
    values = [float(np.float32(v)) for _, v, _ in steps]
    follows = [what for _, _, what in steps]
    if not steps:
        return
    follows[-1] = TERMINATED
    found = advantages(rewards, values, list(range(len(steps))), follows, discount)
    expected, following = [0.0] * len(steps), 0.0
    for i in reversed(range(len(steps))):
        if follows[i] == CUT:
            following = values[i]
            continue
        following = rewards[i] + (discount * following if follows[i] == GOES_ON else 0.0)
        expected[i] = following - values[i]
    assert found == pytest.approx(expected, abs=1e-3)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant():
    actual = np.array([1, 2, 3], np.float32)
    assert explained_variance(actual, actual) == 1
    assert explained_variance(np.full(3, 2, np.float32), actual) == 0
    assert math.isnan(explained_variance(actual, np.ones(3, np.float32)))


# Distributions.

BOX = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))


def draw(distribution, logits, n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.array([logits], np.float32), n, 0)
    uniform = rng.random((n, distribution.n_uniform))
    return distribution.sample(rows, uniform, rng.standard_normal((n, distribution.n_normal)))


def torch_of(distribution, logits):
    """The same in torch.distributions, over codes."""
    t = torch.tensor([logits])
    if isinstance(distribution, Categorical):
        return torch.distributions.Categorical(logits=t)
    if isinstance(distribution, Bernoulli):
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=t), 1)
    mean, log_std = t.chunk(2, 1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


CASES = [
    (Categorical(spaces.Discrete(3, start=5)), [0.5, -1.0, 2.0]),
    (Bernoulli(spaces.MultiBinary((2, 2))), [0.0, 2.0, -1.0, 0.5]),
    (DiagonalGaussian(BOX), [0.5, -0.5, -1.0, 0.3]),
]


@pytest.mark.parametrize(("distribution", "logits"), CASES, ids=lambda x: type(x).__name__)
def test_log_probabilities_and_entropies_are_those_of_torch(distribution, logits):
    codes = draw(distribution, logits, n=50)
    rows = torch.tensor([logits]).expand(50, -1)
    reference = torch_of(distribution, logits)
    given_codes = torch.from_numpy(codes)
    squeezed = given_codes.squeeze(1) if isinstance(distribution, Categorical) else given_codes
    assert torch.allclose(
        distribution.log_prob(rows, given_codes), reference.log_prob(squeezed), atol=1e-5
    )
    assert torch.allclose(distribution.entropy(rows)[:1], reference.entropy(), atol=1e-5)


def test_numbers_of_a_multi_discrete_are_independent_categoricals():
    distribution = MultiCategorical(spaces.MultiDiscrete([2, 3], start=[1, 4]))
    logits = torch.tensor([[0.0, 1.0, 3.0, 0.0, -1.0]])
    parts = [torch.distributions.Categorical(logits=part) for part in logits.split([2, 3], 1)]
    code = torch.tensor([[1, 2]])
    expected = parts[0].log_prob(code[:, 0]) + parts[1].log_prob(code[:, 1])
    assert torch.allclose(distribution.log_prob(logits, code), expected)
    assert torch.allclose(distribution.entropy(logits), parts[0].entropy() + parts[1].entropy())
    assert [value.tolist() for value in distribution.to_env(code.numpy())] == [[2, 6]]
    assert distribution.from_env(np.array([[2, 6]])).tolist() == [[1, 2]]
    assert distribution.mode(logits.numpy()).tolist() == [[1, 0]]


ALL = [
    *CASES,
    (MultiCategorical(spaces.MultiDiscrete([2, 3])), [0.0, 1.0, 3.0, 0.0, -1.0]),
    (SquashedGaussian(BOX), [0.5, -0.5, -1.0, 0.3]),
    (Beta(BOX), [0.5, 2.0, -1.0, 0.3]),
]


@pytest.mark.parametrize(("distribution", "logits"), ALL, ids=lambda x: type(x).__name__)
def test_actions_are_in_their_space_and_come_back_as_their_codes(distribution, logits):
    codes = draw(distribution, logits, n=200)
    actions = distribution.to_env(codes)
    assert len(actions) == 200
    assert all(distribution.space.contains(action) for action in actions)
    if not isinstance(distribution, DiagonalGaussian):  # Its actions are clipped.
        back = distribution.from_env(np.array(actions))
        assert np.allclose(back, codes, atol=1e-2)
    assert len(distribution.to_env(distribution.mode(np.array([logits], np.float32)))) == 1


@pytest.mark.parametrize(("distribution", "logits"), ALL, ids=lambda x: type(x).__name__)
def test_the_mean_log_probability_of_samples_is_minus_the_entropy(distribution, logits):
    codes = torch.from_numpy(draw(distribution, logits))
    rows = torch.tensor([logits])
    mean = float(distribution.log_prob(rows.expand(len(codes), -1), codes).mean())
    if isinstance(distribution, SquashedGaussian):
        return  # Log-probabilities are those of actions, and the entropy is an estimate.
    assert mean == pytest.approx(-float(distribution.entropy(rows)), abs=0.05)


def test_a_categorical_is_sampled_as_often_as_its_probabilities_say():
    distribution = Categorical(spaces.Discrete(3))
    counts = np.bincount(draw(distribution, np.log([0.2, 0.5, 0.3]).tolist())[:, 0]) / 20_000
    assert counts == pytest.approx([0.2, 0.5, 0.3], abs=0.02)


def test_what_is_masked_is_never_sampled():
    distribution = Categorical(spaces.Discrete(3))
    masked = mask_logits(torch.zeros(1, 3), torch.tensor([[1, 1, 0]])).numpy()
    edge = np.array([[np.nextafter(1.0, 0.0)]])
    assert distribution.sample(masked, edge, edge).tolist() == [[1]]
    assert distribution.sample(masked, np.zeros((1, 1)), edge).tolist() == [[0]]
    assert set(draw(distribution, masked[0].tolist())[:, 0].tolist()) == {0, 1}


def test_a_mask_that_allows_nothing_changes_nothing():
    logits = torch.tensor([[1.0, 2.0]])
    assert mask_logits(logits, torch.zeros(1, 2)).tolist() == [[1.0, 2.0]]


def test_the_density_of_a_squashed_gaussian_integrates_to_one():
    space = spaces.Box(-2.0, 3.0, (1,), np.float32)
    distribution = SquashedGaussian(space)
    actions = np.linspace(-2 + 1e-4, 3 - 1e-4, 20_001, dtype=np.float64)
    codes = torch.from_numpy(distribution.from_env(actions[:, None].astype(np.float32)))
    density = distribution.log_prob(torch.tensor([[0.3, -0.5]]).expand(len(codes), -1), codes).exp()
    assert float(torch.trapezoid(density.double(), torch.from_numpy(actions))) == pytest.approx(
        1.0, abs=0.01
    )


def test_gradients_pass_through_what_is_relaxed():
    for distribution in (SquashedGaussian(BOX), Categorical(spaces.Discrete(4))):
        logits = torch.zeros(3, distribution.n_logits, requires_grad=True)
        features, log_prob = distribution.rsample(logits, torch.rand(3, distribution.n_logits))
        assert features.shape == (3, distribution.n_features)
        assert log_prob.shape == (3,)
        (features * torch.arange(1.0, distribution.n_features + 1)).sum().backward()
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="SAC needs"):
        Bernoulli(spaces.MultiBinary(2)).rsample(torch.zeros(1, 2), torch.zeros(1, 2))


def test_a_squashed_gaussian_sampled_through_its_noise_has_the_density_that_it_says():
    distribution = SquashedGaussian(BOX)
    logits = torch.tensor([[0.5, -0.5, -1.0, 0.3]]).expand(100, -1)
    noise = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
    features, log_prob = distribution.rsample(logits, noise)
    codes = torch.atanh(features.double()).float()
    assert torch.allclose(distribution.log_prob(logits, codes), log_prob, atol=1e-2)


@pytest.mark.parametrize(
    ("space", "chosen", "said"),
    [
        ({"a": spaces.Text(3)}, {}, "no distribution"),
        ({"a": spaces.Box(0, np.inf, (1,))}, {"a": "beta"}, "bounds on both sides"),
        ({"a": spaces.Discrete(2)}, {"a": "gaussian"}, "for Box actions"),
        ({"a": spaces.Discrete(2)}, {"Discrete": "no.such"}, "no module"),
    ],
)
def test_a_distribution_that_does_not_fit_is_refused(space, chosen, said):
    with pytest.raises(ConfigError, match=said):
        distributions_of(spaces.Dict(space), chosen)


def test_distributions_are_chosen_by_head_or_by_kind_of_space():
    space = spaces.Dict({"a": BOX, "b": BOX, "c": spaces.Discrete(2)})
    found = distributions_of(space, {"Box": "beta", "b": "squashed_gaussian"})
    assert [type(one) for one in found.values()] == [Beta, SquashedGaussian, Categorical]


# Observations.


def test_observations_become_floats_one_hot_codes_and_fractions():
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (2, 2), np.uint8),
            "gear": spaces.Discrete(3, start=1),
            "dials": spaces.MultiDiscrete([2, 3]),
            "robot": spaces.Dict({"on": spaces.MultiBinary(2), "x": spaces.Box(-1, 1, (1,))}),
        }
    )
    encoder = ObservationEncoder(space)
    assert dict(encoder.shapes) == {
        "camera": (2, 2), "dials": (5,), "gear": (3,), "robot/on": (2,), "robot/x": (1,),
    }  # fmt: skip
    observation = {
        "camera": np.full((2, 2), 51, np.uint8),
        "gear": 3,
        "dials": np.array([1, 0]),
        "robot": {"on": np.array([0, 1], np.int8), "x": np.array([0.5], np.float32)},
    }
    arrays = encoder.stack([observation])
    assert arrays["camera"].dtype == np.uint8
    tensors = encoder.tensors(arrays)
    assert {name: value.flatten().tolist() for name, value in tensors.items()} == {
        "camera": pytest.approx([0.2] * 4),
        "dials": [0, 1, 1, 0, 0],
        "gear": [0, 0, 1],
        "robot/on": [0, 1],
        "robot/x": [0.5],
    }
    observation["camera"][:] = 0
    assert arrays["camera"].max() == 51


def test_an_observation_without_a_fixed_shape_is_refused():
    with pytest.raises(ConfigError, match="no fixed shape"):
        ObservationEncoder(spaces.Dict({"words": spaces.Text(5)}))


# Blocks.


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (DenseBlock((3, 2), [8, 5]), (3, 2)),
        (DenseBlock((4,), [8], activation="torch.nn.Softplus", layer_norm=True), (4,)),
        (DenseBlock((4,), []), (4,)),
        (ConvolutionBlock((3, 44, 44)), (3, 44, 44)),
        (ConvolutionBlock((44, 44, 3)), (44, 44, 3)),
        (ConvolutionBlock((44, 44)), (44, 44)),
        (RecurrentBlock((4, 3), 6), (4, 3)),
        (RecurrentBlock((4, 3), 6, cell="lstm", n_layers=2, all_steps=True), (4, 3)),
        (SelfAttentionBlock((5, 3), 8, 2), (5, 3)),
        (MaskedPoolingBlock((5, 3)), (5, 3)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_block_returns_the_shape_that_it_tells(block, shape):
    assert block(torch.rand(7, *shape)).shape == (7, *block.out_shape)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DenseBlock((3,), activation="thanh"), "no activation 'thanh'"),
        (lambda: DenseBlock((3,), [0]), "numbers from 1"),
        (lambda: ConvolutionBlock((4, 4)), "too small"),
        (lambda: ConvolutionBlock((4,)), "2 or 3 dimensions"),
        (lambda: ConvolutionBlock((40, 40), kernels=[3]), "a kernel and a stride for each"),
        (lambda: RecurrentBlock((4,)), "sequence"),
        (lambda: RecurrentBlock((4, 2), cell="rnn"), "gru or lstm"),
        (lambda: SelfAttentionBlock((4, 2), 6, 4), "does not divide"),
        (lambda: MaskedPoolingBlock((4, 2), "median"), "mean, sum or max"),
    ],
)
def test_a_block_refuses_what_it_cannot_do(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_pooling_and_attention_do_not_see_what_is_masked():
    values = torch.rand(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    changed = values.clone()
    changed[:, 2:] = 9
    for pooling in ("mean", "sum", "max"):
        block = MaskedPoolingBlock((4, 3), pooling)
        assert torch.equal(block(values, mask), block(changed, mask))
        assert block(values, mask)[1].tolist() == [0, 0, 0]
    attention = SelfAttentionBlock((4, 3), 8, 2)
    with torch.no_grad():
        seen, unseen = attention(values, mask)[0, :2], attention(changed, mask)[0, :2]
        assert torch.allclose(seen, unseen, atol=1e-6)
        assert attention(values, mask).isfinite().all()


def test_a_recurrence_depends_on_the_order():
    block = RecurrentBlock((3, 2), 5)
    values = torch.rand(1, 3, 2)
    assert not torch.allclose(block(values), block(values.flip(1)))


# Parameters as one vector.


def test_parameters_are_views_of_one_vector_and_so_are_their_gradients():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    flat = FlatParameters([network])
    assert flat.vector.numel() == 2 * 3 + 3 + 3 + 1
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    network(torch.ones(1, 2)).sum().backward()
    assert flat.vector.grad is not None
    assert torch.equal(flat.vector.grad[:6].view(3, 2), network[0].weight.grad)
    flat.vector.data.zero_()
    assert network[1].bias.item() == 0
    norm = flat.clip_grad(0.5)
    assert float(torch.linalg.vector_norm(flat.vector.grad)) == pytest.approx(
        min(0.5, float(norm)), rel=1e-4
    )
    flat.zero_grad()
    assert network[0].weight.grad.abs().sum() == 0


# Models.


def specs_of(env):
    return EnvSpecs.of(env)


def dense(*units):
    return {"_target_": DenseBlock, "hidden_units": list(units)}


def template(env, **options):
    options.setdefault("modalities", {"vector": dense(8)})
    return TemplateModel(specs_of(env), **options)


def test_a_model_has_networks_for_each_step_key_and_masks_their_logits():
    model = template(cutting())
    assert list(model.networks) == ["0", "1"]
    network = model.networks["0"]
    rows = {key: torch.rand(3, *shape) for key, shape in network.encoder.shapes.items()}
    rows["inventory_mask"] = torch.zeros(3, *network.encoder.shapes["inventory_mask"])
    rows["inventory_mask"][:, 4] = 1
    logits, shown = model.outputs("0", rows)
    assert logits[:, 4].min() > -1e6
    assert logits[:, :4].max() == -1e8
    assert model.values("0", shown, None).shape == (3,)
    assert not any("mask" in name for name in dict(model.named_parameters()))


def test_agents_may_have_networks_of_their_own():
    env = supply_chain()
    model = template(env, separate_agent_networks=["order"])
    assert list(model.networks) == [f"order_agent_{i}" for i in range(4)]
    assert model.network_of(ActorID("order", 2)) == "order_agent_2"
    assert template(env).network_of(ActorID("order", 2)) == "order"
    with pytest.raises(ConfigError, match="separate_agent_networks"):
        template(env, separate_agent_networks=["orders"])


def test_a_shared_embedding_is_what_the_critic_sees_and_teaches():
    model = template(GymMazeEnv("CartPole-v1"), hidden=dense(8), shared_embedding=True)
    _, shown = model.outputs("0", {"observation": torch.rand(2, 4)})
    model.values("0", shown, None).sum().backward()
    body = next(iter(model.policies["0"].body.parameters()))
    assert body.grad is not None
    assert body.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="critic=step"):
        template(GymMazeEnv("CartPole-v1"), shared_embedding=True, critic="shared")


@pytest.mark.parametrize("critic", ["step", "shared", "delta"])
def test_values_of_sub_steps_come_about_as_the_critic_says(critic):
    model = template(TwoStepEnv(), critic=critic)
    first = ("select", {"sizes": torch.rand(2, 4)})
    place = {"size": torch.rand(2, 1), "piece": torch.eye(4)[:2]}
    value = model.values("place", place, first)
    of_first = model.values("select", first[1], None)
    if critic == "shared":
        assert list(model.critics) == ["select"]
        assert torch.equal(value, of_first)
    elif critic == "delta":
        own = model.critics["place"](place).squeeze(1)
        assert torch.allclose(value, of_first + own)
    else:
        assert torch.equal(value, model.critics["place"](place).squeeze(1))


def test_a_recurrent_model_goes_through_stacked_observations():
    from maze.core.wrappers.observation_stack_wrapper import ObservationStackWrapper

    env = ObservationStackWrapper(
        GymMazeEnv("CartPole-v1"), [{"observation": "observation", "stack_steps": 3}]
    )
    recurrence = {"_target_": RecurrentBlock, "hidden_units": 6}
    model = template(env, recurrence=recurrence)
    logits, _ = model.outputs("0", {"observation": torch.rand(2, 3, 4)})
    assert logits.shape == (2, 2)
    with pytest.raises(ConfigError, match="time as its first"):
        template(GymMazeEnv("CartPole-v1"), recurrence=recurrence)


def test_a_modality_without_a_block_is_told_with_the_model_that_has_it():
    env = GymMazeEnv("CartPole-v1")
    with pytest.raises(ConfigError, match="model=vector_obs"):
        template(env, modalities={"pixel": dense(3)})


class TwoHeads(nn.Module):
    def __init__(self, observation_shapes, action_logits_shapes):
        super().__init__()
        (n_in,) = (sum(math.prod(s) for s in observation_shapes.values()),)
        self.layers = nn.ModuleDict(
            {head: nn.Linear(n_in, shape[0]) for head, shape in action_logits_shapes.items()}
        )

    def forward(self, tensors):
        joined = torch.cat([value.flatten(1) for value in tensors.values()], 1)
        return {**{h: layer(joined) for h, layer in self.layers.items()}, "seen": joined[:, :1]}


class ValueOf(nn.Module):
    def __init__(self, observation_shapes, name="seen"):
        super().__init__()
        self.name = name
        self.layer = nn.Linear(observation_shapes[name][0], 1)

    def forward(self, tensors):
        return {"value": self.layer(tensors[self.name])}


def test_own_networks_get_the_shapes_and_share_what_else_they_return():
    path = "tests.test_training_parts"
    model = build_model(
        {
            "_target_": "maze.train.models.custom.CustomModel",
            "policies": {key: {"_target_": f"{path}.TwoHeads"} for key in ("select", "place")},
            "critics": {key: {"_target_": f"{path}.ValueOf"} for key in ("select", "place")},
        },
        specs_of(TwoStepEnv()),
    )
    logits, shown = model.outputs("place", {"size": torch.rand(2, 1), "piece": torch.eye(4)[:2]})
    assert logits.shape == (2, 4 + 2)  # Means and deviations of two numbers, and two logits.
    assert shown["seen"].shape == (2, 1)
    assert model.values("place", shown, None).shape == (2,)


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"select": {"_target_": TwoHeads}}, "no network for step key 'place'"),
        ({key: {"_target_": ValueOf, "name": "x"} for key in ("select", "place")}, "x"),
        (dict.fromkeys(("select", "place"), nn.Linear(3, 3)), "does not take its observations"),
    ],
)
def test_own_networks_that_do_not_fit_are_refused(policies, said):
    with pytest.raises((ConfigError, KeyError), match=said):
        CustomModel(specs_of(TwoStepEnv()), policies)


def test_the_same_seed_makes_the_same_weights_and_leaves_torch_alone():
    specs = specs_of(GymMazeEnv("CartPole-v1"))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (build_model(None, specs, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


# Specs.


def test_specs_come_back_from_json_as_they_were(tmp_path):
    for env in (cutting(), supply_chain(), GymMazeEnv("CartPole-v1")):
        specs = specs_of(env)
        specs.save(tmp_path)
        loaded = EnvSpecs.load(tmp_path)
        assert loaded == specs
        loaded.check_fits(specs)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("Acrobot-v1", r"observation 'observation' was in .*\(4,\).*, here it is in .*\(6,\)"),
        (TwoStepEnv(), r"step keys are \[0\], here they are \['select', 'place'\]"),
    ],
)
def test_another_environment_is_refused_by_the_first_difference(other, said):
    here = specs_of(GymMazeEnv(other) if isinstance(other, str) else other)
    with pytest.raises(ConfigError, match=said):
        specs_of(GymMazeEnv("CartPole-v1")).check_fits(here)


def test_damaged_specs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no spaces.json"):
        EnvSpecs.load(tmp_path)
    (tmp_path / "spaces.json").write_text('{"step_keys": [{"step_key": []}]}')
    with pytest.raises(ConfigError, match="cannot be read"):
        EnvSpecs.load(tmp_path)


# Policies.


class TestTorchPolicy(PolicyContract):
    def make_policy(self, env):
        model = build_model(None, specs_of(env), seed=3)
        return TorchPolicy(model, batch_size=4)


class TestTorchPolicyOfMaskedSubSteps(PolicyContract):
    def make_env(self):
        return cutting(8)

    def make_policy(self, env):
        return TorchPolicy(build_model(None, specs_of(env), seed=3), batch_size=4)


def test_noise_does_not_depend_on_how_much_was_asked_before():
    drawn = [Noise(7, 2, 1) for _ in range(2)]
    first = [drawn[0].next() for _ in range(130)]
    second = [drawn[1].next() for _ in range(130)]
    for (u, n), (v, m) in zip(first, second, strict=True):
        assert u.tolist() == v.tolist()
        assert n.tolist() == m.tolist()
    assert len({tuple(u) for u, _ in first}) == 130


def test_weights_of_another_model_are_refused(tmp_path):
    specs = specs_of(GymMazeEnv("CartPole-v1"))
    model = build_model(None, specs)
    path = tmp_path / "w.pt"
    torch.save(model.state_dict(), path)
    load_weights(build_model(None, specs, 9), path)
    narrow = TemplateModel(specs, {"vector": dense(3)})
    with pytest.raises(ConfigError, match="of another model"):
        load_weights(narrow, path)
    with pytest.raises(ConfigError, match="no weights"):
        load_weights(model, tmp_path / "no.pt")
    path.write_bytes(b"not a file of weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load_weights(model, path)


def test_weights_that_would_run_code_are_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    path = tmp_path / "w.pt"
    torch.save({"policies.x": Evil()}, path)
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load_weights(build_model(None, specs_of(GymMazeEnv("CartPole-v1"))), path)
    assert not (tmp_path / "pwned").exists()


def test_a_device_that_is_not_there_is_refused():
    model = build_model(None, specs_of(GymMazeEnv("CartPole-v1")))
    with pytest.raises(ConfigError, match="cannot be used here"):
        TorchPolicy(model, device="cuda:7")
    with pytest.raises(ConfigError, match="batch_size"):
        TorchPolicy(model, batch_size=0)


# Collecting.


def collector(make_env, n_lanes=2, max_episode_steps=0, part_steps=0, **options):
    model = build_model(None, specs_of(make_env()), seed=1)
    return Collector(
        make_env,
        TorchPolicy(model, batch_size=4),
        range(n_lanes),
        seed=5,
        options=PlayOptions(max_episode_steps, part_steps),
        **options,
    )


def counting(n_steps=None):
    return lambda: GymMazeEnv(CountingEnv(n_steps))


def told(segment):
    """Rewards, times, what follows, and what was observed, decision by decision."""
    observed = {name: next(iter(rows.observations.values())) for name, rows in segment.rows.items()}
    return [
        (reward, time, follows, float(observed[segment.networks[network]][row].ravel()[0]))
        for reward, time, follows, network, row in zip(
            segment.reward.tolist(), segment.time.tolist(), segment.follows.tolist(),
            segment.network.tolist(), segment.row.tolist(), strict=True,
        )
    ]  # fmt: skip


def test_segments_go_on_where_the_last_one_was_cut():
    lanes = collector(counting(), n_lanes=1)
    first, second = lanes.collect(2), lanes.collect(2)
    assert told(first) == [(1, 0, GOES_ON, 0), (2, 1, GOES_ON, 1), (0, 2, CUT, 2)]
    assert told(second) == [(3, 2, GOES_ON, 2), (4, 3, GOES_ON, 3), (0, 4, CUT, 4)]
    assert first.n_steps == 2


@pytest.mark.parametrize("make_env", [counting(), cutting])
def test_that_long_episodes_are_handed_over_in_parts_does_not_show(make_env):
    whole, parts = (collector(make_env, part_steps=n) for n in (0, 2))
    for _ in range(3):
        assert told(whole.collect(7)) == told(parts.collect(7))


def test_a_termination_ends_a_chain_and_the_next_episode_begins():
    segment = collector(counting(3), n_lanes=1).collect(4)
    assert told(segment) == [
        (1, 0, GOES_ON, 0), (2, 1, GOES_ON, 1), (3, 2, TERMINATED, 2),
        (1, 0, GOES_ON, 0), (0, 1, CUT, 1),
    ]  # fmt: skip
    assert [(one.episode_return, one.ending) for one in segment.episodes] == [(6.0, "terminated")]


def test_a_time_limit_keeps_the_last_observation_for_its_value():
    segment = collector(counting(), n_lanes=1, max_episode_steps=2).collect(2)
    assert told(segment) == [(1, 0, GOES_ON, 0), (2, 1, GOES_ON, 1), (0, 2, CUT, 2)]
    assert [one.ending for one in segment.episodes] == ["truncated"]


def test_sub_steps_make_one_chain_and_know_the_first_of_their_step():
    segment = collector(lambda: TwoStepEnv(2), n_lanes=1).collect(2)
    assert segment.time.tolist() == [0, 0, 1, 1]
    assert segment.follows.tolist() == [GOES_ON, GOES_ON, GOES_ON, TERMINATED]
    assert segment.network.tolist() == [0, 1, 0, 1]
    assert segment.first_network.tolist() == [0, 0, 0, 0]
    assert segment.first_row.tolist() == [0, 0, 1, 1]
    assert (segment.reward[[0, 2]] == 0).all()
    assert (segment.reward[[1, 3]] > 0).all()


def test_agents_have_chains_and_rewards_of_their_own():
    segment = collector(supply_chain, n_lanes=1).collect(3)
    assert segment.time.tolist() == [0, 1, 2] * 4
    assert segment.follows.tolist() == [GOES_ON, GOES_ON, CUT] * 4
    joint = collector(supply_chain, n_lanes=1, credit="joint").collect(3)
    assert joint.time.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3]
    own = segment.reward.reshape(4, 3).sum(0)
    assert own[:2] == pytest.approx(joint.reward[:12].reshape(3, 4).sum(1)[:2])


def test_lanes_play_the_same_whoever_else_plays():
    alone = [
        Collector(
            counting(5), TorchPolicy(build_model(None, specs_of(counting()()), 1), batch_size=4),
            [i], seed=5, options=PlayOptions(),
        ).collect(7)
        for i in range(3)
    ]  # fmt: skip
    together = collector(counting(5), n_lanes=3).collect(7)
    joined = join_segments(alone)
    assert told(joined) == told(together)
    for head, codes in joined.rows["0"].codes.items():
        order = np.argsort(joined.row, kind="stable")
        other = together.rows["0"].codes[head][together.row[order]]
        assert codes[joined.row[order]].tolist() == other.tolist()


@pytest.mark.parametrize("make_env", [lambda: GymMazeEnv("LunarLander-v3"), TwoStepEnv, cutting])
def test_a_restored_lane_goes_on_as_if_nothing_had_happened(make_env, tmp_path):
    one = collector(make_env)
    one.collect(10)
    numbers = AlgorithmState({}, {"n_updates": 1})
    save_checkpoint(tmp_path, 1, Checkpoint({}, numbers, one.states(), {}))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    other = collector(make_env)
    other.restore(loaded.lanes)
    expected, found = one.collect(60), other.collect(60)
    assert told(expected) == told(found)
    for name, rows in expected.rows.items():
        for head, codes in rows.codes.items():
            assert codes.tolist() == found.rows[name].codes[head].tolist()


class FailsAtThree(CountingEnv):
    def step(self, action):
        if self.count == 3:
            raise ValueError("three")
        return super().step(action)


def test_what_came_before_a_failure_is_learnt_from_and_failures_are_counted():
    lanes = collector(lambda: GymMazeEnv(FailsAtThree()), n_lanes=1, max_failures=2)
    segment = lanes.collect(4)
    assert told(segment) == [
        (1, 0, GOES_ON, 0), (2, 1, GOES_ON, 1), (3, 2, GOES_ON, 2), (0, 3, CUT, 3),
    ]  # fmt: skip
    assert ["three" in one.error for one in segment.episodes] == [True]
    with pytest.raises(MazeError, match=r"3 episodes have failed.*\n?.*three"):
        lanes.collect(20)


# Transitions.


def test_transitions_lead_to_what_followed_and_terminations_to_nothing():
    buffer = ReplayBuffer(100, discount=0.5)
    assert buffer.add(collector(counting(3), n_lanes=1).collect(4)) == 4
    (drawn,) = buffer.sample(np.random.default_rng(0), 400).values()
    rows = set(
        zip(
            drawn.observations["observation"].ravel().tolist(), drawn.reward.tolist(),
            drawn.discount.tolist(), strict=True,
        )
    )  # fmt: skip
    assert rows == {(0.0, 1.0, 0.5), (1.0, 2.0, 0.5), (2.0, 3.0, 0.0)}
    goes_on = drawn.discount > 0
    following = drawn.next_observations["observation"].ravel()
    assert (following[goes_on] == drawn.observations["observation"].ravel()[goes_on] + 1).all()


def test_sub_steps_are_kept_by_who_follows_whom_without_a_discount_within_a_step():
    buffer = ReplayBuffer(100, discount=0.5)
    buffer.add(collector(lambda: TwoStepEnv(4), n_lanes=1).collect(3))
    drawn = buffer.sample(np.random.default_rng(0), 60)
    assert set(drawn) == {("select", "place"), ("place", "select")}
    assert set(drawn["select", "place"].discount.tolist()) == {1.0}
    assert set(drawn["place", "select"].discount.tolist()) == {0.5}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_ring_keeps_the_last_ones_and_comes_back_from_its_tensors(capacity, lengths):
    lanes, buffer, seen = collector(counting(), n_lanes=1), ReplayBuffer(capacity, 1.0), []
    for length in lengths:
        segment = lanes.collect(length)
        buffer.add(segment)
        seen += [reward for reward, _, follows, _ in told(segment) if follows == GOES_ON]
    again = ReplayBuffer(capacity, 1.0)
    again.restore({name: tensor.clone() for name, tensor in buffer.tensors().items()})
    for one in (buffer, again):
        (drawn,) = one.sample(np.random.default_rng(0), 300).values()
        assert set(drawn.reward.tolist()) == set(seen[-capacity:])
    again.add(segment)
    assert len(again) == min(capacity, len(seen) + len(segment.row) - 1)


# Checkpoints.


def test_a_checkpoint_that_was_not_finished_is_not_there(tmp_path):
    for n in (1, 2):
        weights = {"w": torch.full((2,), float(n))}
        save_checkpoint(
            tmp_path, n, Checkpoint(weights, AlgorithmState(), [LaneState(0)], {"n": n})
        )
    folders = list((tmp_path / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["000002"]
    (tmp_path / "checkpoints" / "000003").mkdir()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.numbers == {"n": 2}
    assert loaded.weights["w"].tolist() == [2, 2]
    (folders[0] / "model.pt").write_bytes(b"damaged")
    with pytest.raises(OutputError, match="cannot be read"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path / "elsewhere") is None


# Evolution strategies.


def test_ranks_are_centred_and_equal_values_share_theirs():
    assert centred_ranks(np.array([3.0, 1.0, 2.0])).tolist() == [0.5, -0.5, 0.0]
    assert centred_ranks(np.array([1.0, 1.0])).tolist() == [0.0, 0.0]
    assert centred_ranks(np.array([1.0])).tolist() == [0.0]
