"""FlamingoMedPerceiverResampler: any number of patch features of an image in, a fixed number of latents out."""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_flamingo_med import FlamingoMedConfig
from .layers_flamingo_med import FlamingoMedAttention, FlamingoMedFeedForward


class FlamingoMedPerceiverLayer(GradientCheckpointingLayer):
    """One layer: latents attend to the patches and to themselves, then a feed-forward; both with a residual."""

    def __init__(self, config: FlamingoMedConfig):
        super().__init__()
        width, heads, head_dim = config.vision_width, config.resampler_num_heads, config.resampler_head_dim
        qk_norm = nn.LayerNorm if config.resampler_qk_norm else None
        self.patch_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.attn = FlamingoMedAttention(config, width, width, heads, head_dim, qk_norm)
        self.ff = FlamingoMedFeedForward(width, config.resampler_ff_mult, act=config.resampler_act)

    def forward(self, latents: Tensor, patches: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b l d), (b p d), mask (b 1 1 (p l)) → (b l d)."""
        queries = self.latent_norm(latents)
        media = torch.cat([self.patch_norm(patches), queries], dim=1)
        attended, _ = self.attn(queries, self.attn.key_values(media), mask)
        latents = latents + attended
        return latents + self.ff(latents)


class FlamingoMedPerceiverResampler(nn.Module):
    """Perceiver resampler (Alayrac et al. 2022, section 3.1.1 and figure 5).

    Args:
        config: its settings `resampler_…`; patch features and latents have its `vision_width`.

    >>> config = FlamingoMedConfig(resampler_depth=1, resampler_num_latents=8)
    >>> resampler = FlamingoMedPerceiverResampler(config)
    >>> resampler(torch.randn(3, 1, 50, config.vision_width)).shape
    torch.Size([3, 8, 768])
    """

    def __init__(self, config: FlamingoMedConfig):
        super().__init__()
        width, num_positions = config.vision_width, config.resampler_num_positions
        max_frames, max_images = config.resampler_max_frames, config.resampler_max_images
        self.max_frames = max_frames
        self.latents = nn.Parameter(torch.empty(config.resampler_num_latents, width))
        self.positions = nn.Parameter(torch.empty(num_positions, width)) if num_positions else None
        self.times = nn.Parameter(torch.empty(max_frames, 1, width)) if max_frames > 1 else None
        self.numbers = nn.Parameter(torch.empty(max_images, 1, width)) if max_images else None
        self.layers = nn.ModuleList(FlamingoMedPerceiverLayer(config) for _ in range(config.resampler_depth))
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
