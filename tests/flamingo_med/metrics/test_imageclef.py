"""ImageCLEF's accuracy and BLEU, worked out by hand rule by rule."""

import math

import pytest

from flamingo_med.metrics.imageclef import ImageClef, bleu, normalize, score, signature, words


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("X-ray", "x ray"),  # no blank beside the mark anywhere: a blank takes its place
        ("x-ray - chest", "xray chest"),  # a blank beside one: all of that mark go
        ("mass, left", "mass left"),
        ("mass,left", "mass left"),
        ("1,000 ml-bag", "1000 mlbag"),  # a comma between digits: every mark goes
        ("t2/flair (axial)", "t2 flair axial"),
        ("mr (t1)", "mr t1"),
        ("2.5 cm.", "2.5 cm"),
        ("e.g. 3.", "eg 3"),
        (".5", ".5"),
        ("." * 33, "."),  # a flag in the place of a count: 32 periods go
        ("#1: fracture's", "#1: fracture's"),  # neither of these marks is in the list
        ("The heart of a man, an X", "heart of man x"),
        ("A", ""),
        ("none", "0"),
        ("None zero ten eleven", "0 0 10 eleven"),
        ("two-view", "2 view"),
        ("dont couldntve couldnt've", "don't couldntve couldn't've"),
        ("somebody'd", "somebodyd"),  # the table has it the wrong way round
        ("oclock twas yall", "o'clock 'twas y'all"),
        ("\tleft\nlung ", "left lung"),
        ("left  lung", "left lung"),
        ("Ödem µm “a” naïve", "ödem µm “a” naïve"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("text", "stems"),
    [
        ("The left lungs are enlarged.", ["left", "lung", "enlarg"]),
        ("x-ray (AP)", ["xray", "ap"]),
        ("no", []),  # a stop word
        ("cannot be gonna", ["gon", "na"]),
        ("wanna", ["wan", "na"]),
        ("don't", ["dont"]),  # the stop word "don't" can never occur, nor can its pieces
        ("Hodgkin’s", ["hodgkin"]),  # NLTK 3.2.2 splits at no typographic quote; the stemmer knows it
        ("“big”", ["“big”"]),
        ("1,000 mg", ["1000", "mg"]),
        ("Ödeme", ["ödeme"]),
        ("?", []),
    ],
)
def test_words(text, stems):
    assert words(text) == stems


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("a", "a", 1.0),  # later NLTKs give 0 here
        ("a b c", "a b c", 1.0),
        ("a b c d e", "a b c d e", 1.0),
        ("", "", 1.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("a", "b", 0.0),
        ("a b", "a c", 0.5**0.25),  # 1 of 2 words, no pair: (1/2) ** 1/4
        ("a b", "a b c d", math.exp(1 - 4 / 2)),  # too short by half
        ("a a a", "a b", (1 / 3) ** 0.25),  # repetition is clipped
        ("a b c", "a b d", (2 / 3) ** 0.25 * (1 / 2) ** 0.25),
        ("a b c d", "a b c d e f", math.exp(1 - 6 / 4)),
        ("a x b", "a y b", (2 / 3) ** 0.25),
    ],
)
def test_bleu(prediction, reference, value):
    assert bleu(prediction.split(), reference.split()) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("prediction", "references", "accuracy", "value"),
    [
        ("X-Ray", "x ray", 1.0, 0.0),  # one word to BLEU, two words the reference
        ("anaplastic oligodendroglioma", "anaplastic oligodendroglioma#multi-cystic complex mass", 1.0, 1.0),
        ("effusion", ["mass|nodule", "an effusion"], 1.0, 1.0),
        ("no", "yes", 0.0, 0.0),
        ("no", "not the same", 0.0, 1.0),  # nothing but stop words on both sides
        ("none", "0", 1.0, 0.0),
        ("septic cerebral emboli", "(aspergillosis with) septic cerebral emboli", 0.0, math.exp(1 - 4 / 3)),
        ("mass", [], 0.0, 0.0),
    ],
)
def test_score(prediction, references, accuracy, value):
    found = score(prediction, references)
    assert found == {"imageclef_accuracy": accuracy, "imageclef_bleu": pytest.approx(value)}


def test_metric_is_the_mean_to_four_decimals(tmp_path):
    metric = ImageClef(cache_dir=str(tmp_path))
    found = metric.compute(predictions=["mass", "left", "x"], references=["mass", "right", "y"])
    assert found == {"accuracy": 0.3333, "bleu": 0.3333}
    assert signature("imageclef_bleu") == "imageclef_bleu|v1|ngram:4|backoff:3.2.2|stop:nltk-en|stem:snowball"


def test_perfect_answers_score_one(shared_data):
    folder = shared_data / "vqa_med_2019" / "ImageClef-2019-VQA-Med-Validation"
    lines = (folder / "All_QA_Pairs_val.txt").read_text("utf-8").splitlines()
    answers = [line.split("|")[2] for line in lines]
    assert len(answers) == 2000
    for answer in answers:
        assert score(answer, answer) == {"imageclef_accuracy": 1.0, "imageclef_bleu": 1.0}
