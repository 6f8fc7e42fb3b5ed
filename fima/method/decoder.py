"""The motion decoder: cross-attention from one clip to the other."""

import functools

import torch
from torch import Tensor, nn


@functools.lru_cache(maxsize=8)
def positional_code(length: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sinusoidal 1-D positional code (Vaswani et al., 2017, base 10000), (length, dim).

    `code[p, 2i] = sin(p / 10000^(2i/dim))`, `code[p, 2i+1] = cos(p / 10000^(2i/dim))`, computed in float32 whatever the
    dtype, as the published runs did. It is shared between calls, not to be changed.
    """
    period = 10000 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.arange(length, dtype=torch.float32)[:, None] / period
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(device, dtype)


class DecoderLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward of width `dim`, each with a residual; no self-attention.

    `x = x + Attention(LN(x), memory, memory)`, `x = x + FeedForward(LN(x))`; the memory is not normalised. The dropout
    is of attention weights and activations.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Tokens (B, N, dim) that have looked at the memory (B, M, dim)."""
        attended, _ = self.attention(self.attention_norm(tokens), memory, memory, need_weights=False)
        tokens = tokens + self.dropout(attended)
        result: Tensor = tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        return result


class MotionDecoder(nn.Module):
    """Layers of cross-attention, without a final norm (paper, section on the motion decoder)."""

    def __init__(self, dim: int, heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, dropout) for _ in range(num_layers))

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Tokens (B, N, dim) that have looked at the memory (B, M, dim) in every layer."""
        for layer in self.layers:
            tokens = layer(tokens, memory)
        return tokens
