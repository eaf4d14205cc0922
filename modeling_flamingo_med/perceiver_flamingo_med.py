"""FlamingoMedPerceiverResampler: any number of patch features of an image in, a fixed number of latents out."""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_flamingo_med import FlamingoMedAttention, FlamingoMedFeedForward


class FlamingoMedPerceiverLayer(GradientCheckpointingLayer):
    """One layer: latents attend to the patches and to themselves, then a feed-forward; both with a residual."""

    def __init__(
        self, *, width: int, num_heads: int, head_dim: int, ff_mult: float, act: str = "gelu", qk_norm: bool = False
    ):
        super().__init__()
        self.patch_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.attn = FlamingoMedAttention(width, width, num_heads, head_dim, nn.LayerNorm if qk_norm else None)
        self.ff = FlamingoMedFeedForward(width, ff_mult, act=act)

    def forward(self, latents: Tensor, patches: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b l d), (b p d), mask (b 1 1 (p l)) → (b l d)."""
        queries = self.latent_norm(latents)
        media = torch.cat([self.patch_norm(patches), queries], dim=1)
        attended, _ = self.attn(queries, self.attn.keys_values(media), mask)
        latents = latents + attended
        return latents + self.ff(latents)


class FlamingoMedPerceiverResampler(nn.Module):
    """Perceiver resampler (Alayrac et al. 2022, section 3.1.1 and figure 5).

    Args:
        width: of the patch features and of the latents.
        depth: number of layers.
        num_latents: number of latents.
        num_heads, head_dim: attention heads and the width of one.
        ff_mult: feed-forward width over `width`.
        act: activation of the feed-forward, by its name in `transformers`.
        qk_norm: LayerNorm of queries and keys in each head.
        num_positions: number of patches of an image, to learn an embedding of each one's place; 0 where the encoder's
            features tell their place already, as those of a vision transformer do.
        max_frames: the most frames that an image can have, such as the views of a study; with more than one, each has
            a learned time embedding.
        max_images: the most images of a row, each with a learned embedding of its number in the row; 0 for none.

    >>> resampler = FlamingoMedPerceiverResampler(width=32, depth=2, num_latents=8, num_heads=4, head_dim=8, ff_mult=4)
    >>> resampler(torch.randn(3, 1, 50, 32)).shape
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
        ff_mult: float,
        act: str = "gelu",
        qk_norm: bool = False,
        num_positions: int = 0,
        max_frames: int = 1,
        max_images: int = 0,
    ):
        super().__init__()
        self.max_frames = max_frames
        self.latents = nn.Parameter(torch.empty(num_latents, width))
        self.positions = nn.Parameter(torch.empty(num_positions, width)) if num_positions else None
        self.times = nn.Parameter(torch.empty(max_frames, 1, width)) if max_frames > 1 else None
        self.numbers = nn.Parameter(torch.empty(max_images, 1, width)) if max_images else None
        layer = {"num_heads": num_heads, "head_dim": head_dim, "ff_mult": ff_mult, "act": act, "qk_norm": qk_norm}
        self.layers = nn.ModuleList(FlamingoMedPerceiverLayer(width=width, **layer) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Latents, positions, times and numbers of unit variance."""
        for embedding in (self.latents, self.positions, self.times, self.numbers):
            if embedding is not None:
                init.normal_(embedding)

    def forward(self, patches: Tensor, frame_mask: Tensor | None = None, images_per_row: int = 1) -> Tensor:
        """Features of the image encoder (b f p d) → latents (b l d).

        Args:
            frame_mask: (b f) False on frames that only fill up; None where there are none.
            images_per_row: so many of the b images follow each other in one row.

        Raises:
            ValueError: more frames than `max_frames`, more images in a row than `max_images`, or another number of
                patches than `num_positions`.
        """
        b, f, p, _ = patches.shape
        if f > self.max_frames:
            raise ValueError(f"resampler_max_frames is {self.max_frames}, got {f} frames: {tuple(patches.shape)}")
        if self.positions is not None:
            if p != len(self.positions):
                raise ValueError(f"resampler_num_positions is {len(self.positions)}, got {p}: {tuple(patches.shape)}")
            patches = patches + self.positions
        if self.times is not None:
            patches = patches + self.times[:f]
        if self.numbers is not None:
            if images_per_row > len(self.numbers):
                raise ValueError(f"resampler_max_images is {len(self.numbers)}, got {images_per_row} in a row")
            numbers = self.numbers[:images_per_row]
            patches = patches + repeat(numbers, "n 1 d -> (b n) 1 1 d", b=b // images_per_row)
        mask = None
        if frame_mask is not None:
            sees_latents = frame_mask.new_ones(b, len(self.latents))
            mask = torch.cat([repeat(frame_mask, "b f -> b (f p)", p=p), sees_latents], dim=1)
            mask = rearrange(mask, "b k -> b 1 1 k")

        patches = rearrange(patches, "b f p d -> b (f p) d")
        latents = repeat(self.latents, "l d -> b l d", b=b)
        for layer in self.layers:
            latents = layer(latents, patches, mask)
        return self.norm(latents)
