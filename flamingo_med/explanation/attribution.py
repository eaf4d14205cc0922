"""Gradient and occlusion methods, by Captum (the extra `explain`), on the same targets as attention.

Where something is taken away from the image, the mean colour takes its place: zero after normalisation, as in the
evaluation with blank images.
"""

from collections.abc import Callable

import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from einops import rearrange
from torch import Tensor, nn

from flamingo_med.explanation.case import Case, require_patches

STEPS = 32  # of the integral
AT_ONCE = 32  # images in one pass
WINDOWS = 6  # that fit into a side; they move by half of themselves


def integrated_gradients(case: Case) -> tuple[Tensor, str]:
    """Maps (k h w), signed, that add up to what the image changes of the target (Sundararajan et al. 2017,
    arXiv:1703.01365), and how they were made."""
    method = IntegratedGradients(_of_pixels(case))
    settings = {"n_steps": STEPS, "internal_batch_size": AT_ONCE}
    maps = _each_value(case, lambda k: method.attribute(case.pixels, target=k, **settings).sum(1))
    return maps, f"{STEPS} steps from the mean colour"


@torch.no_grad()
def occlusion(case: Case) -> tuple[Tensor, str]:
    """Maps (k h w), signed, of how far the target falls when a window of the image is taken away (Zeiler and Fergus
    2014, arXiv:1311.2901), and how they were made."""
    method = Occlusion(_of_pixels(case))
    channels, *size = case.pixels.shape[1:]
    window = [max(side // WINDOWS, 1) for side in size]
    settings = {
        "sliding_window_shapes": (channels, *window),
        "strides": (channels, *(max(side // 2, 1) for side in window)),
        "perturbations_per_eval": AT_ONCE,
    }
    maps = _each_value(case, lambda k: method.attribute(case.pixels, target=k, **settings)[:, 0])
    return maps, f"windows of {window[0]} × {window[1]} pixels"


def grad_cam(case: Case) -> tuple[Tensor, str]:
    """Maps (k rows columns) of the encoder's features, weighted by their mean gradients (Selvaraju et al. 2017,
    arXiv:1610.02391), and how they were made.

    Raises:
        InputError: a model with one pooled vector.
    """
    require_patches(case, "grad_cam")
    with torch.no_grad():
        features = case.model.image_features(case.pixels)  # (1 p d)
    tail = _AfterFeatures(case, features)
    method = LayerGradCam(tail, tail.layer)
    maps = _each_value(case, lambda k: method.attribute(tail.map, target=k, relu_attributions=True)[:, 0])
    return maps, "at the image encoder's features"


class _AfterFeatures(nn.Module):
    """The model behind its image encoder, as a function of a feature map (b d rows columns)."""

    def __init__(self, case: Case, features: Tensor):
        super().__init__()
        self.value = lambda features: case.target(case.model, image_features=features)
        patches = case.grid.rows * case.grid.columns
        self.others, features = features[:, :-patches], features[:, -patches:]  # class and register tokens come first
        self.map = rearrange(features, "b (rows columns) d -> b d rows columns", rows=case.grid.rows).requires_grad_()
        self.layer = nn.Identity()

    def forward(self, feature_map: Tensor) -> Tensor:
        features = rearrange(self.layer(feature_map), "b d rows columns -> b (rows columns) d")
        return self.value(torch.cat([self.others, features], dim=1))


def _of_pixels(case: Case) -> Callable[[Tensor], Tensor]:
    """The target's values (b k) as a function of what the model sees (b c h w)."""
    return lambda pixels: case.target(case.model, pixel_values=pixels)


def _each_value(case: Case, attribute: Callable[[int], Tensor]) -> Tensor:
    """(1 h w) of each of the target's k values → (k h w)."""
    return torch.cat([attribute(k) for k in range(len(case.target.labels))]).detach().float()
