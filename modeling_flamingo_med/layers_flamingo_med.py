"""The two blocks that resampler and gated cross-attention are made of: multi-head attention and feed-forward.

Letters of all shapes in this package: b batch, n image, f frame of an image (a study's views), c h w image channels,
height and width, p patch, l latent, t token, d width, a attention head, e width of a head, g gated layer, q query,
k key, m distinct image, v vocabulary, r row of the vocabulary, s candidate answer.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

MakeNorm = Callable[[int], nn.Module]  # of a width


class FlamingoMedKeysValues(nn.Linear):
    """A linear layer of its own class, since it works on images before the layer that it belongs to does on text: FSDP
    has to find its weights by themselves."""


class FlamingoMedAttention(nn.Module):
    """Multi-head attention from queries (b q d) to the keys and values of something else, without biases.

    Args:
        query_width, media_width: of what asks and of what is asked.
        num_heads, head_dim: attention heads and the width of one.
        qk_norm: makes the norms of queries and keys in each head; None for none.
    """

    def __init__(
        self, query_width: int, media_width: int, num_heads: int, head_dim: int, qk_norm: MakeNorm | None = None
    ):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(query_width, num_heads * head_dim, bias=False)
        self.to_kv = FlamingoMedKeysValues(media_width, 2 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, query_width, bias=False)
        self.q_norm = qk_norm(head_dim) if qk_norm else None
        self.k_norm = qk_norm(head_dim) if qk_norm else None

    def keys_values(self, media: Tensor) -> Tensor:
        """Keys and values, stacked: (b k d) → (b 2 a k e)."""
        keys_values = rearrange(self.to_kv(media), "b k (two a e) -> b two a k e", two=2, a=self.num_heads)
        if self.k_norm is None:
            return keys_values
        keys, values = keys_values.unbind(1)
        return torch.stack([self.k_norm(keys), values], dim=1)

    def forward(
        self, queries: Tensor, keys_values: Tensor, mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled dot-product attention.

        Args:
            queries: (b q d)
            keys_values: (b 2 a k e)
            mask: (b 1 q k) True where q sees k.
            output_attentions: return the attention weights, for which the attention is computed step by step.

        Returns:
            (b q d), and the attention weights (b a q k) or None.
        """
        queries = rearrange(self.to_q(queries), "b q (a e) -> b a q e", a=self.num_heads)
        if self.q_norm is not None:
            queries = self.q_norm(queries)
        keys, values = keys_values.unbind(1)
        weights = None
        if output_attentions:
            scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1)
            attended = weights @ values
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.to_out(rearrange(attended, "b a q e -> b q (a e)")), weights


@contextmanager
def record_attention_weights(attentions: Iterable[FlamingoMedAttention]) -> Iterator[dict[nn.Module, Tensor]]:
    """Within, these attentions return their weights, and the last ones of each (b a q k) are in what this yields.

    They are the very tensors that the outputs were computed from, so that gradients with respect to them exist. The
    recorder of `transformers` does not reach a module that runs within the forward of another model, as the gated
    cross-attentions run within that of the decoder.
    """
    weights: dict[nn.Module, Tensor] = {}

    def ask(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "output_attentions": True}

    def record(attention: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> None:
        weights[attention] = output[1]

    hooks = []
    for attention in attentions:
        hooks.append(attention.register_forward_pre_hook(ask, with_kwargs=True))
        hooks.append(attention.register_forward_hook(record))
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


class FlamingoMedFeedForward(nn.Sequential):
    """Norm → Linear → activation → Linear, (… d) → (… d).

    Args:
        width: d.
        mult: inner width over `width`.
        act: the activation, by its name in `transformers`.
        gated: see `FlamingoMedGatedActivation`.
        norm: makes the norm.
    """

    def __init__(
        self, width: int, mult: float, *, act: str = "gelu", gated: bool = False, norm: MakeNorm = nn.LayerNorm
    ):
        inner = round(mult * width)
        super().__init__(
            norm(width),
            nn.Linear(width, 2 * inner if gated else inner, bias=False),
            FlamingoMedGatedActivation(act) if gated else ACT2FN[act],
            nn.Linear(inner, width, bias=False),
        )


class FlamingoMedGatedActivation(nn.Module):
    """The activation of the first half gates the second, (… 2d) → (… d) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, act: str):
        super().__init__()
        self.act = ACT2FN[act]

    def forward(self, x: Tensor) -> Tensor:
        """(… 2d) → (… d)."""
        gate, x = x.chunk(2, dim=-1)
        return self.act(gate) * x


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
