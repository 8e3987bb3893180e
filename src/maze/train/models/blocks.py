"""Building blocks of networks: what PyTorch lacks, or takes several lines for.

Each is an ordinary ``nn.Module`` on tensors whose first dimension is the batch. ``in_shape`` is the
shape without it; the models give it, so that configs do not. ``out_shape`` tells what comes out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maze.core.errors import ConfigError
from maze.core.factory import resolve

MASKED = -1e8
"""Logit of what a mask does not allow: its probability is 0, and its gradient too."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
}


class Block(nn.Module):
    """A module that tells the shape of what it returns, without the first dimension."""

    out_shape: tuple[int, ...]


class DenseBlock(Block):
    """Flattens, then linear layers with an activation after each.

    Args:
        in_shape: of the input, without the first dimension.
        hidden_units: width of each layer; none for flattening alone.
        activation: ``tanh``, ``relu``, ``elu``, ``gelu``, ``silu``, ``leaky_relu``, ``identity``,
            or the dotted path of a module class.
        layer_norm: whether to normalise before each activation.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden_units: Sequence[int] = (64, 64),
        activation: str = "tanh",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [math.prod(in_shape), *_sizes(hidden_units, "hidden_units")]
        layers: list[nn.Module] = [nn.Flatten()] if len(in_shape) != 1 else []
        for n_in, n_out in itertools.pairwise(sizes):
            layers.append(orthogonal(nn.Linear(n_in, n_out), gain_of(activation)))
            if layer_norm:
                layers.append(nn.LayerNorm(n_out))
            layers.append(make_activation(activation))
        self.layers = nn.Sequential(*layers)
        self.out_shape = (sizes[-1],)

    def forward(self, values: Tensor) -> Tensor:
        """Return shape (n, hidden_units[-1])."""
        result: Tensor = self.layers(values)
        return result


class ConvolutionBlock(Block):
    """Convolutions over pictures, flattened at the end. Defaults as in Mnih et al. (2015), DQN.

    Args:
        in_shape: (channels, height, width), or (height, width) for one channel, or with the
            channels last if ``channels_last`` says so.
        hidden_channels: of each layer.
        kernels: side of each layer's kernel, in pixels.
        strides: of each layer, in pixels.
        activation: as in ``DenseBlock``.
        channels_last: ``None``: if the last dimension is the smallest one of three.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden_channels: Sequence[int] = (32, 64, 64),
        kernels: Sequence[int] = (8, 4, 3),
        strides: Sequence[int] = (4, 2, 1),
        activation: str = "relu",
        channels_last: bool | None = None,
    ) -> None:
        super().__init__()
        if len(in_shape) not in (2, 3):
            raise ConfigError(
                f"ConvolutionBlock is for pictures, of 2 or 3 dimensions; this is of {in_shape}"
            )
        channels = _sizes(hidden_channels, "hidden_channels")
        if not len(channels) == len(kernels) == len(strides):
            raise ConfigError(
                "ConvolutionBlock needs a kernel and a stride for each of 'hidden_channels', got"
                f" {len(kernels)} kernels and {len(strides)} strides for {len(channels)}"
            )
        shape = tuple(in_shape) if len(in_shape) == 3 else (1, *in_shape)
        if channels_last is None:
            channels_last = shape[2] < shape[0]
        self._shape, self._channels_last = shape, channels_last
        if channels_last:
            shape = (shape[2], shape[0], shape[1])
        layers: list[nn.Module] = []
        n_in = shape[0]
        for n_out, kernel, stride in zip(channels, kernels, strides, strict=True):
            layers.append(orthogonal(nn.Conv2d(n_in, n_out, kernel, stride), gain_of(activation)))
            layers.append(make_activation(activation))
            n_in = n_out
        self.layers = nn.Sequential(*layers, nn.Flatten())
        try:
            with torch.no_grad():
                self.out_shape = tuple(self.layers(torch.zeros(1, *shape)).shape[1:])
        except RuntimeError as error:
            raise ConfigError(
                f"pictures of {tuple(in_shape)} are too small for kernels {list(kernels)} with"
                f" strides {list(strides)}"
            ) from error

    def forward(self, values: Tensor) -> Tensor:
        """Return shape (n, numbers of the last layer)."""
        values = values.reshape(len(values), *self._shape)
        if self._channels_last:
            values = values.permute(0, 3, 1, 2)
        result: Tensor = self.layers(values)
        return result


