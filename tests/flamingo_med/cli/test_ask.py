"""flamingo-med ask: one question about one image."""

import pytest

from flamingo_med.evaluation.calibration import Calibration, save_calibration


def test_the_answer_stands_beside_its_confidence(run_folder, command):
    question = ["--image", "docs/phantom.png", "--question", "Is there a lung nodule?"]
    output = command("ask", "--model", run_folder, *question)
    assert "answer" in output and "confidence" in output and "Not for clinical use" in output


@pytest.mark.parametrize(
    ("image", "question", "message"),
    [
        ("none.png", "Is there a nodule?", "none.png"),
        ("README.md", "Is there a nodule?", "README.md"),
        ("docs/phantom.png", "What is <image>?", "special token '<image>'"),
        ("docs/phantom.png", "why " * 2000, "does not fit"),
        ("docs/phantom.png", "", "the question is empty"),
    ],
)
def test_bad_questions(run_folder, image, question, message, command):
    arguments = ["--model", run_folder, "--image", image, f"--question={question}"]
    assert message in command("ask", *arguments, code=2)


def test_a_question_in_another_alphabet(run_folder, command):
    question = "Чи є пневмоторакс? 有气胸吗?"
    arguments = ["--model", run_folder, "--image", "docs/phantom.png", "--question", question]
    assert question in command("ask", *arguments)


def test_a_model_that_is_not_there_is_one_sentence(command):
    arguments = ["--model", "nowhere", "--image", "x.png", "--question", "?"]
    (error,) = command("ask", *arguments, code=2).splitlines()
    assert error.startswith("error: no image-text-to-text model at nowhere")


def test_it_abstains_below_the_threshold_of_a_calibration(run_folder, command, tmp_path):
    for path in run_folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)
    threshold = {"confidence": 0.999, "coverage": 0.5, "risk": 0.0, "bound": 0.1}
    save_calibration(tmp_path, Calibration(1.0, guarantees={"target_risk": 0.1, "threshold": threshold}))
    question = ["--image", "docs/phantom.png", "--question", "Is there a lung nodule?"]
    output = command("ask", "--model", tmp_path, *question)
    assert "abstain     below a confidence of 1.00 more than 10% of the answers may be wrong" in output
    assert "calibrated on validation" in output
