"""FlamingoMedPerceiverResampler: any number of patch features of an image in, a fixed number of latents out."""

import torch
from einops import repeat
from torch import Tensor, nn
from transformers import initialization as init

from .layers_flamingo_med import FlamingoMedAttention, FlamingoMedFeedForward


class FlamingoMedPerceiverLayer(nn.Module):
    """One layer: latents attend to the patches and to themselves, then a feed-forward; both with a residual."""

    def __init__(self, *, width: int, num_heads: int, head_dim: int, ff_mult: int):
        super().__init__()
        self.patch_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.attn = FlamingoMedAttention(width, width, num_heads, head_dim)
        self.ff = FlamingoMedFeedForward(width, ff_mult)

    def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
        """(b l d), (b p d) → (b l d)."""
        queries = self.latent_norm(latents)
        media = torch.cat([self.patch_norm(patches), queries], dim=1)
        latents = latents + self.attn(queries, self.attn.keys_values(media))
        return latents + self.ff(latents)


class FlamingoMedPerceiverResampler(nn.Module):
    """Perceiver resampler (Alayrac et al. 2022, section 3.1.1 and figure 5).

    Args:
        num_positions: number of patches of an image, to learn an embedding of each one's place; 0 where the encoder's
            features tell their place already, as those of a vision transformer do.

    >>> resampler = FlamingoMedPerceiverResampler(width=32, depth=2, num_latents=8, num_heads=4, head_dim=8, ff_mult=4)
    >>> resampler(torch.randn(3, 50, 32)).shape
    torch.Size([3, 8, 32])
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_latents: int,
        num_heads: int,
        head_dim: int,
        ff_mult: int,
        num_positions: int = 0,
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(num_latents, width))
        self.positions = nn.Parameter(torch.empty(num_positions, width)) if num_positions else None
        self.layers = nn.ModuleList(
            FlamingoMedPerceiverLayer(width=width, num_heads=num_heads, head_dim=head_dim, ff_mult=ff_mult)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Latents and positions of unit variance."""
        init.normal_(self.latents)
        if self.positions is not None:
            init.normal_(self.positions)

    def forward(self, patches: Tensor) -> Tensor:
        """Features of the image encoder (b p d) → latents (b l d)."""
        if self.positions is not None:
            patches = patches + self.positions
        latents = repeat(self.latents, "l d -> b l d", b=len(patches))
        for layer in self.layers:
            latents = layer(latents, patches)
        return self.norm(latents)
