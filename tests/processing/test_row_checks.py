"""Rows that cannot be read are all found before any work: texts with the very sentence of the collator, and images."""

import pytest
from PIL import Image

from processing.collator import FlamingoMedCollator
from processing.errors import InputError
from processing.images import damage
from processing.row_checks import LISTED, bad_images, bad_texts, refuse


def test_texts(processor):
    questions = ["Is it?"] * 600
    answers = ["no"] * 600
    questions[3], questions[300], answers[599] = "What is <EOC>?", "why " * 3000, "the <image>"
    bad = bad_texts(processor, questions, answers)
    assert bad.keys() == {3, 300, 599}
    assert bad[3] == "the question holds the special token '<EOC>'; remove it"
    assert "does not fit the decoder's" in bad[300] and bad[599].startswith("the answer holds")
    assert bad_texts(processor, questions).keys() == {3, 300}  # answers are not read where they are generated
    assert bad_texts(processor, [], []) == {}


def test_room_for_the_answer(processor):
    (length,) = processor.tokenize([processor.render("Is it?")])["attention_mask"].sum(1).tolist()
    assert bad_texts(processor, ["Is it?"], context=length + 16, new_tokens=16) == {}
    bad = bad_texts(processor, ["Is it?"], context=length + 15, new_tokens=16)
    assert bad[0].startswith(f"a question of {length} tokens and an answer of up to 16 does not fit the decoder's")
    assert bad_texts(processor, ["Is it?"], ["no"], context=length + 1)[0].startswith("a text of")


def test_images(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:20])
    good, cut, gone = ({"path": str(tmp_path / f"{name}.png"), "bytes": None} for name in ("good", "cut", "gone"))
    inside = {"path": None, "bytes": (tmp_path / "cut.png").read_bytes()}
    rows = [{"image": good, "more_images": []}, {"image": good, "more_images": [good, cut]}]
    rows += [{"image": gone, "more_images": []}, {"image": inside, "more_images": []}]
    bad = bad_images(rows * 100)
    assert len(bad) == 300 and bad.keys() & range(4) == {1, 2, 3}
    assert "cut.png is" in bad[1] and "does not exist" in bad[2] and "the given bytes" in bad[3]
    Image.new("L", (9, 9)).save(tmp_path / "cut.png")
    assert damage(cut) is None


def test_the_first_are_listed_and_all_are_counted():
    refuse([], 9, "train")
    with pytest.raises(InputError) as error:
        refuse([(f"train-{i}", "it is bad") for i in range(LISTED + 5)], 99, "the train split")
    first, *lines = str(error.value).splitlines()
    assert first == f"{LISTED + 5} of 99 rows of the train split cannot be read by the model; correct or remove them:"
    assert lines[0] == "  row train-0: it is bad" and lines[-1] == "  and 5 more" and len(lines) == LISTED + 1


def test_a_batch_of_a_stream_names_its_rows(processor):
    image = {"path": None, "bytes": None}
    rows = [
        {"id": f"train-{i}", "image": image, "image_id": "a", "question": text, "answer": "no"}
        for i, text in enumerate(["Is it?", "Is it <EOC>?"])
    ]
    collate = FlamingoMedCollator(processor, answers=True)
    collate.pixels = lambda rows: {}
    with pytest.raises(InputError, match="1 of 2 rows of a batch .*\n  row train-1: the question holds the special"):
        collate(rows)
