"""The explanation report: every method's maps of some questions of a data set, measured, as scores with intervals."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from datasets import Dataset
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from flamingo_med.evaluation.intervals import clustered_bootstrap
from flamingo_med.evaluation.tables import format_score
from flamingo_med.explanation import faithfulness
from flamingo_med.explanation.case import Case, prepare
from flamingo_med.explanation.faithfulness import STEPS, TILES, generator
from flamingo_med.explanation.methods import explain_case
from flamingo_med.inference.answering import answer_questions
from flamingo_med.metrics.exact_match import exact_match
from processing.datasets.rows import uniform
from processing.errors import InputError
from processing.processing_flamingo_med import FlamingoMedProcessor

BASELINES = ("centre_prior", "random")
GRID_LIMIT = "best_of_grid"  # the finding itself, as coarse as the image encoder's grid
MEASURES = {  # name → signature; what each is, `faithfulness` says
    "pointing": "pointing|v1|ties:share|space:model pixels",
    "iou": "iou|v1|area:as the finding's|space:model pixels",
    "auprc": "auprc|v1|space:model pixels",
    "deletion": f"deletion|v1|tiles:{TILES}|steps:{STEPS}|filled:mean colour|target:P(answer)",
    "insertion": f"insertion|v1|tiles:{TILES}|steps:{STEPS}|filled:mean colour|target:P(answer)",
    "randomisation": f"randomisation|v1|all weights shuffled|spearman|tiles:{TILES}",
    "stability": f"stability|v1|noise:0.01|spearman|tiles:{TILES}",
    "repeatability": f"repeatability|v1|models of other seeds|spearman|tiles:{TILES}",
}
LOWER_IS_BETTER = ("deletion", "randomisation")
CHECKED = 50  # questions whose maps are made again, which takes most of the time; their correlations vary little
CHANGED_BELOW = 0.5  # correlation of maps before and after randomisation


@dataclass(frozen=True)
class Checks:
    """What maps are made again with.

    Attributes:
        randomised: the model with its weights shuffled.
        others: the same model trained from other seeds.
        seeds: of the noise on the pixels.
    """

    randomised: PreTrainedModel
    others: Sequence[PreTrainedModel] = ()
    seeds: Sequence[int] = (0, 1)


def choose(rows: Dataset, limit: int) -> list[tuple[dict, list[dict]]]:
    """At most `limit` questions, the same whatever the order of the rows, each with the boxes its answer depends on.

    Where any question has such boxes, only those that have. Boxes belong to the question where the data set gives two
    questions about one image different ones; otherwise to the image, and those count whose label is named.
    """
    boxes = rows["boxes"][:]
    of_image = defaultdict(set)
    for image_id, found in zip(rows["image_id"], boxes, strict=True):
        of_image[image_id].add(repr(found))
    of_question = any(len(different) > 1 for different in of_image.values())
    texts = [f"{question} {answer}".lower() for question, answer in zip(rows["question"], rows["answer"], strict=True)]
    depends = [
        [box for box in found if of_question or box["label"].lower() in text]
        for found, text in zip(boxes, texts, strict=True)
    ]
    known = [i for i, found in enumerate(depends) if found] or list(range(len(rows)))
    ids = rows["id"][:]
    known.sort(key=lambda i: (uniform("explain", ids[i]), ids[i]))
    return [(rows[i], depends[i]) for i in known[:limit]]


def measure(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    chosen: Sequence[tuple[dict, list[dict]]],
    methods: Sequence[str],
    checks: Checks,
) -> list[dict]:
    """One record for each question and method, baselines included: id, image_id, method, answer, right, findings and
    the measures that apply. The finding is looked for where the answer is right, and the model sees it.

    Raises:
        InputError: an image that cannot be read; a question about several images; a method that the model cannot be
            explained by.
    """
    rows = [row for row, _ in chosen]
    refuse_several_images(rows)
    answers = answer_questions(model, processor, rows, description="answers")
    records = []
    progress = tqdm(zip(chosen, answers, strict=True), "explanations", len(chosen), unit="question")
    for number, ((row, boxes), answer) in enumerate(progress):
        case = prepare(model, processor, row["image"], row["question"], answer=answer.text)
        right = bool(exact_match(answer.text, row["answers"]))
        inside = case.geometry.mask([box["box"] for box in boxes])
        about = {name: row[name] for name in ("id", "image_id", "question")}
        about |= {"answer": answer.text, "right": right, "findings": sorted({box["label"] for box in boxes})}
        maps = {method: explain_case(case, method).pixel_maps[0] for method in methods}
        maps["centre_prior"] = faithfulness.centre_prior(case.geometry.model)
        maps["random"] = faithfulness.random_map(case.geometry.model, generator("random", row["id"]))
        for name, pixel_map in maps.items():
            values = faithful_to_answer(case, pixel_map, row["id"])
            if right and inside.any():
                values |= faithful_to_finding(pixel_map, inside)
            if name in methods and number < CHECKED:
                values |= faithful_to_model(case, name, pixel_map, row["id"], checks)
            records.append({**about, "method": name, **values})
        if right and inside.any():
            coarse = case.grid.to_pixels(case.grid.from_pixels(inside.unsqueeze(0).float()), case.geometry.model)[0]
            records.append({**about, "method": GRID_LIMIT, **faithful_to_finding(coarse, inside)})
    return records


def refuse_several_images(rows: Sequence[dict]) -> None:
    """
    Raises:
        InputError: a question about several images.
    """
    if any(row["more_images"] for row in rows):
        raise InputError("questions about several images are not explained yet; choose data with one image a question")


def faithful_to_answer(case: Case, pixel_map: Tensor, row_id: str) -> dict[str, float]:
    """Deletion and insertion of one map (h w)."""
    deletion, insertion = faithfulness.deletion_insertion(
        lambda pixels: case.target(case.model, pixel_values=pixels)[:, 0].exp(),
        case.pixels,
        pixel_map,
        generator("tiles", row_id),
    )
    return {"deletion": deletion, "insertion": insertion}


def faithful_to_finding(pixel_map: Tensor, inside: Tensor) -> dict[str, float]:
    """Pointing game, overlap and precision of one map (h w) for the pixels of the finding (h w)."""
    return {
        "pointing": faithfulness.pointing_game(pixel_map, inside),
        "iou": faithfulness.overlap_of_areas(pixel_map, inside),
        "auprc": faithfulness.average_precision(pixel_map, inside),
    }


def faithful_to_model(case: Case, method: str, pixel_map: Tensor, row_id: str, checks: Checks) -> dict[str, float]:
    """How alike the method's maps are, to this one (h w), of a random model, of noisy pixels and of other seeds."""

    def alike(cases: Sequence[Case]) -> float:
        maps = [explain_case(case, method).pixel_maps[0] for case in cases]
        return sum(faithfulness.rank_correlation(pixel_map, one) for one in maps) / len(maps)

    draws = [generator("noise", row_id, seed) for seed in checks.seeds]
    values = {
        "randomisation": alike([replace(case, model=checks.randomised)]),
        "stability": alike([replace(case, pixels=faithfulness.add_noise(case.pixels, draw)) for draw in draws]),
    }
    if checks.others:
        values["repeatability"] = alike([replace(case, model=other) for other in checks.others])
    return values


