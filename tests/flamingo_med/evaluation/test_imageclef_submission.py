"""Submission files of ImageCLEF, line by line, and what the evaluators would refuse."""

import pytest

from flamingo_med.evaluation.imageclef_submission import write_submission
from processing.errors import InputError

IMAGES = ["synpic1", "synpic2", "synpic3"]


def test_a_submission_is_a_line_for_each_image(tmp_path):
    path = tmp_path / "run.txt"
    write_submission(path, IMAGES, ["yes", " left\n lung ", "Ödem, 5 µm"])
    assert path.read_bytes() == "synpic1|yes\nsynpic2|left lung\nsynpic3|Ödem, 5 µm\n".encode()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["yes", " ", "no"], "line 2 of .*run.txt, image synpic2, has no answer"),
        (["yes", "no", "a|b"], "line 3 of .*run.txt, image synpic3, would have a '|'"),
    ],
)
def test_submission_that_the_evaluators_refuse_is_not_written(tmp_path, answers, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        write_submission(tmp_path / "run.txt", IMAGES, answers)
    assert not list(tmp_path.iterdir())


def test_submission_has_each_image_once(tmp_path):
    with pytest.raises(InputError, match="line 2 of .*, image synpic1, answers that image again"):
        write_submission(tmp_path / "run.txt", ["synpic1", "synpic1"], ["a", "b"])
    with pytest.raises(ValueError, match="shorter"):
        write_submission(tmp_path / "run.txt", IMAGES, ["a"])
