"""How programs of others ask any chat model with images: their calls, in their order, on a checkpoint of ours."""

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, AutoTokenizer, pipeline

from tests.conftest import QUESTIONS
from tests.processing.test_ways_in import KINDS


@pytest.fixture
def checkpoint(make_model, processor, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def messages(image, question, system=None) -> list[dict]:
    said = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    shown = [] if image is None else [{"type": "image", "image": image}]
    return [*said, {"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


@pytest.mark.parametrize("system", [None, "You are a radiologist."])
def test_lmms_eval(checkpoint, processor, images, system):
    """The model `huggingface` among the chat models of lmms-eval 0.7.3: prompts first, then all images in one list,
    and lists of videos and sounds that are empty."""
    model = AutoModel.from_pretrained(checkpoint, torch_dtype="bfloat16").eval()
    theirs, tokenizer = AutoProcessor.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    shown = [images[0], None, images[2]]
    chats = [messages(image, question, system) for image, question in zip(shown, QUESTIONS, strict=True)]
    texts = [theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    media = {"images": [images[0], images[2]], "videos": [], "audios": []}
    inputs = theirs(text=texts, padding=True, return_tensors="pt", **media).to(model.device)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "num_beams": 1, "use_cache": True}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    generated = model.generate(**inputs, **tokens, **greedy, max_new_tokens=4)
    new = [row[len(prompt) :] for prompt, row in zip(inputs.input_ids, generated, strict=True)]
    answers = theirs.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert len(answers) == 3 and inputs["pixel_values"].shape[:2] == (3, 1)
    if system is None:  # the prompts are those that the model has learned
        for i in (0, 2):
            learned = processor(images=shown[i], text=QUESTIONS[i])
            asked = inputs["attention_mask"][i].bool()
            assert torch.equal(inputs["input_ids"][i][asked], learned["input_ids"][0])
            assert torch.equal(inputs["pixel_values"][i], learned["pixel_values"][0])
    only_text = theirs(text=texts[1:2], padding=True, return_tensors="pt", images=[], videos=[], audios=[])
    assert set(only_text) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("kind", ["16 bit", "12-bit TIFF", "float TIFF", "RGBA", "turned and 16 bit"])
def test_the_pipeline_reads_images_of_messages_as_we_do(checkpoint, processor, tmp_path, monkeypatch, kind):
    """What it is given beside messages, as `images=`, it turns to 8 bits itself, before any processor sees it."""
    path = tmp_path / "scan.img"
    path.write_bytes(KINDS[kind]())
    ask = pipeline("image-text-to-text", model=checkpoint)
    read, shown = ask.processor.pixels, []
    monkeypatch.setattr(
        ask.processor, "pixels", lambda *rows, **kwargs: shown.append(read(*rows, **kwargs)) or shown[-1]
    )
    for image in (str(path), Image.open(path)):
        [answer] = ask(text=messages(image, QUESTIONS[0]), max_new_tokens=2, return_full_text=False)
        assert isinstance(answer["generated_text"], str)
    expected = processor(images=path, text=QUESTIONS[0])["pixel_values"]
    assert [torch.equal(pixels["pixel_values"], expected) for pixels in shown] == [True, True]