class RecurrentBlock(Block):
    """Goes through a sequence, oldest first, and returns what is known after the last.

    Args:
        in_shape: (time, features), further dimensions are flattened.
        hidden_units: size of the state.
        cell: ``gru`` or ``lstm``.
        n_layers: on top of each other.
        all_steps: whether to return the state after each step, shape (n, time, hidden_units).
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden_units: int = 64,
        cell: Literal["gru", "lstm"] = "gru",
        n_layers: int = 1,
        all_steps: bool = False,
    ) -> None:
        super().__init__()
        if len(in_shape) < 2:
            raise ConfigError(
                f"RecurrentBlock goes through a sequence, of shape (time, features); this is of"
                f" {tuple(in_shape)}. ObservationStackWrapper makes sequences of observations."
            )
        kinds = {"gru": nn.GRU, "lstm": nn.LSTM}
        if cell not in kinds:
            raise ConfigError(f"'cell' of RecurrentBlock has to be gru or lstm, got {cell!r}")
        n_features = math.prod(in_shape[1:])
        self.layers = kinds[cell](n_features, hidden_units, n_layers, batch_first=True)
        for name, parameter in self.layers.named_parameters():
            if "weight" in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self._all_steps = all_steps
        self.out_shape = (in_shape[0], hidden_units) if all_steps else (hidden_units,)

    def forward(self, values: Tensor) -> Tensor:
        """Return the last state, or that of each step."""
        states: Tensor = self.layers(values.flatten(2))[0]
        return states if self._all_steps else states[:, -1]


class SelfAttentionBlock(Block):
    """Attention among the elements of a sequence or set, with a residual path and a norm.

    Args:
        in_shape: (elements, features).
        hidden_units: features of what is returned.
        n_heads: of the attention; divides ``hidden_units``.
    """

    def __init__(self, in_shape: Sequence[int], hidden_units: int = 64, n_heads: int = 4) -> None:
        super().__init__()
        if len(in_shape) != 2:
            raise ConfigError(
                f"SelfAttentionBlock is for shape (elements, features), this is {tuple(in_shape)}"
            )
        if hidden_units % n_heads:
            raise ConfigError(f"n_heads={n_heads} does not divide hidden_units={hidden_units}")
        self.embed = orthogonal(nn.Linear(in_shape[1], hidden_units), 1.0)
        self.attention = nn.MultiheadAttention(hidden_units, n_heads, batch_first=True)
        self.norm = nn.LayerNorm(hidden_units)
        self.out_shape = (in_shape[0], hidden_units)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return shape (n, elements, hidden_units).

        Args:
            values: shape (n, elements, features).
            mask: shape (n, elements), not zero for the elements that are there.
        """
        embedded = self.embed(values)
        absent = None
        if mask is not None:
            absent = mask == 0
            # Where there is nothing, all attend to all, as the softmax of nothing is no number.
            absent = absent & ~absent.all(1, keepdim=True)
        attended, _ = self.attention(
            embedded, embedded, embedded, key_padding_mask=absent, need_weights=False
        )
        result: Tensor = self.norm(embedded + attended)
        return result


class MaskedPoolingBlock(Block):
    """One row for a set: mean, sum or maximum over its elements.

    Args:
        in_shape: (elements, features).
        pooling: ``mean``, ``sum`` or ``max``.
    """

    def __init__(
        self, in_shape: Sequence[int], pooling: Literal["mean", "sum", "max"] = "mean"
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "sum", "max"):
            raise ConfigError(f"'pooling' has to be mean, sum or max, got {pooling!r}")
        self._pooling = pooling
        self.out_shape = tuple(in_shape[1:])

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return shape (n, features); zeros for a set of nothing.

        Args:
            values: shape (n, elements, features).
            mask: shape (n, elements), not zero for the elements that are there. ``None``: all.
        """
        is_there = torch.ones(values.shape[:2]) if mask is None else mask
        is_there = (is_there.to(values.device) != 0).unsqueeze(2)
        n_there = is_there.sum(1)
        if self._pooling == "max":
            largest = values.masked_fill(~is_there, -torch.inf).amax(1)
            return torch.where(n_there > 0, largest, torch.zeros_like(largest))
        total = (values * is_there).sum(1)
        return total if self._pooling == "sum" else total / n_there.clamp(min=1)


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits under which only what the mask allows is ever sampled.

    Args:
        logits: shape (n, values).
        mask: the same shape, or one with as many numbers; not zero for what is allowed. Where
            nothing is, the logits are left as they are.
    """
    allowed = mask.reshape(logits.shape) != 0
    allowed = allowed | ~allowed.any(1, keepdim=True)
    return torch.where(allowed, logits, torch.full_like(logits, MASKED))


def make_activation(name: str) -> nn.Module:
    """Make an activation of its name or dotted path."""
    kind = _ACTIVATIONS.get(name)
    if kind is None:
        if "." not in str(name):
            raise ConfigError(
                f"there is no activation {name!r}: choose one of {', '.join(_ACTIVATIONS)}, or the"
                " dotted path of a module class such as torch.nn.Softplus"
            )
        kind = resolve(name, "activation")
    assert kind is not None
    return kind()


def gain_of(activation: str) -> float:
    """Return the gain of the weights before an activation."""
    return (
        math.sqrt(2) if activation in ("tanh", "relu", "elu", "gelu", "silu", "leaky_relu") else 1
    )


def orthogonal(layer: Any, gain: float) -> Any:
    """Set a layer's weights to an orthogonal matrix times ``gain`` and its biases to 0."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _sizes(sizes: Sequence[int], name: str) -> list[int]:
    if isinstance(sizes, int) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(f"'{name}' has to be a list of numbers from 1, got {sizes!r}")
    return list(sizes)
