"""The two blocks that resampler and gated cross-attention are made of: multi-head attention and feed-forward.

Letters of all shapes in this package: b batch, n image, f frame of an image (a study's views), c h w image channels,
height and width, p patch, l latent, t token, d width, a attention head, e width of a head, g gated layer, q query,
k key, m distinct image, v vocabulary, r row of the vocabulary, s candidate answer.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import initialization as init


class FlamingoMedKeysValues(nn.Linear):
    """A linear layer of its own class, since it works on images before the layer that it belongs to does on text: FSDP
    has to find its weights by themselves."""


class FlamingoMedAttention(nn.Module):
    """Multi-head attention from queries (b q d) to the keys and values of something else, without biases."""

    def __init__(self, query_width: int, media_width: int, num_heads: int, head_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(query_width, num_heads * head_dim, bias=False)
        self.to_kv = FlamingoMedKeysValues(media_width, 2 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, query_width, bias=False)

    def keys_values(self, media: Tensor) -> Tensor:
        """Keys and values, stacked: (b k d) → (b 2 a k e)."""
        return rearrange(self.to_kv(media), "b k (two a e) -> b two a k e", two=2, a=self.num_heads)

    def forward(
        self, queries: Tensor, keys_values: Tensor, mask: Tensor | None = None, maps: list[Tensor] | None = None
    ) -> Tensor:
        """Scaled dot-product attention (b q d), (b 2 a k e) → (b q d).

        Args:
            mask: (b 1 q k) True where q sees k.
            maps: where given, the attention is computed step by step, and its weights (b a q k) are appended.
        """
        queries = rearrange(self.to_q(queries), "b q (a e) -> b a q e", a=self.num_heads)
        keys, values = keys_values.unbind(1)
        if maps is None:
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        else:
            scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            maps.append(scores.softmax(-1))
            attended = maps[-1] @ values
        return self.to_out(rearrange(attended, "b a q e -> b q (a e)"))


class FlamingoMedFeedForward(nn.Sequential):
    """LayerNorm → Linear → GELU → Linear, (… d) → (… d)."""

    def __init__(self, width: int, mult: int):
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, mult * width, bias=False),
            nn.GELU(),
            nn.Linear(mult * width, width, bias=False),
        )


class FlamingoMedGate(nn.Module):
    """tanh(α) with a learned α; where it starts at 0, a fresh layer changes nothing (Alayrac et al. 2022)."""

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.start = start
        self.alpha = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """α as it starts."""
        init.constant_(self.alpha, self.start)

    def forward(self, x: Tensor) -> Tensor:
        """(… d) → (… d)."""
        return self.alpha.tanh() * x
