"""Whether a map is faithful: does the answer depend on what it marks, does it mark the finding, does it depend on the
model at all, and is it the same again.

Maps are compared, and images taken apart, in TILES × TILES tiles, so that no method gains from the fineness of its
maps: deleting scattered pixels hurts any model. Where several tiles or pixels of a map are equal, each measure takes
the mean over their orders, or a random order.
"""

from collections.abc import Callable
from copy import deepcopy
from hashlib import sha256

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

TILES = 12
STEPS = 12  # of deletion and insertion
PRIOR_WIDTH = 0.25  # of the centre prior: its standard deviation over the side of the image


def generator(*names: object) -> torch.Generator:
    """Random numbers that depend on these names alone."""
    digest = sha256("/".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def centre_prior(size: tuple[int, int]) -> Tensor:
    """(h w) a Gaussian in the middle: what a map has to beat, since findings seldom lie at the border."""
    y, x = (torch.linspace(-1, 1, side) / (2 * PRIOR_WIDTH) for side in size)
    return torch.exp(-(y.square().unsqueeze(1) + x.square()) / 2)


def random_map(size: tuple[int, int], draw: torch.Generator) -> Tensor:
    """(h w) of noise, one value a tile."""
    return F.interpolate(torch.rand(1, 1, TILES, TILES, generator=draw), size, mode="nearest-exact")[0, 0]


def to_tiles(pixel_map: Tensor) -> Tensor:
    """(h w) → (TILES TILES) means."""
    return F.adaptive_avg_pool2d(pixel_map[None, None], TILES)[0, 0]


@torch.no_grad()
def deletion_insertion(
    value: Callable[[Tensor], Tensor], pixels: Tensor, pixel_map: Tensor, draw: torch.Generator
) -> tuple[float, float]:
    """Areas under the curves of the target while tiles are taken away, or put in, the most marked first (Petsiuk et
    al. 2018, arXiv:1806.07421).

    Args:
        value: images (b c h w) → the target (b), such as a probability.
        pixels: (1 c h w) the image.
        pixel_map: (h w)
        draw: the order of equally marked tiles.

    Returns:
        Deletion, the lower the better; insertion, the higher. What is not there has the mean colour.
    """
    tiles = to_tiles(pixel_map).flatten().cpu()
    lot = torch.randperm(tiles.numel(), generator=draw)
    order = lot[tiles[lot].argsort(descending=True, stable=True)]
    rank = order.argsort().reshape(TILES, TILES)
    shares = torch.linspace(0, 1, STEPS + 1)
    gone = rank < (shares * tiles.numel()).round().reshape(-1, 1, 1)  # (steps tiles tiles)
    gone = F.interpolate(gone.unsqueeze(1).float(), pixels.shape[-2:], mode="nearest-exact").to(pixels)
    values = value(torch.cat([pixels * (1 - gone), pixels * gone])).double().cpu()
    deletion, insertion = values.reshape(2, -1)
    return torch.trapezoid(deletion, shares.double()).item(), torch.trapezoid(insertion, shares.double()).item()


def pointing_game(pixel_map: Tensor, inside: Tensor) -> float:
    """Whether the map's maximum lies in the finding (Zhang et al. 2018, arXiv:1608.00507); of several equal maxima,
    the share that does. Maps and finding (h w)."""
    return inside[pixel_map == pixel_map.max()].float().mean().item()


def overlap_of_areas(pixel_map: Tensor, inside: Tensor) -> float:
    """Intersection over union of the finding and as many of the most marked pixels as it has; of equally marked ones
    at the limit an equal share counts of each. Maps and finding (h w)."""
    area = int(inside.sum())
    limit = pixel_map.flatten().kthvalue(pixel_map.numel() - area + 1).values
    above, equal = pixel_map > limit, pixel_map == limit
    share = (area - above.sum()) / equal.sum()
    common = (above & inside).sum() + share * (equal & inside).sum()
    return (common / (2 * area - common)).item()


def average_precision(pixel_map: Tensor, inside: Tensor) -> float:
    """Area under the precision-recall curve of pixels as the finding's, as steps; equal pixels are one step. Maps and
    finding (h w)."""
    _, level = pixel_map.flatten().unique(return_inverse=True)
    hits = torch.bincount(level, inside.flatten().double()).flip(0)
    found, taken = hits.cumsum(0), torch.bincount(level).flip(0).cumsum(0)
    return (hits / hits.sum() * found / taken).sum().item()


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of two maps (h w) over their tiles; 1 for equal ones, else 0 where one is the same everywhere."""
    a, b = (_mean_ranks(to_tiles(one).flatten()) for one in (first, second))
    if torch.equal(a, b):
        return 1.0
    a, b = a - a.mean(), b - b.mean()
    norm = a.norm() * b.norm()
    return (a @ b / norm).item() if norm > 0 else 0.0


def _mean_ranks(values: Tensor) -> Tensor:
    """(n) → ranks (n); equal values share the mean of theirs."""
    _, level, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[level]


@torch.no_grad()
def randomise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The model with each weight tensor's entries in random order: all it has learned is gone, no weight is of another
    size (Adebayo et al. 2018, arXiv:1810.03292)."""
    model = deepcopy(model)
    for name, weight in model.named_parameters():
        order = torch.randperm(weight.numel(), generator=generator(seed, name)).to(weight.device)
        weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return model


def add_noise(pixels: Tensor, draw: torch.Generator, strength: float = 0.01) -> Tensor:
    """Pixels (1 c h w) with normal noise of so many standard deviations of an image, too little to be seen."""
    return pixels + strength * torch.randn(pixels.shape, generator=draw).to(pixels)
