"""The two blocks that resampler and gated cross-attention are made of: multi-head attention and feed-forward.

Letters of all shapes in this package: b batch, n image, f frame of an image (a study's views), c h w image channels,
height and width, p patch, l latent, t token, d width, a attention head, e width of a head, g gated layer, q query,
k key, m distinct image, v vocabulary, r row of the vocabulary, s candidate answer.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

MakeNorm = Callable[[int], nn.Module]  # of a width


class FlamingoMedKeyValues(nn.Linear):
    """A linear layer of its own class, since it works on images before the layer that it belongs to does on text: FSDP
    has to find its weights by themselves."""


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention step by step, the implementation "eager" of the interface of `transformers`.

    Args:
        query, key, value: (b a q e), (b a k e), (b a k e)
        attention_mask: (b 1 q k) True where q sees k.

    Returns:
        (b q a e), and the attention weights (b a q k).
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2), weights


class FlamingoMedAttention(nn.Module):
    """Multi-head attention from queries (b q d) to the keys and values of something else, without biases.

    It goes through the attention interface of `transformers`, so that an implementation registered there by
    `AttentionInterface.register` reaches it. Such a one gets the mask as it is: (b 1 q k), True where q sees k.

    Args:
        config: its `attn_implementation` is looked up at each call.
        query_width, media_width: width of the queries, and of what the keys and values are made from.
        num_heads, head_dim: attention heads and the width of one.
        qk_norm: makes the norms of queries and keys in each head; None for none.

    >>> config = PretrainedConfig(attn_implementation="eager")
    >>> attention = FlamingoMedAttention(config, query_width=16, media_width=32, num_heads=2, head_dim=8)
    >>> output, weights = attention(torch.randn(1, 5, 16), attention.key_values(torch.randn(1, 9, 32)))
    >>> output.shape, weights.shape
    (torch.Size([1, 5, 16]), torch.Size([1, 2, 5, 9]))
    """

    def __init__(
        self,
        config: PretrainedConfig,
        query_width: int,
        media_width: int,
        num_heads: int,
        head_dim: int,
        qk_norm: MakeNorm | None = None,
    ):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = head_dim**-0.5
        self.is_causal = False  # SDPA would take attention without a mask for a decoder's
        self.to_q = nn.Linear(query_width, num_heads * head_dim, bias=False)
        self.to_kv = FlamingoMedKeyValues(media_width, 2 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, query_width, bias=False)
        self.q_norm = qk_norm(head_dim) if qk_norm else None
        self.k_norm = qk_norm(head_dim) if qk_norm else None

    def key_values(self, media: Tensor) -> Tensor:
        """Keys and values, stacked: (b k d) → (b 2 a k e)."""
        key_values = rearrange(self.to_kv(media), "b k (two a e) -> b two a k e", two=2, a=self.num_heads)
        if self.k_norm is None:
            return key_values
        keys, values = key_values.unbind(1)
        return torch.stack([self.k_norm(keys), values], dim=1)

    def forward(
        self, queries: Tensor, key_values: Tensor, mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled dot-product attention.

        Args:
            queries: (b q d)
            key_values: (b 2 a k e)
            mask: (b 1 q k) True where q sees k.
            output_attentions: return the attention weights, whatever the implementation: it is eager for this call.

        Returns:
            (b q d), and the attention weights (b a q k), None where the implementation has none.
        """
        queries = rearrange(self.to_q(queries), "b q (a e) -> b a q e", a=self.num_heads)
        if self.q_norm is not None:
            queries = self.q_norm(queries)
        keys, values = key_values.unbind(1)
        attend = eager_attention_forward
        if not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
        attended, weights = attend(self, queries, keys, values, mask, scaling=self.scaling, dropout=0.0)
        return self.to_out(rearrange(attended, "b q a e -> b q (a e)")), weights


@contextmanager
def record_attention_weights(attentions: Iterable[FlamingoMedAttention]) -> Iterator[dict[nn.Module, Tensor]]:
    """Within, these attentions return their weights, and the last ones of each (b a q k) are in what this yields.

    They are the very tensors that the outputs were computed from, so that gradients with respect to them exist. The
    recorder of `transformers` does not reach a module that runs within the forward of another model, as the gated
    cross-attentions run within that of the decoder. The hooks are on the modules meanwhile: two threads that record
    the same model at once would record each other's.
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

    >>> FlamingoMedFeedForward(16, 4)(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
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
