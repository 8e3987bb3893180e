"""What a policy's logits mean: one distribution for each head of an action.

Acting and learning need different things of a distribution. To act is to turn a row of logits and
some random numbers of the episode into an action, in numpy, since a handful of numbers is not worth
torch's overhead. To learn is to compute log-probabilities and entropies of many actions, in torch.
Both are here, side by side, so that they cannot drift apart.

An action that was taken is kept as its *code*: what the distribution was sampled for (the place in
a ``Discrete``, the number of a Gaussian before it is squashed or clipped). ``to_env`` makes the
environment's action of a code and ``from_env`` goes back.

    logits --sample / mode--> code --to_env--> action of the environment
                               |
                     log_prob(logits, code)
"""

# Methods are described in the base class.
# ruff: noqa: D102

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from maze.core.errors import ConfigError
from maze.core.factory import call, resolve

Floats: TypeAlias = NDArray[np.float32]

_LOG_2PI = math.log(2 * math.pi)
_LOG_2 = math.log(2)


class Distribution(ABC):
    """The distribution of one head of the action.

    Args:
        space: of the head.

    Raises:
        ConfigError: If the distribution is not made for that space.
    """

    n_logits: int
    """Numbers that a network gives for the head."""
    n_code: int
    """Numbers in the code of an action."""
    code_dtype: ClassVar[Any] = np.float32
    n_uniform: int = 0
    """Random numbers from [0, 1) that a sample takes."""
    n_normal: int = 0
    """Normal random numbers that a sample takes."""
    is_continuous: ClassVar[bool] = False

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space

    @abstractmethod
    def sample(self, logits: Floats, uniform: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
        """Return the codes of sampled actions.

        Args:
            logits: shape (n, n_logits).
            uniform: shape (n, n_uniform), from [0, 1).
            normal: shape (n, n_normal).

        Returns:
            Shape (n, n_code).
        """

    @abstractmethod
    def mode(self, logits: Floats) -> NDArray[Any]:
        """Return the codes of the most likely actions, shape (n, n_code)."""

    @abstractmethod
    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        """Return the environment's actions, one for each row of codes."""

    @abstractmethod
    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return the codes of recorded actions, shape (n, *shape of the space)."""

    @abstractmethod
    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Return the log-probability (density) of each code, summed over its numbers.

        Args:
            logits: shape (n, n_logits).
            codes: shape (n, n_code).

        Returns:
            Shape (n,).
        """

    @abstractmethod
    def entropy(self, logits: Tensor) -> Tensor:
        """Return the entropy of each row of logits, in nats, shape (n,)."""

    def log_prob_and_entropy(self, logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, for distributions that compute some of it only once."""
        return self.log_prob(logits, codes), self.entropy(logits)

    def squared_error(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Return the squared distance of the most likely action from another one.

        Args:
            logits: shape (n, n_logits).
            codes: shape (n, n_code).

        Returns:
            Shape (n,), summed over the numbers of an action, in units of half its range where it
            has bounds that the distribution knows.

        Raises:
            ConfigError: If the actions are not continuous.
        """
        raise ConfigError(f"{type(self).__name__} knows no distance between actions")

    def rsample(self, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions through which gradients pass, and their log-probabilities.

        For actor-critic methods that differentiate the critic by the action (SAC).

        Args:
            logits: shape (n, n_logits).
            noise: shape (n, n_logits), uniform in (0, 1).

        Returns:
            What a critic of actions is shown, shape (n, n_features); and shape (n,).

        Raises:
            ConfigError: If the distribution offers no such thing.
        """
        raise self._not_relaxed()

    def features(self, codes: Tensor) -> Tensor:
        """Return what a critic of actions is shown of actions that were taken."""
        raise self._not_relaxed()

    @property
    def n_features(self) -> int:
        """The number of these features."""
        return self.n_code

    def _not_relaxed(self) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} cannot be differentiated by its actions, which SAC needs. Use"
            " SquashedGaussian for Box actions (model=flatten_concat_sac, or"
            " model.distributions.Box=squashed_gaussian) and Categorical for Discrete ones."
        )


class Categorical(Distribution):
    """For ``Discrete``: a probability for each value, as log-probabilities up to a constant."""

    code_dtype = np.int64

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(_checked(self, space, spaces.Discrete))
        assert isinstance(space, spaces.Discrete)
        self.n_logits, self.n_code, self.n_uniform = int(space.n), 1, 1
        self._start = int(space.start)
        self._make: Callable[[int], Any] | None = None
        if space.dtype != np.int64:
            self._make = np.dtype(space.dtype).type

    def sample(self, logits: Floats, uniform: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
        return _inverse_cdf(logits, uniform)

    def mode(self, logits: Floats) -> NDArray[Any]:
        return logits.argmax(axis=1)[:, None]

    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        values = codes[:, 0].tolist()
        if self._start:
            values = [value + self._start for value in values]
        return values if self._make is None else [self._make(value) for value in values]

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.astype(np.int64).reshape(-1, 1) - self._start

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        return functional.log_softmax(logits, 1).gather(1, codes).squeeze(1)

    def entropy(self, logits: Tensor) -> Tensor:
        return _categorical_entropy(logits)

    def log_prob_and_entropy(self, logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = functional.log_softmax(logits, 1)
        entropy = -(log_probs.exp() * log_probs).sum(1)
        return log_probs.gather(1, codes).squeeze(1), entropy

    def rsample(self, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Straight-through Gumbel-softmax: forward the one-hot code, backward that of a softmax.

        Source: Jang, Gu & Poole, Categorical Reparameterization with Gumbel-Softmax (2017).
        """
        log_probs = functional.log_softmax(logits, 1)
        soft = functional.softmax(log_probs - torch.log(-torch.log(noise)), 1)
        chosen = soft.argmax(1, keepdim=True)
        hard = torch.zeros_like(soft).scatter_(1, chosen, 1.0)
        # The expected log-probability, which has less variance than that of the sample.
        return hard + soft - soft.detach(), (log_probs.exp() * log_probs).sum(1)

    def features(self, codes: Tensor) -> Tensor:
        return torch.zeros(len(codes), self.n_logits, device=codes.device).scatter_(1, codes, 1.0)

    @property
    def n_features(self) -> int:
        """One for each value."""
        return self.n_logits


class MultiCategorical(Distribution):
    """For ``MultiDiscrete``: independent categorical numbers; their logits one after the other."""

    code_dtype = np.int64

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(_checked(self, space, spaces.MultiDiscrete))
        assert isinstance(space, spaces.MultiDiscrete)
        self._counts: list[int] = np.ravel(space.nvec).tolist()
        self._bounds = np.cumsum([0, *self._counts]).tolist()
        self._start = np.asarray(space.start, np.int64)
        self.n_logits, self.n_code = sum(self._counts), len(self._counts)
        self.n_uniform = self.n_code

    def sample(self, logits: Floats, uniform: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(
            [
                _inverse_cdf(logits[:, low:high], uniform[:, i : i + 1])
                for i, (low, high) in enumerate(self._ranges())
            ],
            axis=1,
        )

    def mode(self, logits: Floats) -> NDArray[Any]:
        return np.stack([logits[:, low:high].argmax(axis=1) for low, high in self._ranges()], 1)

    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        values = codes.reshape(len(codes), *self._start.shape) + self._start
        return list(values.astype(self.space.dtype))

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        return (actions.astype(np.int64) - self._start).reshape(len(actions), -1)

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        parts = logits.split(self._counts, 1)
        return torch.stack(
            [
                functional.log_softmax(part, 1).gather(1, codes[:, i : i + 1]).squeeze(1)
                for i, part in enumerate(parts)
            ]
        ).sum(0)

    def entropy(self, logits: Tensor) -> Tensor:
        return torch.stack(
            [_categorical_entropy(part) for part in logits.split(self._counts, 1)]
        ).sum(0)

    def _ranges(self) -> list[tuple[int, int]]:
        return list(zip(self._bounds[:-1], self._bounds[1:], strict=True))


class Bernoulli(Distribution):
    """For ``MultiBinary``: independent bits; a logit is the log-odds of a one."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(_checked(self, space, spaces.MultiBinary))
        assert isinstance(space, spaces.MultiBinary)
        self._shape = space.shape
        self.n_logits = self.n_code = self.n_uniform = int(np.prod(space.shape))

    def sample(self, logits: Floats, uniform: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
        # u < sigmoid(x), without overflow: log(u / (1 - u)) < x.
        with np.errstate(divide="ignore"):
            return (np.log(uniform) - np.log1p(-uniform) < logits).astype(np.float32)

    def mode(self, logits: Floats) -> NDArray[Any]:
        return (logits > 0).astype(np.float32)

    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        return list(codes.astype(self.space.dtype).reshape(len(codes), *self._shape))

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.reshape(len(actions), -1).astype(np.float32)

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        return -functional.binary_cross_entropy_with_logits(logits, codes, reduction="none").sum(1)

    def entropy(self, logits: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits, torch.sigmoid(logits), reduction="none"
        ).sum(1)


class _BoxDistribution(Distribution):
    """For ``Box``: independent numbers."""

    is_continuous = True

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(_checked(self, space, spaces.Box))
        assert isinstance(space, spaces.Box)
        self._shape = space.shape
        self.n_code = int(np.prod(space.shape))
        self._dtype = space.dtype
        self._low, self._high = space.low.ravel(), space.high.ravel()
        self.n_logits = 2 * self.n_code

    def _need_bounds(self) -> None:
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            raise ConfigError(
                f"{type(self).__name__} is for actions with bounds on both sides, these are in"
                f" {self.space}. Use DiagonalGaussian."
            )
        self._scale = (self._high.astype(np.float32) - self._low.astype(np.float32)) / 2
        self._middle = (self._high.astype(np.float32) + self._low.astype(np.float32)) / 2

    def _shaped(self, values: NDArray[Any]) -> Sequence[Any]:
        # Rounding may lead out of the space by a bit.
        inside = np.clip(values.astype(self._dtype), self._low, self._high)
        return list(inside.reshape(len(values), *self._shape))


class _Gaussian(_BoxDistribution):
    """Numbers that are sampled from a Gaussian, whatever is made of them."""

    _LOW: ClassVar[float]
    """Bounds of the logarithm of the deviation."""
    _HIGH: ClassVar[float]

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space)
        self.n_normal = self.n_code

    def sample(self, logits: Floats, uniform: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
        mean, log_std = logits[:, : self.n_code], logits[:, self.n_code :]
        std = np.exp(np.clip(log_std, self._LOW, self._HIGH))
        return (mean + std * normal).astype(np.float32)

    def mode(self, logits: Floats) -> NDArray[Any]:
        return logits[:, : self.n_code]

    def squared_error(self, logits: Tensor, codes: Tensor) -> Tensor:
        return (logits[:, : self.n_code] - codes).square().sum(1)

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = logits.split(self.n_code, 1)
        return mean, log_std.clamp(self._LOW, self._HIGH)


class DiagonalGaussian(_Gaussian):
    """For ``Box``: means, then logarithms of standard deviations. Actions are clipped to the space.

    The density is that of the number before it is clipped, as is usual with PPO.
    """

    _LOW, _HIGH = -20.0, 4.0

    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        return self._shaped(codes)

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.reshape(len(actions), -1).astype(np.float32)

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        mean, log_std = self._split(logits)
        return -0.5 * (
            ((codes - mean) * torch.exp(-log_std)).square() + 2 * log_std + _LOG_2PI
        ).sum(1)

    def entropy(self, logits: Tensor) -> Tensor:
        return (self._split(logits)[1] + 0.5 * (1 + _LOG_2PI)).sum(1)


class SquashedGaussian(_Gaussian):
    """For a bounded ``Box``: tanh of a Gaussian, stretched to the bounds.

    The code is the number before the tanh. Source: Haarnoja et al., Soft Actor-Critic (2018),
    appendix C.
    """

    _LOW, _HIGH = -20.0, 2.0

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space)
        self._need_bounds()

    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        return self._shaped(self._middle + self._scale * np.tanh(codes))

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        flat = actions.reshape(len(actions), -1).astype(np.float32)
        # At the bounds themselves the number would be infinite.
        inside = np.clip((flat - self._middle) / self._scale, -1 + 1e-6, 1 - 1e-6)
        return np.arctanh(inside).astype(np.float32)

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        mean, log_std = self._split(logits)
        gaussian = -0.5 * (((codes - mean) * torch.exp(-log_std)).square() + 2 * log_std + _LOG_2PI)
        return (gaussian - self._log_slope(codes)).sum(1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Return that of the Gaussian, shifted by the squashing at its mean: an estimate."""
        mean, log_std = self._split(logits)
        return (log_std + 0.5 * (1 + _LOG_2PI) + self._log_slope(mean)).sum(1)

    def squared_error(self, logits: Tensor, codes: Tensor) -> Tensor:
        mean = logits[:, : self.n_code]
        return (torch.tanh(mean) - torch.tanh(codes)).square().sum(1)

    def rsample(self, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self._split(logits)
        normal = math.sqrt(2) * torch.erfinv(2 * noise[:, : self.n_code] - 1)
        codes = mean + log_std.exp() * normal
        gaussian = -0.5 * (normal.square() + 2 * log_std + _LOG_2PI)
        return torch.tanh(codes), (gaussian - self._log_slope(codes)).sum(1)

    def features(self, codes: Tensor) -> Tensor:
        return torch.tanh(codes)

    def _log_slope(self, codes: Tensor) -> Tensor:
        # log(scale * (1 - tanh(u)^2)), without the loss of digits at large u.
        scale = torch.as_tensor(np.log(self._scale), device=codes.device)
        return scale + 2 * (_LOG_2 - codes - functional.softplus(-2 * codes))


class Beta(_BoxDistribution):
    """For a bounded ``Box``: a beta distribution with a single mode, stretched to the bounds.

    The logits are those of alpha and beta: alpha = 1 + softplus(logit). The code is the number in
    (0, 1). Source: Chou, Maturana & Scherer, Improving Stochastic Policy Gradients in Continuous
    Control with ... the Beta Distribution (2017).
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space)
        self._need_bounds()
        # A sample is made of gamma variates, which need any number of random ones: those of a
        # generator that starts from a number of the episode's.
        self.n_uniform = 1

    def sample(self, logits: Floats, uniform: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
        alpha, beta = self._alpha_beta(logits)
        codes = np.empty(alpha.shape, np.float32)
        for i, number in enumerate(uniform[:, 0].tolist()):
            rng = np.random.Generator(np.random.Philox(int(number * 2**53)))
            codes[i] = rng.beta(alpha[i], beta[i])
        return np.clip(codes, 1e-6, 1 - 1e-6)

    def mode(self, logits: Floats) -> NDArray[Any]:
        alpha, beta = self._alpha_beta(logits)
        with np.errstate(invalid="ignore"):
            mode = (alpha - 1) / (alpha + beta - 2)
        return np.nan_to_num(mode, nan=0.5).astype(np.float32)

    def to_env(self, codes: NDArray[Any]) -> Sequence[Any]:
        return self._shaped(self._middle + self._scale * (2 * codes - 1))

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        flat = actions.reshape(len(actions), -1).astype(np.float32)
        codes = ((flat - self._middle) / self._scale + 1) / 2
        return np.clip(codes, 1e-6, 1 - 1e-6).astype(np.float32)

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        stretch = torch.as_tensor(np.log(2 * self._scale), device=codes.device)
        return (self._torch(logits).log_prob(codes) - stretch).sum(1)

    def entropy(self, logits: Tensor) -> Tensor:
        stretch = torch.as_tensor(np.log(2 * self._scale), device=logits.device)
        return (self._torch(logits).entropy() + stretch).sum(1)

    def squared_error(self, logits: Tensor, codes: Tensor) -> Tensor:
        beta = self._torch(logits)
        alpha, other = beta.concentration1, beta.concentration0
        # Of the mean, which has a gradient everywhere; the mode has none where both are 1.
        return (2 * (alpha / (alpha + other) - codes)).square().sum(1)

    def _torch(self, logits: Tensor) -> torch.distributions.Beta:
        alpha, beta = (1 + functional.softplus(logits)).split(self.n_code, 1)
        return torch.distributions.Beta(alpha, beta, validate_args=False)

    def _alpha_beta(self, logits: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
        both = 1 + np.logaddexp(logits.astype(np.float64), 0)
        return both[:, : self.n_code], both[:, self.n_code :]


BoxKind: TypeAlias = Literal["gaussian", "squashed_gaussian", "beta"]
_BY_NAME: Mapping[str, type[Distribution]] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "bernoulli": Bernoulli,
    "gaussian": DiagonalGaussian,
    "squashed_gaussian": SquashedGaussian,
    "beta": Beta,
}
_OF_SPACE: tuple[tuple[type[spaces.Space[Any]], type[Distribution]], ...] = (
    (spaces.Discrete, Categorical),
    (spaces.MultiDiscrete, MultiCategorical),
    (spaces.MultiBinary, Bernoulli),
    (spaces.Box, DiagonalGaussian),
)


def distributions_of(
    space: spaces.Dict, chosen: Mapping[str, str] | None = None, where: str = ""
) -> dict[str, Distribution]:
    """Return a distribution for each head of an action.

    Args:
        space: of the action.
        chosen: by name of a head, or by kind of space such as ``Box``, which distribution it has:
            ``categorical``, ``multi_categorical``, ``bernoulli``, ``gaussian``,
            ``squashed_gaussian``, ``beta``, or the dotted path of a ``Distribution``. Others have
            the first one that fits in this order.
        where: whose heads they are, for messages.

    Raises:
        ConfigError: If a head's space has no distribution, or the chosen one does not fit.
    """
    chosen = chosen or {}
    found: dict[str, Distribution] = {}
    for head, head_space in space.spaces.items():
        name = chosen.get(head, chosen.get(type(head_space).__name__))
        if name is not None:
            kind = _BY_NAME.get(name) or resolve(name, "distributions")
        else:
            kind = next((kind for of, kind in _OF_SPACE if isinstance(head_space, of)), None)
        if kind is None:
            raise ConfigError(
                f"the action '{head}'{where} is in a {type(head_space).__name__} space, for which"
                " there is no distribution. Policies can be trained for Discrete, MultiDiscrete,"
                " MultiBinary and Box actions; SplitActionsWrapper and DiscretizeActionsWrapper"
                " make some of others."
            )
        built = call(kind, {"space": head_space}, where="distributions")
        if not isinstance(built, Distribution):
            raise ConfigError(f"'{name}' in 'distributions' is no Distribution")
        found[head] = built
    return found


def _checked(
    distribution: Distribution, space: spaces.Space[Any], kind: type[spaces.Space[Any]]
) -> spaces.Space[Any]:
    if not isinstance(space, kind):
        raise ConfigError(
            f"{type(distribution).__name__} is a distribution for {kind.__name__} actions, not for"
            f" {space}"
        )
    return space


def _inverse_cdf(logits: NDArray[Any], uniform: NDArray[Any]) -> NDArray[Any]:
    """Sample numbers by logits, with one number from [0, 1) each; shapes (n, k) and (n, 1)."""
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    cumulated = weights.cumsum(axis=1)
    # "Less or equal": what has no weight, because it is masked, is never reached.
    numbers = (cumulated <= uniform * cumulated[:, -1:]).sum(axis=1, keepdims=True)
    if (numbers == logits.shape[1]).any():  # The product was rounded up to the sum.
        numbers = np.where(numbers == logits.shape[1], logits.argmax(axis=1)[:, None], numbers)
    return numbers


def _categorical_entropy(logits: Tensor) -> Tensor:
    log_probs = functional.log_softmax(logits, 1)
    return -(log_probs.exp() * log_probs).sum(1)
