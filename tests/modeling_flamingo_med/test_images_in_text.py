"""Several images in a row: which token sees which, ragged counts, and the frames of a study."""

import pytest
import torch

from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedPerceiverResampler
from modeling_flamingo_med.cross_attention_flamingo_med import image_mask
from tests.conftest import QUESTIONS, SMALL, VISION


def test_tokens_see_the_latest_image_or_all_before():
    index = torch.tensor([[0, 1, 1, 2]])
    latest = image_mask(index, num_images=2, num_latents=2)
    assert latest.int().tolist() == [[[[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]]]
    every = image_mask(index, num_images=2, num_latents=2, latest_only=False)
    assert every.int().tolist() == [[[[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]]]


@pytest.mark.parametrize("text", ["gpt2", "llama"])
def test_text_before_the_first_image_does_not_see_it(make_model, processor, images, text):
    model = make_model(text=text)
    prompts = ["Is the heart enlarged? <image> Question: and now? <EOQ> Answer:"]
    tokens = processor.tokenize(prompts)
    start = (tokens["input_ids"][0] == processor.token_ids["image_token_id"]).nonzero().item()
    pixels = [processor(images=image, text="?")["pixel_values"] for image in images[:2]]
    with torch.no_grad():
        first, second = (model(pixel_values=p, **tokens).logits[0] for p in pixels)
    assert start > 0
    assert torch.equal(first[:start], second[:start])
    assert not torch.equal(first[start], second[start])


@pytest.mark.parametrize("latest_only", [True, False])
@torch.no_grad()
def test_an_earlier_image_reaches_later_text_only_through_the_decoder(make_model, processor, images, latest_only):
    # One gated layer, the first: what a token takes from an image there can only be of the images that it sees.
    model = make_model(cross_attn_every_n_layers=9, cross_attn_latest_only=latest_only)
    prompt = "<image> a <image> b"
    first = processor(images=[[images[0], images[1]]], text=[prompt])
    second = processor(images=[[images[2], images[1]]], text=[prompt])
    taken = []
    model.cross_attn[0].register_forward_hook(lambda module, args, output: taken.append(output[0]))
    model(**first), model(**second)
    ids = first["input_ids"][0]
    later = (ids == model.config.image_token_id).cumsum(0) == 2
    assert torch.equal(taken[0][later], taken[1][later]) == latest_only
    assert not torch.equal(taken[0][~later], taken[1][~later])


@torch.no_grad()
def test_ragged_image_counts(make_model, processor, images):
    for latest_only in (True, False):
        model = make_model(cross_attn_latest_only=latest_only)
        rows = [[images[0]], [images[1], images[2]], [images[2]]]
        batch = processor(images=rows, text=QUESTIONS)
        assert batch["pixel_values"].shape[:2] == (3, 2)
        options = {"max_new_tokens": 6, "do_sample": False}
        together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        for row, (shown, question) in enumerate(zip(rows, QUESTIONS, strict=True)):
            single = processor(images=[shown], text=[question])
            alone = model.generate(**single, **options)[0, single["input_ids"].shape[1] :].tolist()
            assert together[row][: len(alone)].tolist() == alone
    with pytest.raises(ValueError, match="2 <image> tokens in a row, but 1 images"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:, :1]})


@torch.no_grad()
def test_frames_of_a_study(make_model, processor, images):
    model = make_model(resampler_max_frames=2)
    frontal, lateral, other = images
    batch = processor(images=[(frontal, lateral), other], text=QUESTIONS[:2])
    assert batch["pixel_values"].shape == (2, 1, 2, 3, 32, 32)
    assert batch["frame_mask"].tolist() == [[[True, True]], [[True, False]]]
    assert (batch["input_ids"] == model.config.image_token_id).sum(1).tolist() == [1, 1]

    latents = model.encode_images(batch["pixel_values"], batch["frame_mask"])
    assert latents.shape[:2] == (2, 1)
    alone = model.encode_images(processor(images=other, text="?")["pixel_values"])
    torch.testing.assert_close(latents[1:], alone)  # a frame that only fills up is not seen
    swapped = processor(images=[(lateral, frontal), other], text=QUESTIONS[:2])
    exchanged = model.encode_images(swapped["pixel_values"], swapped["frame_mask"])
    assert (exchanged[0] - latents[0]).abs().max() > 1e-3  # time embeddings tell the views apart

    together = model.generate(**batch, max_new_tokens=6, do_sample=False)
    single = processor(images=(frontal, lateral), text=QUESTIONS[0])
    alone = model.generate(**single, max_new_tokens=6, do_sample=False)[0, single["input_ids"].shape[1] :].tolist()
    assert together[0, batch["input_ids"].shape[1] :][: len(alone)].tolist() == alone

    with pytest.raises(ValueError, match=r"resampler_max_frames is 1, got 2 frames: \(1, 2, 17, 32\)"):
        make_model()(**single)
    with pytest.raises(ValueError, match=r"frame_mask must be \(b n f\) \(1, 1, 2\), got \(1, 2\)"):
        model(**{**single, "frame_mask": torch.ones(1, 2, dtype=torch.bool)})


def test_resampler_without_frames_is_the_resampler_of_one(processor):
    resampler = FlamingoMedPerceiverResampler(
        FlamingoMedConfig(vision_config=VISION["clip"], **SMALL, resampler_max_frames=3)
    )
    patches = torch.randn(2, 3, 5, 32)
    two = resampler(patches[:, :2])
    masked = resampler(patches, torch.tensor([[True, True, False]] * 2))
    torch.testing.assert_close(two, masked)
    assert not torch.allclose(two, resampler(patches))
