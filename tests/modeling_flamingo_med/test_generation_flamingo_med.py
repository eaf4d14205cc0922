"""Generation and scored candidates: many ways, one answer, and no work done twice."""

import pytest
import torch

from tests.conftest import QUESTIONS

GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture
def inputs(processor, images):
    return processor(images=images, text=QUESTIONS)


def count_calls(module):
    """How often a module is called, in a list of one number."""
    calls = [0]

    def count(*_):
        calls[0] += 1

    module.register_forward_hook(count)
    return calls


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 4},
        {"cache_implementation": "static", "do_sample": False},
    ],
    ids=["greedy", "beams", "samples", "static cache"],
)
def test_images_are_encoded_once_and_keys_and_values_too(make_model, inputs, options):
    model = make_model()
    encoded, keyed = count_calls(model.vision_encoder), count_calls(model.cross_attn[0].attn.to_kv)
    asked = count_calls(model.cross_attn[0].attn.to_q)
    tokens = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, **options)
    assert len(tokens) == 3 * options.get("num_return_sequences", 1)
    assert (encoded[0], keyed[0], asked[0]) == (1, 1, 6)


@pytest.mark.parametrize("text", ["gpt2", "llama"])
def test_ways_to_generate_that_agree(make_model, inputs, images, processor, text):
    model = make_model(text=text)
    greedy = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY, cache_implementation="static"), greedy)
    assert torch.equal(model.generate(**inputs, **GREEDY, num_beams=1), greedy)
    first = {key: value[:1] for key, value in inputs.items()}  # assisted generation takes one row
    alone = model.generate(**first, **GREEDY)
    assert torch.equal(model.generate(**first, **GREEDY, prompt_lookup_num_tokens=2), alone)
    with pytest.raises(ValueError, match="use prompt_lookup_num_tokens instead"):
        model.generate(**first, **GREEDY, assistant_model=make_model(text=text))
    chunks = model.generate(**inputs, **GREEDY, prefill_chunk_size=4)
    assert torch.equal(chunks, greedy)

    several = model.generate(**inputs, max_new_tokens=8, num_beams=4, num_return_sequences=2, do_sample=False)
    best = model.generate(**inputs, max_new_tokens=8, num_beams=4, do_sample=False)
    assert torch.equal(several[::2][:, : best.shape[1]], best)


def test_samples_see_their_own_image(make_model, inputs):
    """Rows that generation repeats for beams and samples keep their images."""
    model = make_model()
    torch.manual_seed(0)
    options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 1}
    outputs = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    with torch.no_grad():
        expected = model(**inputs).logits[:, -1].repeat_interleave(2, 0)
    torch.testing.assert_close(outputs.logits[0], expected)


def test_scores_are_those_of_the_forward_pass(make_model, inputs):
    model = make_model()
    outputs = model.generate(**inputs, **GREEDY, output_scores=True, return_dict_in_generate=True)
    with torch.no_grad():
        prompt = inputs["input_ids"].shape[1]
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, len(outputs.scores)), value=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        whole = model(outputs.sequences, mask, positions, pixel_values=inputs["pixel_values"]).logits
    before_the_end = (outputs.sequences == model.config.eos_token_id).cumsum(-1)[:, prompt - 1 : -1] == 0
    scores = torch.stack(outputs.scores, 1)
    torch.testing.assert_close(scores[before_the_end], whole[:, prompt - 1 : -1][before_the_end], atol=1e-4, rtol=1e-4)


def test_images_must_be_there(make_model, processor, inputs):
    without = {name: value for name, value in inputs.items() if name != "pixel_values"}
    for call in (lambda: make_model()(**without), lambda: make_model().generate(**without)):
        with pytest.raises(ValueError, match="1 <image> tokens in a row, but 0 images"):
            call()
    prompts = processor.tokenize(["<image><image> Question: which is newer? <EOQ> Answer:"] * 3)
    with pytest.raises(ValueError, match="2 <image> tokens in a row, but 1 images"):
        make_model().generate(**prompts, pixel_values=inputs["pixel_values"], max_new_tokens=2)


def test_generation_stops_at_the_end_mark(make_model, inputs):
    model = make_model()
    with torch.no_grad():
        # Whatever was before: the end mark is by far the likeliest token.
        model.get_output_embeddings().weight[model.config.eos_token_id] = 50 * model.get_output_embeddings().weight[0]
    tokens = model.generate(**inputs, max_new_tokens=50, do_sample=False)
    written = tokens[:, inputs["input_ids"].shape[1] :]
    ends = (written == model.config.eos_token_id).any(1)
    assert ends.any()
    for row in written[ends].tolist():
        after = row[row.index(model.config.eos_token_id) + 1 :]
        assert set(after) <= {model.config.pad_token_id}


