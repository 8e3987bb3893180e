"""All parameters of some modules as one vector.

A small network has a dozen small tensors, and an optimiser spends most of its time on going from
one to the next. As views of one vector they are updated, clipped, averaged and sent in one go. The
modules see no difference.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class FlatParameters:
    """The parameters of modules, as one vector with one gradient.

    Args:
        modules: their parameters become views. They have to stay on their device.
    """

    vector: nn.Parameter
    """All numbers, one after the other; its ``grad`` is always there."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parameters = list(
            dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        )
        device = parameters[0].device if parameters else torch.device("cpu")
        with torch.no_grad():
            joined = torch.cat([parameter.data.reshape(-1) for parameter in parameters])
        self.vector = nn.Parameter(joined)
        self.vector.grad = torch.zeros_like(joined)
        offset = 0
        for parameter in parameters:
            n = parameter.numel()
            parameter.data = joined[offset : offset + n].view_as(parameter)
            parameter.grad = self.vector.grad[offset : offset + n].view_as(parameter)
            offset += n
        self._device = device

    def zero_grad(self) -> None:
        """Set the gradient to zero, in place: the modules' gradients are views of it."""
        assert self.vector.grad is not None
        self.vector.grad.zero_()

    def clip_grad(self, max_norm: float) -> Tensor:
        """Scale the gradient down to a norm, if it is larger; return its norm before."""
        assert self.vector.grad is not None
        norm = torch.linalg.vector_norm(self.vector.grad)
        if max_norm > 0:
            self.vector.grad.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm
