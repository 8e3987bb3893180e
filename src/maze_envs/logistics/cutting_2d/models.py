"""Networks for the cutting environments: the same layers look at each piece of the inventory.

A piece's place in the inventory says little, its size next to the order's says all. So a piece is
seen as its size, the order's, and what would be left of it either way round; one row of layers is
applied to each piece, and its one number is the logit of choosing that piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maze.train.models.blocks import DenseBlock, orthogonal

_N_PIECE_FEATURES = 10


class _Pieces(nn.Module):
    """From inventory and order to an embedding of each piece.

    Returns shape (n, pieces, hidden_units), and shape (n, pieces) which of them are there.
    """

    def __init__(self, hidden_units: int) -> None:
        super().__init__()
        self.layers = DenseBlock((_N_PIECE_FEATURES,), (hidden_units, hidden_units), "relu")

    def forward(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pieces, order = tensors["inventory"], tensors["ordered_piece"]
        n, n_pieces, _ = pieces.shape
        order = order.unsqueeze(1).expand(n, n_pieces, 2)
        is_there = (pieces.sum(2) > 0).float()
        upright, turned = pieces - order, pieces - order.flip(2)
        fits = ((upright >= 0).all(2) | (turned >= 0).all(2)).float() * is_there
        features = torch.cat(
            [pieces, order, upright, turned, is_there.unsqueeze(2), fits.unsqueeze(2)], 2
        )
        embedded = self.layers(features.flatten(0, 1)).reshape(n, n_pieces, -1)
        return embedded, is_there


class SelectNetwork(nn.Module):
    """Selects a piece: a logit for each.

    Args:
        hidden_units: width of the layers.
    """

    def __init__(self, hidden_units: int = 32) -> None:
        super().__init__()
        self.pieces = _Pieces(hidden_units)
        self.logit = orthogonal(nn.Linear(hidden_units, 1), 0.01)

    def forward(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return logits of shape (n, pieces)."""
        embedded, _ = self.pieces(tensors)
        return {"piece_idx": self.logit(embedded).squeeze(2)}


class SelectAndCutNetwork(nn.Module):
    """Selects a piece and says how it is cut, at once.

    Args:
        hidden_units: width of the layers.
    """

    def __init__(self, hidden_units: int = 32) -> None:
        super().__init__()
        self.pieces = _Pieces(hidden_units)
        self.logit = orthogonal(nn.Linear(hidden_units, 1), 0.01)
        self.cut = DenseBlock((hidden_units,), (hidden_units,), "relu")
        self.rotation = orthogonal(nn.Linear(hidden_units, 2), 0.01)
        self.order = orthogonal(nn.Linear(hidden_units, 2), 0.01)

    def forward(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return logits: (n, pieces) for the piece, (n, 2) for each choice of the cut."""
        embedded, _ = self.pieces(tensors)
        logits = self.logit(embedded).squeeze(2)
        # What is likely to be cut says how to cut it.
        likely = (logits.softmax(1).unsqueeze(2) * embedded).sum(1)
        cut = self.cut(likely)
        return {
            "piece_idx": logits,
            "cut_rotation": self.rotation(cut),
            "cut_order": self.order(cut),
        }


class CutNetwork(nn.Module):
    """Says how the selected piece is cut.

    Args:
        hidden_units: width of the layers.
    """

    def __init__(self, hidden_units: int = 32) -> None:
        super().__init__()
        self.body = DenseBlock((8,), (hidden_units, hidden_units), "relu")
        self.rotation = orthogonal(nn.Linear(hidden_units, 2), 0.01)
        self.order = orthogonal(nn.Linear(hidden_units, 2), 0.01)

    def forward(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return logits of shape (n, 2) for each choice."""
        latent = self.body(_cut_features(tensors))
        return {"cut_rotation": self.rotation(latent), "cut_order": self.order(latent)}


class InventoryCritic(nn.Module):
    """Values a state by its inventory and the order.

    Args:
        hidden_units: width of the layers.
    """

    def __init__(self, hidden_units: int = 32) -> None:
        super().__init__()
        self.pieces = _Pieces(hidden_units)
        self.body = DenseBlock((2 * hidden_units + 3,), (hidden_units, hidden_units), "relu")
        self.value = orthogonal(nn.Linear(hidden_units, 1), 1.0)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return values of shape (n, 1)."""
        embedded, is_there = self.pieces(tensors)
        present: Any = embedded * is_there.unsqueeze(2)
        size = tensors["inventory_size"] / embedded.shape[1]
        together = torch.cat(
            [
                present.sum(1) / embedded.shape[1],
                present.amax(1),
                tensors["ordered_piece"],
                size,
            ],
            1,
        )
        value: Tensor = self.value(self.body(together))
        return value


class CutCritic(nn.Module):
    """Values a cut by the selected piece and the order.

    Args:
        hidden_units: width of the layers.
    """

    def __init__(self, hidden_units: int = 32) -> None:
        super().__init__()
        self.body = DenseBlock((8,), (hidden_units, hidden_units), "relu")
        self.value = orthogonal(nn.Linear(hidden_units, 1), 0.01)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return values of shape (n, 1)."""
        value: Tensor = self.value(self.body(_cut_features(tensors)))
        return value


def _cut_features(tensors: Mapping[str, Tensor]) -> Tensor:
    piece, order = tensors["selected_piece"], tensors["ordered_piece"]
    return torch.cat([piece, order, piece - order, piece - order.flip(1)], 1)
