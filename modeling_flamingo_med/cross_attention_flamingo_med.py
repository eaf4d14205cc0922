"""FlamingoMedGatedCrossAttention, which lets a decoder layer see images, and which token sees which image."""

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .layers_flamingo_med import FlamingoMedAttention, FlamingoMedFeedForward, FlamingoMedGate


def latest_image_mask(image_index: Tensor, num_images: int, num_latents: int) -> Tensor:
    """Each token sees the latents of the latest image before it (Alayrac et al. 2022, section 3.1.3).

    Args:
        image_index: (b t) how many images stand before or at each token; 0 where none does.

    Returns:
        (b 1 t (n l)) True where the token sees the latent.
    """
    image_of_latent = repeat(torch.arange(num_images, device=image_index.device), "n -> (n l)", l=num_latents)
    return rearrange(image_index, "b t -> b 1 t 1") == image_of_latent + 1


class FlamingoMedGatedCrossAttention(nn.Module):
    """Gated cross-attention and feed-forward, placed before a decoder layer (Alayrac et al. 2022, figure 4).

    x ← x + tanh(α₁) · attention(norm(x), image)
    x ← x + tanh(α₂) · feed-forward(x)

    With both gates at 0, where they start by default, a layer leaves the decoder as it is.
    """

    def __init__(
        self, *, width: int, media_width: int, num_heads: int, head_dim: int, ff_mult: int, gate_init: float = 0.0
    ):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = FlamingoMedAttention(width, media_width, num_heads, head_dim)
        self.attn_gate = FlamingoMedGate(gate_init)
        self.ff = FlamingoMedFeedForward(width, ff_mult)
        self.ff_gate = FlamingoMedGate(gate_init)

    def forward(self, x: Tensor, image_states: Tensor | None, image_mask: Tensor | None) -> Tensor:
        """Hidden states (b t d) → (b t d).

        Args:
            image_states: (b 2 a (n l) e) keys and values of the images' latents; None where no image is given.
            image_mask: (b 1 t (n l)) True where the token sees the latent. A token that sees none takes nothing.
        """
        if image_states is not None:
            sees_image = image_mask.any(-1)  # (b 1 t)
            # A softmax over nothing is not a number: such tokens look everywhere, and what they take is dropped.
            attended = self.attn(self.norm(x), image_states, image_mask | ~sees_image.unsqueeze(-1))
            x = x + self.attn_gate(attended) * rearrange(sees_image, "b 1 t -> b t 1")
        return x + self.ff_gate(self.ff(x))


class FlamingoMedCrossAttentionHook:
    """Forward pre-hook on an untouched decoder layer: a gated cross-attention works on its hidden states first.

    Image states and mask travel through the decoder's forward as keyword arguments, so no module ever holds the state
    of a call; they end here, and the decoder layer does not see them.

    Args:
        cross_attn: the gated cross-attention before this decoder layer, None where there is none.
        index: which of the gated layers it is.
    """

    def __init__(self, cross_attn: FlamingoMedGatedCrossAttention | None, index: int):
        self.cross_attn = cross_attn
        self.index = index

    def __call__(self, decoder_layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Replace the hidden states (b t d), which come as the first argument or by name."""
        kwargs = dict(kwargs)
        image_states = kwargs.pop("image_states", None)  # (b g 2 a (n l) e)
        image_mask = kwargs.pop("image_mask", None)
        if self.cross_attn is None:
            return args, kwargs
        x = args[0] if args else kwargs.pop("hidden_states")
        x = self.cross_attn(x, None if image_states is None else image_states[:, self.index], image_mask)
        return (x, *args[1:]), kwargs
