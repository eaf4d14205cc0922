"""Several models side by side: the same questions, each model's answer, confidence and map, as one picture or page."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.figure import Figure
from tqdm import tqdm

from flamingo_med.evaluation.calibration import load_calibration
from flamingo_med.explanation.case import prepare
from flamingo_med.explanation.explanation import Explanation, literal, paint
from flamingo_med.explanation.measurement import refuse_several_images
from flamingo_med.explanation.methods import explain_case
from flamingo_med.explanation.templates import SIDE, map_figure, render
from flamingo_med.inference.answering import answer_questions, load_model
from flamingo_med.metrics.exact_match import exact_match
from flamingo_med.reporting.figures import thumbnail
from processing.images import read_image


@dataclass(frozen=True)
class Cell:
    """What one model says to one question, and why.

    Attributes:
        answer: what it says.
        confidence: geometric mean of the token probabilities, calibrated where the model has a calibration.
        right: whether it is one of the references; None where the data have none.
        explanation: map of the answer.
    """

    answer: str
    confidence: float
    right: bool | None
    explanation: Explanation


def compare(
    models: Sequence[str], rows: Sequence[dict], method: str, trust_remote_code: bool = False
) -> list[list[Cell]]:
    """A cell of each question and model, [question][model].

    Args:
        models: folders or Hub ids; one after the other is loaded.
        rows: of `processing.datasets.FEATURES`, about one image each.
        method: one of `METHODS`.
        trust_remote_code: as of `load_model`.

    Raises:
        InputError: no such model; a question about several images; a method that a model cannot be explained by.
    """
    refuse_several_images(rows)
    columns = []
    for name in models:
        model, processor = load_model(name, trust_remote_code=trust_remote_code)
        calibration = load_calibration(name)
        answers = answer_questions(model, processor, rows)
        column = []
        for row, answer in zip(tqdm(rows, name, unit="question"), answers, strict=True):
            case = prepare(model, processor, row["image"], row["question"], answer=answer.text)
            right = bool(exact_match(answer.text, row["answers"])) if row["answers"] else None
            confidence = calibration.confidence(answer.confidence) if calibration else answer.confidence
            column.append(Cell(answer.text, confidence, right, explain_case(case, method)))
        columns.append(column)
    return [list(cells) for cells in zip(*columns, strict=True)]


def draw(models: Sequence[str], rows: Sequence[dict], cells: Sequence[Sequence[Cell]], title: str) -> Figure:
    """A line for each question: the image with the boxes that are known, and each model's map."""
    figure = Figure(figsize=(3.4 * (1 + len(models)), 3.5 * len(rows) + 0.8), layout="constrained")
    panels = figure.subplots(len(rows), 1 + len(models), squeeze=False)
    for (first, *others), row, line in zip(panels, rows, cells, strict=True):
        image = read_image(row["image"])
        first.imshow(image)
        for box in row["boxes"]:
            x0, y0, x1, y1 = box["box"]
            first.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="gold", linewidth=1.2)
        first.set_title(literal(fill(f"{row['question']} {row['answer']}", 40)), fontsize=9)
        for axes, name, cell in zip(others, models, line, strict=True):
            figure.colorbar(paint(axes, image, cell.explanation.original_maps()[0]), ax=axes, shrink=0.7)
            axes.set_title(literal(f"{fill(name, 40)}\n{fill(says(cell), 40)}"), fontsize=9)
        for axes in (first, *others):
            axes.set_axis_off()
    figure.suptitle(literal(f"{title}. Not for clinical use."), fontsize=10)
    return figure


def page(
    models: Sequence[str], rows: Sequence[dict], cells: Sequence[Sequence[Cell]], title: str, command: str
) -> str:
    """The same as one HTML page."""
    lines = [
        {
            "question": row["question"] or "(report)",
            "answer": row["answer"],
            "image": thumbnail(row["image"], SIDE),
            "boxes": percent_boxes(row),
            "cells": [{"says": says(cell), "map": map_figure(cell.explanation)} for cell in line],
        }
        for row, line in zip(rows, cells, strict=True)
    ]
    methods = dict.fromkeys(f"{one.explanation.method}, {one.explanation.details}" for line in cells for one in line)
    return render(
        "map_comparison.html.jinja",
        title=title,
        models=models,
        lines=lines,
        method="; ".join(methods),
        command=command,
    )


def percent_boxes(row: dict) -> list[dict]:
    """Where a row's boxes lie in its image, in percent of its sides."""
    width, height = read_image(row["image"]).size
    boxes = []
    for box in row["boxes"]:
        x0, y0, x1, y1 = box["box"]
        place = {"left": x0 / width, "top": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
        boxes.append({"label": box["label"], **{name: f"{100 * value:.2f}" for name, value in place.items()}})
    return boxes


def says(cell: Cell) -> str:
    """Answer, confidence, and whether it is right, in words and not by colour alone."""
    verdict = "" if cell.right is None else ", right" if cell.right else ", wrong"
    return f"{cell.answer} ({cell.confidence:.2f}{verdict})"
