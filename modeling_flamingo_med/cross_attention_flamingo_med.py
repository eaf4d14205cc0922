"""FlamingoMedGatedCrossAttention, which lets a decoder layer see images, and which token sees which image."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_flamingo_med import FlamingoMedConfig
from .layers_flamingo_med import FlamingoMedAttention, FlamingoMedFeedForward, FlamingoMedGate

# Keyword arguments on their way to the layers of a decoder whose class drops them, in this thread's (or task's) call.
_CONTEXT: ContextVar[dict[str, Any]] = ContextVar("context_keywords", default={})  # noqa: B039 (never changed in place)


@contextmanager
def context_keywords(keywords: dict[str, Any]) -> Iterator[None]:
    """Within, hooks with `from_context=True` find these keyword arguments although the decoder drops them."""
    token = _CONTEXT.set(keywords)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def image_mask(latest_image: Tensor, num_images: int, num_latents: int, latest_only: bool = True) -> Tensor:
    """Which token sees which latents.

    Args:
        latest_image: (b t) the number of the latest image before or at each token, from 1 on; 0 for none.
        num_images: n.
        num_latents: l.
        latest_only: each token sees the latest image before it (Alayrac et al. 2022, section 3.1.3); otherwise all
            images before it.

    Returns:
        (b 1 t (n l)) True where the token sees the latent.

    >>> image_mask(torch.tensor([[0, 1, 2]]), num_images=2, num_latents=1).int().tolist()
    [[[[0, 0], [1, 0], [0, 1]]]]
    """
    image_of_latent = repeat(torch.arange(num_images, device=latest_image.device), "n -> (n l)", l=num_latents)
    latest_image = rearrange(latest_image, "b t -> b 1 t 1")
    return latest_image == image_of_latent + 1 if latest_only else latest_image > image_of_latent


def packed_mask(sequence_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """The decoder's mask of sequences packed into one row: causal, and none sees another.

    Args:
        sequence_ids: (b t) which sequence each token belongs to.

    Returns:
        (b 1 t t) to be added to attention scores.

    >>> (packed_mask(torch.tensor([[0, 0, 1]]), torch.float32) == 0).int().tolist()
    [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]]
    """
    t = sequence_ids.shape[1]
    sees = rearrange(sequence_ids, "b t -> b 1 t 1") == rearrange(sequence_ids, "b t -> b 1 1 t")
    sees = sees & torch.ones(t, t, dtype=torch.bool, device=sees.device).tril()
    return torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)


def check_images(latest_image: Tensor, image_key_values: Tensor | None, num_latents: int) -> None:
    """Refuse a token that waits for an image that is not there, and images that no token waits for, in silence.

    Args:
        latest_image: (b t) as in `image_mask`.
        image_key_values: (b g 2 a (n l) e) of the images that are there, None for none.
        num_latents: l.
    """
    num_images = 0 if image_key_values is None else image_key_values.shape[-2] // num_latents
    if image_key_values is not None and len(image_key_values) != len(latest_image):
        raise ValueError(f"images of {len(image_key_values)} rows for input_ids {tuple(latest_image.shape)}")
    if torch.compiler.is_compiling():
        return
    if latest_image.max() > num_images:
        raise ValueError(f"{latest_image.max()} <image> tokens in a row, but {num_images} images")
    if num_images and latest_image.max() == 0:
        raise ValueError(f"{num_images} images in a row, but no <image> token, so the text would see none of them")


class FlamingoMedGatedCrossAttention(GradientCheckpointingLayer):
    """Gated cross-attention and feed-forward, placed before a decoder layer (Alayrac et al. 2022, figure 4).

    x ← x + tanh(α₁) · attention(norm(x), image)
    x ← x + tanh(α₂) · feed-forward(x)

    With both gates at 0, where they start by default, a layer leaves the decoder as it is.

    Args:
        config: its settings `cross_attn_…`; the widths are those of the decoder and of the image's latents.

    >>> layer = FlamingoMedGatedCrossAttention(FlamingoMedConfig())
    >>> key_values = layer.attn.key_values(torch.randn(2, 64, 768))  # of the latents of one image
    >>> x, mask = torch.randn(2, 5, 768), torch.ones(2, 1, 5, 64, dtype=torch.bool)
    >>> torch.equal(layer(x, key_values, mask), x)  # the gates are closed
    True
    """

    def __init__(self, config: FlamingoMedConfig):
        super().__init__()
        width, heads, head_dim = (
            config.text_config.hidden_size,
            config.cross_attn_num_heads,
            config.cross_attn_head_dim,
        )
        eps, gate_init = config.cross_attn_rms_norm_eps, config.cross_attn_gate_init
        norm = nn.LayerNorm if eps is None else partial(nn.RMSNorm, eps=eps)
        qk_norm = norm if config.cross_attn_qk_norm else None
        self.norm = norm(width)
        self.attn = FlamingoMedAttention(config, width, config.vision_width, heads, head_dim, qk_norm)
        self.attn_gate = FlamingoMedGate(gate_init)
        self.ff = FlamingoMedFeedForward(
            width,
            config.cross_attn_ff_mult,
            act=config.cross_attn_act,
            gated=config.cross_attn_gated_ff,
            norm=norm,
        )
        self.ff_gate = FlamingoMedGate(gate_init)

    def forward(self, x: Tensor, image_key_values: Tensor | None = None, image_mask: Tensor | None = None) -> Tensor:
        """Hidden states (b t d) → (b t d).

        Args:
            image_key_values: (b 2 a (n l) e) keys and values of the images' latents; None where no image is given.
            image_mask: (b 1 t (n l)) True where the token sees the latent. A token that sees none takes nothing.
        """
        if image_key_values is not None:
            sees_image = image_mask.any(-1)  # (b 1 t)
            # A softmax over nothing is not a number: such tokens look everywhere, and what they take is dropped.
            attended, _ = self.attn(self.norm(x), image_key_values, image_mask | ~sees_image.unsqueeze(-1))
            x = x + self.attn_gate(attended) * rearrange(sees_image, "b 1 t -> b t 1")
        return x + self.ff_gate(self.ff(x))


class FlamingoMedCrossAttentionHook:
    """Forward pre-hook on an untouched decoder layer: a gated cross-attention works on its hidden states first.

    The images' keys and values and the mask travel through the decoder's forward as keyword arguments, so no module
    ever holds the state of a call; they end here, and the decoder layer does not see them.

    Args:
        cross_attn: all gated cross-attentions; looked up at each call, since an adapter may have replaced one.
        index: which of them stands before this decoder layer, None for none.
        from_context: the decoder drops keyword arguments, so they come by `context_keywords`.
    """

    def __init__(self, cross_attn: nn.ModuleList, index: int | None, from_context: bool):
        self.cross_attn = cross_attn
        self.index = index
        self.from_context = from_context

    def __call__(self, decoder_layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Replace the hidden states (b t d), which come as the first argument or by name."""
        kwargs = {**kwargs, **_CONTEXT.get()} if self.from_context else dict(kwargs)
        image_key_values = kwargs.pop("image_key_values", None)  # (b g 2 a (n l) e)
        image_mask = kwargs.pop("image_mask", None)
        if self.index is None:
            return args, kwargs
        x = args[0] if args else kwargs.pop("hidden_states")
        key_values = None if image_key_values is None else image_key_values[:, self.index]
        x = self.cross_attn[self.index](x, key_values, image_mask)
        return (x, *args[1:]), kwargs
