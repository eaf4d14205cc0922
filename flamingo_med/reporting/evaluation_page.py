"""The report of an evaluation as one HTML page that needs no other file, and its figures as PNG beside it."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.evaluation.scorers import IN_FULL
from flamingo_med.evaluation.scores import GROUPED_BY, MEASURES, confidences_of
from flamingo_med.evaluation.tables import COLUMNS, summarised
from flamingo_med.inference.backends import Answer
from flamingo_med.metrics.exact_match import exact_match
from flamingo_med.reporting.calibration_plots import reliability_diagram, risk_coverage_curve
from flamingo_med.reporting.figures import data_uri, thumbnail
from flamingo_med.reporting.score_plot import score_plot
from processing.datasets import images_of
from processing.files import write_whole

TEMPLATE = Path(__file__).with_name("evaluation_page.html.jinja")
MAIN = "exact_match"
CONDITIONS = {
    "model": "Model",
    "blank_image": "Model, images blanked",
    "shuffled_image": "Model, images of other questions",
    "majority": "Most frequent answer",
    "question_only": "Question without image",
    "image_lookup": "Nearest known question",
}
SUBSETS = {"yes_no": "answer yes or no", "not_yes_no": "other answer"}
MEASURE_NAMES = {"ece": "Calibration error", "aurc": "Area under risk–coverage curve", "brier": "Brier score"}
WHAT_CONDITIONS_ARE = {
    "blank_image": "the same model, every image one uniform grey",
    "shuffled_image": "the same model, each question asked about another image of the split",
    "majority": "train's most frequent answer to questions of the same type",
    "question_only": "a classifier of the question's words (TF-IDF, logistic regression)",
    "image_lookup": "train's answer to the most similar question about the same image",
}
EXAMPLES_OF_A_KIND = 4
LARGEST_SIDE = 448


def write_page(
    folder: Path,
    meta: dict,
    scores: list[dict],
    rows: Dataset,
    answers: Sequence[Answer],
    calibration: Calibration | None = None,
) -> None:
    """Write index.html and the plots.

    Args:
        folder: for all of them.
        meta, scores: what metrics.json holds.
        rows: the split.
        answers: of the model with the images, one a row.
        calibration: the model's temperatures, where it has some.
    """
    plots = draw(scores, rows, answers, calibration)
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in plots.items():
        (folder / f"{name}.png").write_bytes(png)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "breakable": breakable}
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta,
        tables=tables(scores),
        others=other_table(scores),
        groups=group_tables(scores),
        measures=measure_table(scores),
        plots={name: data_uri(png, "png") for name, png in plots.items()},
        examples=[(title, [example(rows[i], answers[i]) for i in chosen]) for title, chosen in choose(rows, answers)],
        explained={name: text for name, text in WHAT_CONDITIONS_ARE.items() if any_of(scores, name)},
        labels=CONDITIONS,
    )
    write_whole(folder / "index.html", html)


def draw(
    scores: list[dict], rows: Dataset, answers: Sequence[Answer], calibration: Calibration | None
) -> dict[str, bytes]:
    """Name of a plot → PNG."""
    small = rows.select_columns(["answers", "image_id"])
    known = [(row, answer) for row, answer in zip(small, answers, strict=True) if row["answers"]]
    hits = [exact_match(answer.text, row["answers"]) for row, answer in known]
    images = [row["image_id"] for row, _ in known]
    confidences = {
        name.replace("token_mean,", "at ").replace("token_mean", "as generated"): values
        for name, values in confidences_of(known, calibration).items()
        if name != "candidates"
    }
    return {
        "scores": score_plot([s for s in scores if s["metric"] == MAIN and s["subset"] == "all"], CONDITIONS),
        "reliability": reliability_diagram(confidences, hits, images),
        "risk_coverage": risk_coverage_curve({"most confident first": confidences["as generated"]}, hits, images),
    }


def any_of(scores: list[dict], condition: str) -> bool:
    """Whether there are scores under a condition."""
    return any(score["condition"] == condition for score in scores)


def tables(scores: list[dict]) -> list[dict]:
    """For each metric shown in full: title, signature, subsets with their n, and rows of cells."""
    found = []
    for metric, title in IN_FULL.items():
        own = [s for s in scores if s["metric"] == metric]
        cells = {(s["condition"], s["subset"]): s for s in own}
        counts = {s["subset"]: s["n"] for s in own}
        columns = [name for name in COLUMNS if name in counts]
        rows = [
            (name, CONDITIONS[name], [cells.get((name, subset)) for subset in columns])
            for name in dict.fromkeys(s["condition"] for s in own)
        ]
        if own:
            subsets = [(SUBSETS.get(name, name), counts[name]) for name in columns]
            found.append({"title": title, "signature": own[0]["signature"], "subsets": subsets, "rows": rows})
    return found


def other_table(scores: list[dict]) -> dict:
    """The summary of the other metrics but those of confidence: conditions, and rows of name, signature and cells."""
    lines = [line for line in summarised(scores) if line.metric not in MEASURES]
    conditions = list(dict.fromkeys(condition for line in lines for condition in line.cells))
    rows = [
        (
            line.metric.replace("_", " ")
            + ("" if line.subset == "all" else f", {SUBSETS.get(line.subset, line.subset)}"),
            line.signature,
            [line.cells.get(condition) for condition in conditions],
        )
        for line in lines
    ]
    of_original = any(line.metric.startswith("original_") for line in lines)
    return {"conditions": conditions, "rows": rows, "of_original": of_original}


def measure_table(scores: list[dict]) -> dict:
    """Measures of confidence: subsets with their n, and rows of title, signature and cells."""
    own = [s for s in scores if s["metric"] in MEASURES]
    counts = {s["subset"]: s["n"] for s in own}
    cells = {(s["signature"], s["subset"]): s for s in own}
    subsets = [name for name in COLUMNS if name in counts]
    rows = [
        (MEASURE_NAMES[metric], signature, [cells.get((signature, subset)) for subset in subsets])
        for signature, metric in {s["signature"]: s["metric"] for s in own}.items()
    ]
    return {"subsets": [(name, counts[name]) for name in subsets], "rows": rows}


def group_tables(scores: list[dict]) -> list[dict]:
    """The metrics shown in full by question type and by organ: title, and tables of title, signature, conditions and
    rows of cells."""
    found = []
    for column in GROUPED_BY:
        tables = []
        for metric, title in IN_FULL.items():
            own = [s for s in scores if s["metric"] == metric and s["subset"].startswith(f"{column}=")]
            conditions = list(dict.fromkeys(s["condition"] for s in own))
            cells = {(s["subset"], s["condition"]): s for s in own}
            rows = [
                (subset.partition("=")[2], [cells[subset, condition] for condition in conditions])
                for subset in dict.fromkeys(s["subset"] for s in own)
            ]
            if own:
                tables.append(
                    {"title": title, "signature": own[0]["signature"], "conditions": conditions, "rows": rows}
                )
        if tables:
            found.append({"title": column.replace("_", " "), "tables": tables})
    return found


def choose(rows: Dataset, answers: Sequence[Answer]) -> list[tuple[str, list[int]]]:
    """Numbers of the rows shown as examples: each about an image of its own, as far as there are enough."""
    image_ids = rows["image_id"][:]
    scored = [i for i, references in enumerate(rows["answers"]) if references]
    hits = {i: exact_match(answers[i].text, references) for i, references in enumerate(rows["answers"]) if references}
    rising = sorted(scored, key=lambda i: (answers[i].confidence, i))
    right, wrong = ([i for i in rising if hits[i] == value] for value in (1.0, 0.0))
    used: set[int] = set()

    def take(candidates: list[int]) -> list[int]:
        left = [i for i in candidates if i not in used]
        first = {image_ids[i]: i for i in reversed(left)}
        chosen = sorted(left, key=lambda i: first[image_ids[i]] != i)[:EXAMPLES_OF_A_KIND]
        used.update(chosen)
        return chosen

    kinds = {
        "Most confident mistakes": take(wrong[::-1]),
        "Best: right and most confident": take(right[::-1]),
        "Worst: wrong and least confident": take(wrong),
    }
    return [(title, chosen) for title, chosen in kinds.items() if chosen]


def example(row: dict, answer: Answer) -> dict:
    """What is shown of a row."""
    return {
        "image": thumbnail(images_of(row)[0], LARGEST_SIDE),
        "image_id": row["image_id"],
        "question": row["question"] or "(report)",
        "answers": row["answers"],
        "prediction": answer.text,
        "confidence": answer.confidence,
        "right": exact_match(answer.text, row["answers"]) == 1.0,
    }


def breakable(signature: str) -> Markup:
    """A signature whose lines may end behind its bars."""
    return Markup("|<wbr>").join(signature.split("|"))


def percent(value: float) -> str:
    """0.8724 → 87.2"""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference in percent points: 0.407 → +40.7"""
    return f"{100 * value:+.1f}".replace("-", "−")
