"""A small GPT over ASCII text, and its training text: sources of the standard library."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 128  # ASCII
MODULES = ("argparse", "inspect", "threading", "typing")  # in any Python, 400 kB together
HEADS = (4, 2, 1)
INITIAL_DEVIATION = 0.02
SEED_STRIDE = 1_000_003


class Embedding(nn.Module):
    """Embedding of tokens and positions as vectors."""

    def __init__(self, width: int, sequence: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.zeros(sequence, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors of tokens: (batch, sequence) to (batch, sequence, width)."""
        vectors: torch.Tensor = self.token(tokens)

        return vectors + self.position[: tokens.shape[1]]


class Block(nn.Module):
    """Attention and a multi-layer perceptron, each added to the stream after a normalised read."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads

        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

        self.before_mlp = nn.LayerNorm(width)
        hidden = 4 * width
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
        )

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the stream (batch, sequence, width) plus attention and perceptron."""
        batch, length, width = stream.shape
        head_width = width // self.heads
        normalised = self.before_attention(stream)
        projected = self.attention(normalised)
        by_head = projected.view(batch, length, 3, self.heads, head_width)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined = attended.transpose(1, 2).reshape(batch, length, width)

        attended_stream: torch.Tensor = stream + self.projection(joined)
        normalised = self.before_mlp(attended_stream)
        output: torch.Tensor = attended_stream + self.mlp(normalised)

        return output


class GPT(nn.Sequential):
    """Embedding, blocks and head in a sequence, which a pipeline can cut between any two."""

    def __init__(self, layers: int, width: int, sequence: int) -> None:
        heads = next(heads for heads in HEADS if width % heads == 0)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["embedding"] = Embedding(width, sequence)

        for number in range(layers):
            parts[f"block{number}"] = Block(width, heads)

        parts["norm"] = nn.LayerNorm(width)
        parts["head"] = nn.Linear(width, VOCABULARY)
        super().__init__(parts)


def make_gpt(parameters: int, layers: int, sequence: int, seed: int) -> GPT:
    """Return a new GPT, identical for identical arguments.

    Args:
        parameters: number of parameters, matched as closely as an integer width allows.
        layers: number of blocks.
        sequence: maximum number of tokens of a sequence.
        seed: seed of the initial values.
    """
    width = _width(parameters, layers, sequence)
    torch.manual_seed(seed)
    model = GPT(layers, max(1, round(width)), sequence)

    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=INITIAL_DEVIATION)

    return model


def _width(parameters: int, layers: int, sequence: int) -> float:
    """Return the width that solves parameters = square width^2 + linear width."""
    square = 12 * layers
    linear = 13 * layers + 2 * VOCABULARY + sequence + 2
    discriminant = linear**2 + 4 * square * parameters

    return (math.sqrt(discriminant) - linear) / (2 * square)


class Text:
    """Batches of text, the same for all ranks, so that each rank can take its part."""

    def __init__(self, sequence: int, seed: int) -> None:
        sources = [inspect.getsource(__import__(name)) for name in MODULES]
        text = "".join(sources)
        characters = bytearray(text.encode("ascii", "replace"))
        self._tokens = torch.frombuffer(characters, dtype=torch.uint8).long()
        self._sequence = sequence
        self._seed = seed

    def batch(self, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of step `step`, each (`size`, sequence) tokens."""
        seed = self._seed * SEED_STRIDE + step
        random = torch.Generator().manual_seed(seed)
        last_start = len(self._tokens) - self._sequence - 1
        starts = torch.randint(last_start, (size, 1), generator=random)
        index = starts + torch.arange(self._sequence)

        return self._tokens[index], self._tokens[index + 1]


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy in nats per token.

    Args:
        logits: (batch, sequence, `VOCABULARY`).
        targets: tokens, (batch, sequence).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