def score(records: Sequence[dict]) -> list[dict]:
    """Tidy rows as of `evaluation.scores.score_rows`, the condition being the method; measures of the finding
    also for each kind of finding."""
    members = defaultdict(list)
    for record in records:
        for name in MEASURES.keys() & record.keys():
            subsets = ["all"]
            if name in ("pointing", "iou", "auprc"):
                subsets += [f"finding={finding}" for finding in record["findings"]]
            for subset in subsets:
                members[name, subset, record["method"]].append((record[name], record["image_id"]))
    methods = list(dict.fromkeys(record["method"] for record in records))
    order = sorted(members, key=lambda key: (list(MEASURES).index(key[0]), key[1], methods.index(key[2])))
    scores = []
    for name, subset, method in order:
        values, images = zip(*members[name, subset, method], strict=True)
        low, high = clustered_bootstrap(values, images)
        scores.append(
            {
                "metric": name,
                "subset": subset,
                "condition": method,
                "value": sum(values) / len(values),
                "low": low,
                "high": high,
                "n": len(values),
                "signature": MEASURES[name],
            }
        )
    return scores


def verdicts(scores: Sequence[Mapping], methods: Sequence[str]) -> list[str]:
    """What follows, a sentence for each method; one is better than another where their 95 % intervals do not meet."""
    cells = {(s["metric"], s["condition"]): s for s in scores if s["subset"] == "all"}
    sentences = []
    for method in methods:
        measures = defaultdict(list)
        for name in ("pointing", "iou", "auprc", "deletion", "insertion"):
            if (name, method) in cells:
                beaten = [other for other in BASELINES if _better(cells[name, method], cells[name, other])]
                measures[" and ".join(beaten) or "neither baseline"].append(name)
        parts = [f"better than {beaten} in {', '.join(names)}" for beaten, names in measures.items()]
        changed = cells["randomisation", method]["high"]
        passed = changed is not None and changed < CHANGED_BELOW
        parts.append("randomisation passed" if passed else "randomisation FAILED: not shown to depend on the weights")
        sentences.append(f"{method}: {'; '.join(parts)}")
    if ("pointing", GRID_LIMIT) in cells:
        limit = cells["pointing", GRID_LIMIT]["value"]
        sentences.append(
            f"no map in the image encoder's grid, such as attention's, can reach more than {limit:.3f} in pointing"
        )
    return sentences


def _better(first: Mapping, second: Mapping) -> bool:
    if first["low"] is None or second["low"] is None:
        return False
    if first["metric"] in LOWER_IS_BETTER:
        return first["high"] < second["low"]
    return first["low"] > second["high"]


def format_table(scores: Sequence[Mapping]) -> str:
    """Table for a terminal: a line for each method, a column for each measure, of all questions."""
    cells = {(s["condition"], s["metric"]): s for s in scores if s["subset"] == "all"}
    methods = dict.fromkeys(method for method, _ in cells)
    measures = [name for name in MEASURES if any((method, name) in cells for method in methods)]
    counts = {
        name: next(cells[method, name]["n"] for method in methods if (method, name) in cells) for name in measures
    }
    lines = [["", *(f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'} n={counts[name]}" for name in measures)]]
    lines += [[method, *(format_score(cells.get((method, name))) for name in measures)] for method in methods]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