@pytest.mark.parametrize("text", ["gpt2", "llama"])
def test_candidates_are_scored_as_one_by_one(make_model, processor, images, inputs, text):
    model = make_model(text=text)
    candidates = ["yes", "no", "left lower lobe"]
    encoded = count_calls(model.vision_encoder)
    scores = model.score_answers(processor.tokenize_answers(candidates), **inputs)
    assert scores.shape == (3, 3)
    assert encoded == [1]
    for row, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
        for column, answer in enumerate(candidates):
            batch = processor(images=image, text=question, answers=answer)
            with torch.no_grad():
                expected = -model(**batch).loss * (batch["labels"] != -100).sum()
            torch.testing.assert_close(scores[row, column], expected, atol=1e-4, rtol=1e-4)

    own = [["yes", "no"], ["large", "small"], ["left", "right side"]]
    of_each = model.score_answers(processor.tokenize_answers(own), **inputs)
    torch.testing.assert_close(of_each[0], scores[0, :2])
    with pytest.raises(ValueError, match=r"candidates must be \(s t\) or \(3 s t\), got \(2, 2, "):
        model.score_answers(processor.tokenize_answers(own[:2]), **inputs)


def test_candidates_that_do_not_fit(make_model, processor, images, inputs):
    model = make_model()
    ragged = processor.tokenize_answers([["yes", "no", "left"], ["a", "b"], ["c"]])
    scores = model.score_answers(ragged, **inputs)
    assert (scores == -torch.inf).tolist() == [[False] * 3, [False, False, True], [False, True, True]]
    right = processor(images=images, text=QUESTIONS, answers=["a", "b", "c"])
    right.pop("labels")
    with pytest.raises(ValueError, match="prompts must be padded on the left"):
        model.score_answers(processor.tokenize_answers(["yes"]), **right)


def test_a_generated_image_token_is_no_image(make_model, processor, images):
    model = make_model(text="llama", cross_attn_latest_only=False)
    model.get_output_embeddings().weight.data[model.config.image_token_id] = 0
    rows = processor(images=[[images[0]], [images[1], images[2]]], text=QUESTIONS[:2])
    options = {"max_new_tokens": 6, "do_sample": False, "sequence_bias": [[[model.config.image_token_id], 1e4]]}
    outputs = model.generate(**rows, **options, output_logits=True, return_dict_in_generate=True)
    assert (outputs.sequences[:, -5:] == model.config.image_token_id).all()
    filler = {**rows, "pixel_values": rows["pixel_values"].clone()}
    filler["pixel_values"][0, 1] = 9.0
    others = model.generate(**filler, **options, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(others.logits, outputs.logits)


def test_a_step_of_ones_own(make_model, inputs):
    model = make_model()
    with torch.no_grad():
        start = model(**inputs, use_cache=True)
        token = start.logits[:, -1:].argmax(-1)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        given = {
            "past_key_values": start.past_key_values,
            "image_key_values": start.image_key_values,
            "attention_mask": mask,
        }
        with pytest.raises(ValueError, match="with a filled cache, latest_image must say"):
            model(token, **given)
        step = model(token, **given, latest_image=torch.ones_like(token)).logits[:, -1]
        whole = torch.cat([inputs["input_ids"], token], dim=1)
        expected = model(whole, attention_mask=mask, pixel_values=inputs["pixel_values"]).logits[:, -1]
    torch.testing.assert_close(step, expected, atol=1e-4, rtol=1e-4)


def test_attentions_and_tuples(make_model, inputs):
    model = make_model()
    model.set_attn_implementation("eager")
    outputs = model.generate(**inputs, **GREEDY, output_attentions=True, return_dict_in_generate=True)
    assert len(outputs.attentions[0]) == 3
    with torch.no_grad():
        assert torch.equal(model(**inputs, return_dict=False)[0], model(**inputs).logits)


def test_few_shot_examples_come_before_each_question(make_model, processor, images):
    examples = [(images[0], "Is there an effusion?", "no"), (images[1], "Which side?", "left")]
    inputs = processor(images=images[1:], text=QUESTIONS[1:], examples=examples)
    assert inputs["pixel_values"].shape[:2] == (2, 3)
    prompt = processor.tokenizer.decode(inputs["input_ids"][0])
    assert prompt.count("<image>") == 3
    assert prompt.endswith(f"{QUESTIONS[1]}<EOQ> Answer:") or prompt.endswith(f"{QUESTIONS[1]} <EOQ> Answer:")
    model = make_model(cross_attn_latest_only=False)
    other = processor(images=images[1:], text=QUESTIONS[1:], examples=[(images[2], *examples[0][1:]), examples[1]])
    with torch.no_grad():
        assert not torch.equal(model(**inputs).logits[:, -1], model(**other).logits[:, -1])
    assert len(model.generate(**inputs, **GREEDY)) == 2
    with pytest.raises(ValueError, match="a text with <image> is a whole prompt"):
        processor(images=images[0], text="<image> a", examples=examples)
    with pytest.raises(ValueError, match="answer holds the special token '<EOC>'"):
        processor(images=images[1:], text=QUESTIONS[1:], examples=[(images[0], "a", "b <EOC>")])
