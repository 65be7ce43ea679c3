"""A small GPT over ASCII text, and the text that it learns: sources of Python's own library."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 128  # ASCII
MODULES = (
    "argparse",
    "inspect",
    "threading",
    "typing",
)  # of any Python installation, 400 kB together


class Embedding(nn.Module):
    """Tokens and positions to vectors."""

    def __init__(self, width: int, sequence: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.zeros(sequence, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, sequence) to (batch, sequence, width)."""
        return self.token(tokens) + self.position[: tokens.shape[1]]


class Block(nn.Module):
    """Attention and a multi-layer perceptron, each on a normalised copy of the stream that it adds
    to.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, sequence, width) to the same."""
        batch, length, width = x.shape
        parts = self.attention(self.before_attention(x)).view(
            batch, length, 3, self.heads, width // self.heads
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class GPT(nn.Sequential):
    """Embedding, blocks and head, one after the other, so that a pipeline can be cut between any
    two.
    """

    def __init__(self, layers: int, width: int, sequence: int) -> None:
        heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        parts: list[tuple[str, nn.Module]] = [("embedding", Embedding(width, sequence))]
        parts += [(f"block{n}", Block(width, heads)) for n in range(layers)]
        parts += [("norm", nn.LayerNorm(width)), ("head", nn.Linear(width, VOCABULARY))]
        super().__init__(OrderedDict(parts))


def make_gpt(parameters: int, layers: int, sequence: int, seed: int) -> GPT:
    """A GPT with as nearly `parameters` parameters as a whole width allows; the same for the same
    seed.
    """
    square, linear = 12 * layers, 13 * layers + 2 * VOCABULARY + sequence + 2  # of the width
    width = (math.sqrt(linear**2 + 4 * square * parameters) - linear) / (2 * square)
    torch.manual_seed(seed)
    model = GPT(layers, max(1, round(width)), sequence)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    return model


class Text:
    """Batches of text: the same for all ranks, so that each can take its part."""

    def __init__(self, sequence: int, seed: int) -> None:
        text = "".join(inspect.getsource(__import__(name)) for name in MODULES)
        self._tokens = torch.frombuffer(
            bytearray(text.encode("ascii", "replace")), dtype=torch.uint8
        ).long()
        self._sequence, self._seed = sequence, seed

    def batch(self, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of `step`, each (size, sequence)."""
        random = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        starts = torch.randint(len(self._tokens) - self._sequence - 1, (size, 1), generator=random)
        index = starts + torch.arange(self._sequence)
        return self._tokens[index], self._tokens[index + 1]


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats per token."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
