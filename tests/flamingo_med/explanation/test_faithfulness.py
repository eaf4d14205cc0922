"""Measures of maps, by hand: what each is for a perfect map, a wrong one and one that is the same everywhere."""

import pytest
import torch

from flamingo_med.explanation.faithfulness import (
    STEPS,
    TILES,
    average_precision,
    centre_prior,
    deletion_insertion,
    generator,
    overlap_of_areas,
    pointing_game,
    random_map,
    randomise,
    rank_correlation,
    to_tiles,
)

SIDE = 4 * TILES


def marked(row: int, column: int) -> torch.Tensor:
    """A map (SIDE SIDE) that is 1 on one tile."""
    tiles = torch.zeros(TILES, TILES)
    tiles[row, column] = 1
    return tiles.repeat_interleave(4, 0).repeat_interleave(4, 1)


def one_tile(pixels: torch.Tensor) -> torch.Tensor:
    """A model whose answer depends on the tile in row 2, column 7 alone: 1 if it is there, 0 if it is not."""
    return pixels[:, 0, 8:12, 28:32].mean((1, 2))


@pytest.mark.parametrize(
    ("pixel_map", "deletion", "insertion"),
    [
        (marked(2, 7), 0.5 / STEPS, 1 - 0.5 / STEPS),  # first to go: the curve is 1, 0, 0, …
        (-marked(2, 7), 1 - 0.5 / STEPS, 0.5 / STEPS),  # last: 1, …, 1, 0
    ],
)
def test_deletion_and_insertion_of_a_model_with_one_tile(pixel_map, deletion, insertion):
    areas = deletion_insertion(one_tile, torch.ones(1, 3, SIDE, SIDE), pixel_map, generator(0))
    assert areas == pytest.approx((deletion, insertion))


def test_deletion_of_a_map_without_preference_is_that_of_chance():
    pixels, nothing = torch.ones(1, 3, SIDE, SIDE), torch.zeros(SIDE, SIDE)
    areas = torch.tensor([deletion_insertion(one_tile, pixels, nothing, generator(seed)) for seed in range(200)])
    assert areas.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    assert torch.allclose(areas.sum(1), torch.ones(200), atol=1e-6)
    everywhere = deletion_insertion(lambda pixels: pixels.mean((1, 2, 3)), pixels, nothing, generator(0))
    assert everywhere == pytest.approx((0.5, 0.5))


def test_deletion_takes_all_away_and_fills_with_the_mean_colour():
    seen = []
    pixels = torch.full((1, 3, 50, 70), 2.0)  # no multiple of the tiles

    def value(images):
        seen.append(images)
        return images.mean((1, 2, 3))

    deletion_insertion(value, pixels, torch.rand(50, 70), generator(0))
    deleted, inserted = seen[0].chunk(2)
    assert len(deleted) == STEPS + 1
    assert torch.equal(deleted[:1], pixels) and not deleted[-1].any()
    assert torch.equal(inserted[-1:], pixels) and not inserted[0].any()
    assert torch.equal(deleted + inserted, pixels.expand(STEPS + 1, -1, -1, -1))


INSIDE = torch.zeros(4, 4, dtype=torch.bool)
INSIDE[1:3, 1:3] = True


def test_pointing_game():
    hit, miss = torch.zeros(4, 4), torch.zeros(4, 4)
    hit[2, 2], miss[0, 3] = 1, 1
    assert pointing_game(hit, INSIDE) == 1.0
    assert pointing_game(miss, INSIDE) == 0.0
    assert pointing_game(hit + miss, INSIDE) == 0.5
    assert pointing_game(torch.zeros(4, 4), INSIDE) == 0.25  # the finding's share of the image


def test_overlap_of_areas():
    assert overlap_of_areas(INSIDE.float(), INSIDE) == 1.0
    assert overlap_of_areas(-INSIDE.float(), INSIDE) == 0.0
    half = torch.zeros(4, 4)
    half[1, 1:3] = 2
    half[0, :2] = 1
    assert overlap_of_areas(half, INSIDE) == pytest.approx(2 / 6)
    assert overlap_of_areas(torch.zeros(4, 4), INSIDE) == pytest.approx(1 / 7)  # 4 of 16 by lot: one of them command


def test_average_precision():
    assert average_precision(INSIDE.float(), INSIDE) == 1.0
    assert average_precision(torch.zeros(4, 4), INSIDE) == pytest.approx(0.25)
    assert average_precision(-INSIDE.float(), INSIDE) == pytest.approx(0.25)
    first, second = torch.tensor([[0.1, 0.4], [0.35, 0.8]]), torch.tensor([[False, False], [True, True]])
    assert average_precision(first, second) == pytest.approx(5 / 6)  # the example of scikit-learn


def test_rank_correlation():
    one = random_map((SIDE, SIDE), generator("a"))
    assert rank_correlation(one, one.exp()) == pytest.approx(1.0)
    assert rank_correlation(one, -one) == pytest.approx(-1.0)
    assert abs(rank_correlation(one, random_map((SIDE, SIDE), generator("b")))) < 0.25
    flat = torch.ones(SIDE, SIDE)
    assert rank_correlation(flat, flat) == 1.0 and rank_correlation(flat, one) == 0.0
    assert rank_correlation(marked(0, 0), marked(0, 0) + marked(5, 5)) == pytest.approx(0.705, abs=0.01)


def test_baselines():
    prior = centre_prior((30, 50))
    assert prior.shape == (30, 50) and torch.allclose(prior, prior.flip(0).flip(1))
    assert prior.argmax().item() in (14 * 50 + 24, 14 * 50 + 25, 15 * 50 + 24, 15 * 50 + 25)
    one = random_map((SIDE, SIDE), generator("x", 1))
    assert torch.equal(one, random_map((SIDE, SIDE), generator("x", 1)))
    assert not torch.equal(one, random_map((SIDE, SIDE), generator("x", 2)))
    assert to_tiles(one).unique().numel() > TILES


def test_a_random_model_has_the_same_weights_elsewhere(make_model):
    model = make_model()
    other = randomise(model, 0)
    weights = dict(model.named_parameters())
    for name, weight in other.named_parameters():
        torch.testing.assert_close(weight.flatten().sort().values, weights[name].flatten().sort().values)
    moved = [name for name, weight in other.named_parameters() if not torch.equal(weight, weights[name])]
    assert "resampler.latents" in moved and any("language_model" in name for name in moved)
    again, third = randomise(model, 0), randomise(model, 1)
    assert torch.equal(again.resampler.latents, other.resampler.latents)
    assert not torch.equal(third.resampler.latents, other.resampler.latents)
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
