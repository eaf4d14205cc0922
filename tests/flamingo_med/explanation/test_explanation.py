"""Explanations: every target, method and encoder; maps that are known beforehand; the picture."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from flamingo_med.explanation import METHODS, explain, explain_case, prepare
from flamingo_med.explanation.attention import Path, _compose
from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration, FlamingoMedProcessor
from processing.errors import InputError
from tests.conftest import QUESTIONS, SMALL, TEXT
from tests.modeling_flamingo_med.test_backbones_flamingo_med import DECODERS, ENCODERS

ON_PATCHES = ("attention", "attention_gradients", "grad_cam")
pytest.importorskip("captum")


@pytest.fixture
def make_case(make_model, processor, images):
    """make_case(answer="left", **arguments of prepare): a question to a tiny random model."""

    def make(model=None, **arguments):
        arguments = {"answer": "left", **arguments}
        return prepare(model or make_model(), processor, images[0], QUESTIONS[2], **arguments)

    return make


def test_an_answer_counts_as_when_it_is_scored(make_model, processor, images):
    model = make_model()
    inputs = processor(images=images[0], text=QUESTIONS[0])
    scores = model.score_answers(processor.tokenize_answers(["yes", "no"]), **inputs)[0]
    case = prepare(model, processor, images[0], QUESTIONS[0], answer="yes")
    values = case.target(model, pixel_values=case.pixels)
    assert values.shape == (1, 1) and values.item() == pytest.approx(scores[0].item(), abs=1e-4)
    lead = prepare(model, processor, images[0], QUESTIONS[0], answer="yes", alternative="no").target
    assert lead(model, pixel_values=case.pixels).item() == pytest.approx((scores[0] - scores[1]).item(), abs=1e-4)
    assert lead.description == "log P(“yes”) − log P(“no”)"


def test_tokens_add_up_to_the_answer(make_case):
    whole, tokens = make_case(), make_case(per_token=True)
    values = tokens.target(tokens.model, pixel_values=tokens.pixels)[0]
    assert len(values) == len(tokens.target.labels) > 1 and tokens.target.labels[-1] == "<EOC>"
    assert values.sum().item() == pytest.approx(whole.target(whole.model, pixel_values=whole.pixels).item(), abs=1e-4)
    maps, parts = explain_case(whole, "occlusion").pixel_maps, explain_case(tokens, "occlusion").pixel_maps
    torch.testing.assert_close(parts.sum(0, keepdim=True), maps, atol=1e-4, rtol=1e-3)


def test_several_images_at_once_are_valued_as_alone(make_case):
    case = make_case(alternative="right")
    pixels = torch.cat([case.pixels, -case.pixels, torch.zeros_like(case.pixels)])
    together = case.target(case.model, pixel_values=pixels)
    alone = [case.target(case.model, pixel_values=one[None]) for one in pixels]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert together.std() > 1e-3


def test_a_class(make_model, processor, images):
    model = make_model(id2label={0: "effusion", 1: "nodule"})
    case = prepare(model, processor, images[0], QUESTIONS[0], class_name="nodule")
    with torch.no_grad():
        logits = model(**processor(images=images[0], text=QUESTIONS[0])).class_logits
    assert case.target(model, pixel_values=case.pixels).item() == pytest.approx(logits[0, 1].item(), abs=1e-5)
    for method in METHODS:
        assert explain_case(case, method).patch_maps.any()
    with pytest.raises(InputError, match="unknown class 'nodul'; did you mean nodule?"):
        prepare(model, processor, images[0], QUESTIONS[0], class_name="nodul")
    with pytest.raises(InputError, match="neither an alternative"):
        prepare(model, processor, images[0], QUESTIONS[0], class_name="nodule", alternative="no")
    model.config.eoq_token_id = None  # as of other Flamingos: the head reads the prompt's end
    case = prepare(model, processor, images[0], QUESTIONS[0], class_name="nodule")
    with torch.no_grad():
        logits = model(**processor(images=images[0], text=QUESTIONS[0])).class_logits
    assert case.target(model, pixel_values=case.pixels).item() == pytest.approx(logits[0, 1].item(), abs=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder(name, processor, images):
    torch.manual_seed(0)
    size = 28 if name == "clip_l14" else 32
    processor = FlamingoMedProcessor.from_vision_text_pretrained(None, processor.tokenizer, image_size=size)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        ENCODERS[name][0], TEXT["gpt2"], **processor.token_ids, **SMALL, cross_attn_gate_init=0.5
    ).eval()
    before = model.vision_encoder.config._attn_implementation, model.language_model.config._attn_implementation
    case = prepare(model, processor, images[0], QUESTIONS[0], answer="yes")
    assert case.grid.rows * case.grid.columns == ENCODERS[name][2]
    for method in METHODS:
        explanation = explain_case(case, method)
        assert explanation.patch_maps.shape == (1, case.grid.rows, case.grid.columns)
        assert explanation.pixel_maps.shape == (1, size, size)
        assert explanation.original_maps().shape == (1, images[0].height, images[0].width)
        assert explanation.pixel_maps.isfinite().all()
        if method != "grad_cam":  # which may be negative, and then 0, everywhere
            assert explanation.pixel_maps.std() > 0
        if method.startswith("attention"):
            assert explanation.details.endswith("its features" if name == "resnet" else "image encoder")
    assert before == (
        model.vision_encoder.config._attn_implementation,
        model.language_model.config._attn_implementation,
    )
    assert not any(m._forward_hooks for m in (model.vision_encoder, *(layer.attn for layer in model.cross_attn)))


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder(name, processor, images):
    torch.manual_seed(0)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        ENCODERS["clip"][0], DECODERS[name], **processor.token_ids, **SMALL, cross_attn_gate_init=0.5
    ).eval()
    case = prepare(model, processor, images[0], QUESTIONS[0], answer="yes")
    for method in ON_PATCHES[:2]:
        explanation = explain_case(case, method)
        assert explanation.details.startswith("decoder × gated")
        assert explanation.patch_maps.std() > 0


@pytest.mark.parametrize("vision", ["clip", "dinov2"])
def test_patches_alone(vision, make_model, make_case):
    case = make_case(make_model(vision, vision_feature_select="patch"))
    for method in METHODS:
        assert explain_case(case, method).patch_maps.shape == (1, 4, 4)


@pytest.mark.parametrize("layer", [-2, -1])
def test_layers_behind_the_features_have_no_part(layer, make_model, make_case):
    case = make_case(make_model(vision_feature_layer=layer))
    before = explain_case(case, "attention").patch_maps
    with torch.no_grad():
        case.model.vision_encoder.encoder.layers[-1].self_attn.q_proj.weight.mul_(-3)
    assert torch.equal(before, explain_case(case, "attention").patch_maps) == (layer == -2)


def test_closed_gates_let_nothing_through(make_model, make_case):
    case = make_case(make_model(cross_attn_gate_init=0.0))
    for method in METHODS:
        assert not explain_case(case, method).pixel_maps.any()


def test_composition_by_hand():
    """Two tokens, one latent pair, three patches: the second token looks at the first, which looks at latent 1."""
    cross = torch.tensor([[[0.0, 0.8], [0.0, 0.0]]])
    decoder = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    resampler = torch.tensor([[[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.25, 0.75, 0.0, 0.0]]])
    encoder = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    path = Path([decoder], [cross], [resampler], [encoder])
    config = FlamingoMedConfig()
    taken = _compose(path, config, keep=1.0)
    # latent 1 holds 0.25 of feature 1, itself twice patch 1, and 0.75 of feature 2, patches 0 and 2
    second = 0.8 * torch.tensor([0.75, 0.5, 0.75])
    torch.testing.assert_close(taken, torch.stack([2 * second, second]).unsqueeze(0))
    torch.testing.assert_close(_compose(path, config, keep=0.5), taken / 8)


def test_maps_stand_before_the_layers_that_they_are_of():
    """Two layers of a decoder, the first of which lets the second token look at the first; tokens see one patch."""
    looks, does_not = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.eye(2).unsqueeze(0)
    resampler = torch.tensor([[[1.0, 0.0]]])
    cross = torch.tensor([[[1.0], [0.0]]])
    path = Path([looks, does_not], [cross], [resampler], [])
    config = FlamingoMedConfig(cross_attn_every_n_layers=2)
    assert _compose(path, config, keep=1.0).flatten().tolist() == [4.0, 2.0]
    config.cross_attn_first_layer = 1  # behind the layer that would have shown the second token something
    assert _compose(path, config, keep=1.0).flatten().tolist() == [2.0, 0.0]


def test_integrated_gradients_are_complete(make_case):
    case = make_case()
    blank = case.target(case.model, pixel_values=torch.zeros_like(case.pixels))
    difference = (case.target(case.model, pixel_values=case.pixels) - blank).item()
    assert abs(difference) > 0.01
    assert explain_case(case, "integrated_gradients").pixel_maps.sum().item() == pytest.approx(difference, rel=0.05)


@pytest.fixture
def one_patch(make_case):
    """A case whose answer depends on the patch in row 1, column 2 alone: the encoder sees nothing else."""
    case = make_case()
    seen = torch.zeros(1, 1, 32, 32)
    seen[..., 8:16, 16:24] = 1
    case.model.vision_encoder.register_forward_pre_hook(lambda module, args: (args[0] * seen, *args[1:]))
    return case, seen[0, 0].bool()


def test_pixels_without_a_part_in_the_answer_have_none_in_the_map(one_patch):
    case, seen = one_patch
    exact = explain_case(case, "integrated_gradients").pixel_maps[0]
    assert exact[seen].any() and not exact[~seen].any()
    occluded = explain_case(case, "occlusion").pixel_maps[0].abs()
    near = torch.nn.functional.max_pool2d(seen[None, None].float(), 9, 1, 4)[0, 0].bool()  # windows are 5 wide
    assert occluded[seen].mean() > 3 * occluded[~seen].mean() and occluded[~near].max() < 1e-5
    assert explain_case(case, "occlusion").patch_maps[0].abs().argmax() == 1 * 4 + 2


def test_attention_to_values_that_are_zero_raises_nothing(processor, images, monkeypatch):
    """The features of all patches but one are zero: they are attended to, but the answer does not depend on them."""
    torch.manual_seed(0)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        ENCODERS["resnet"][0], TEXT["gpt2"], **processor.token_ids, **SMALL, cross_attn_gate_init=0.5
    ).eval()
    all_features = model.image_features

    def only_one(pixels):
        features = all_features(pixels)
        return torch.cat([0 * features[:, :6], features[:, 6:7], 0 * features[:, 7:]], dim=1)

    monkeypatch.setattr(model, "image_features", only_one)
    case = prepare(model, processor, images[0], QUESTIONS[0], answer="yes")
    raised = explain_case(case, "attention_gradients").patch_maps.flatten()
    assert raised[6] > 0 and not raised[:6].any() and not raised[7:].any()
    assert (explain_case(case, "attention").patch_maps > 0).all()


def test_an_answer_and_its_alternative_are_told_apart_by_gradients_only(make_case):
    case = make_case(alternative="right")
    assert explain_case(case, "attention_gradients").patch_maps.any()
    assert explain_case(case, "grad_cam").patch_maps.shape == (1, 4, 4)
    with pytest.raises(InputError, match="take attention_gradients"):
        explain_case(case, "attention")


@pytest.mark.parametrize("method", ON_PATCHES)
def test_a_pooled_vector_has_no_places(method, make_model, make_case):
    case = make_case(make_model(vision_feature_select="pooled"))
    with pytest.raises(InputError, match="one pooled vector"):
        explain_case(case, method)
    assert explain_case(case, "occlusion").pixel_maps.any()


def test_the_model_s_own_answer_is_the_default(make_model, processor, images):
    model = make_model()
    model.generation_config.max_new_tokens = 3
    explanation = explain(model, processor, images[0], QUESTIONS[0], method="attention")
    assert explanation.target == f"log P(“{explanation.answer}”)"


def test_a_dicom_file(make_model, processor, tmp_path):
    pytest.importorskip("pydicom")
    from tests.processing.test_dicom import encode, make

    (tmp_path / "scan").write_bytes(encode(make(np.arange(40 * 90, dtype=np.uint16).reshape(40, 90), 12)))
    arguments = {"method": "occlusion", "answer": "yes"}
    explanation = explain(make_model(), processor, tmp_path / "scan", QUESTIONS[0], **arguments)
    assert explanation.original_maps().shape == (1, 40, 90) and explanation.original_maps().any()


def test_repeated_and_independent_of_weights_that_learn(make_case):
    case = make_case()
    frozen = replace(case, model=case.model.requires_grad_(False))
    for method in METHODS:
        first = explain_case(case, method).pixel_maps
        assert torch.equal(first, explain_case(frozen, method).pixel_maps)
        assert all(weight.grad is None for weight in case.model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "occlusoin"}, "unknown method 'occlusoin'; did you mean occlusion?"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"question": "What is <image>?"}, "special token"),
        ({"class_name": "x"}, "no classification head"),
        ({"alternative": "no", "per_token": True}, "leave out per_token"),
        ({"question": "why " * 400}, "does not fit"),
    ],
)
def test_mistakes(arguments, message, make_model, processor, images):
    arguments = {"image": images[0], "question": QUESTIONS[0], "answer": "yes", **arguments}
    with pytest.raises(InputError, match=message):
        explain(make_model(), processor, arguments.pop("image"), arguments.pop("question"), **arguments)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("per_token", [False, True])
def test_the_picture(per_token, make_case, tmp_path):
    case = replace(make_case(per_token=per_token), question="Costs it $5 or $6? 有气胸吗?")
    explanation = explain_case(case, "integrated_gradients")
    explanation.save(tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 10
    figure = explanation.overlay()
    text = figure._supxlabel.get_text().replace("\n", " ")
    assert "integrated_gradients" in text and "log P(“left”)" in text and "Not for clinical use" in text
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(explanation.labels)
    assert len(figure.axes) == 2 * len(titles)  # each with a colour bar
    with pytest.raises(InputError, match="cannot be written"):
        explanation.save(tmp_path / "nowhere" / "why.png")


def test_what_the_extra_is_for(make_case, monkeypatch):
    case = make_case()
    for name in [name for name in sys.modules if name.split(".")[0] == "captum" or name.endswith(".attribution")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    explain_case(case, "attention").overlay()
    with pytest.raises(InputError, match="occlusion needs captum.*pip install captum"):
        explain_case(case, "occlusion")
