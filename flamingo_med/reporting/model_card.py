"""Model cards: README.md of a run, from what the run and its evaluations have written.

Read are config.json, run.json, summary.json and eval/*/metrics.json: no weights, rows, predictions or images. A card
has no number of its own, and no path of the machine. Training and evaluation write it by themselves.
"""

import logging
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from flamingo_med.evaluation.tables import COLUMNS, format_score, named, overall
from flamingo_med.reporting.evaluation_page import CONDITIONS, MAIN
from flamingo_med.reporting.run_files import OF_THE_RUN, Evaluation, read_evaluations, read_run
from flamingo_med.reporting.run_report import format_facts, seconds_of
from modeling_flamingo_med.configuration_flamingo_med import FlamingoMedConfig
from modeling_flamingo_med.modeling_flamingo_med import FlamingoMedForConditionalGeneration
from processing.datasets import DEFAULT_DATASET
from processing.datasets.about import ABOUT, About
from processing.errors import InputError, one_line
from processing.files import write_whole

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "model_card.md.jinja"

# Assumptions, said in the card: a server's CPU core with its share of memory; a data centre's GPU; the world's mean of
# electricity (Ember, 2023).
WATTS_PER_CORE, WATTS_PER_GPU, GRAMS_PER_KWH = 10, 400, 480

FLAMINGO_CITATION = """\
@inproceedings{alayrac2022flamingo,
  title = {Flamingo: a Visual Language Model for Few-Shot Learning},
  author = {Alayrac, Jean-Baptiste and Donahue, Jeff and Luc, Pauline and Miech, Antoine and others},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  year = {2022}
}"""

# ~, .. or an absolute path, on any system; not the address of a page, nor the slash within a Hub id.
PLACE = re.compile(r"(?<![\w./:\\-])(?:~\w*|(?:\.\.[\\/])*\.\.|[A-Za-z]:)?[\\/][^'\",{}\[\]]*")


def write_card(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the card of a finished run; returns where it is.

    Args:
        folder: output_dir of the run.
        output: file of the card; README.md in the folder if None.

    Raises:
        InputError: a file of the run is missing or damaged, or the card cannot be written.
    """
    card, path = render_card(folder), Path(output or Path(folder, "README.md"))
    try:
        write_whole(path, f"{str(card).strip()}\n")
    except OSError as error:
        raise InputError(f"the card cannot be written to {path}: {error.strerror}") from None
    return path


def refresh_card(folder: str | Path) -> None:
    """Write the card of a folder that holds a run; any other model's folder, or Hub id, is left alone.

    Whatever led to it has been done, so a card that cannot be written is only logged.
    """
    if all(Path(folder, name).is_file() for name in OF_THE_RUN):
        try:
            write_card(folder)
        except InputError as error:
            logger.warning(f"the model card is as it was: {error}; flamingo-med card {folder} writes it again")


def render_card(folder: str | Path) -> ModelCard:
    """The card of a run: metadata for the Hub, with the scores as its `model-index`, and the text of the template.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    (config, run_meta, summary), metrics = read_run(folder), read_evaluations(folder)
    settings = without_places(run_meta["settings"])
    stages = [*run_meta["stages_before"], {"dataset": DEFAULT_DATASET, "data": {}, **settings}]
    abouts = list(dict.fromkeys(about(stage["dataset"]) for stage in stages))
    name = f"flamingo-med-{Path(settings.get('output_dir', 'run')).name}"
    return ModelCard.from_template(
        card_data(name, config, summary, metrics, abouts, pretrained=len(stages) > 1),
        template_path=str(TEMPLATE),
        name=name,
        cautions=[a.caution for a in abouts if a.caution],
        architecture=architecture(config),
        parameters=parameters(config, Path(folder, "config.json")),
        stages=[describe_stage(stage) for stage in stages],
        overlap=run_meta.get("overlap"),
        backbones=[part["name"] for part in without_places(list(config.backbones.values()))],
        training=format_facts(summary),
        command=without_places(run_meta["command"]),
        commit=run_meta["commit"] or "unknown",
        versions=", ".join(f"{package} {version}" for package, version in run_meta["versions"].items()),
        recipe=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip(),
        evaluations=[describe_evaluation(**evaluation) for evaluation in metrics],
        cost=describe_cost(summary),
        citations=[FLAMINGO_CITATION, *(a.citation for a in abouts if a.citation)],
    )


def without_places(value: Any) -> Any:
    """Texts, also those within lists and mappings, with the last name of each path of this machine in its place.

    >>> without_places("flamingo-med train phantom --data_dir /home/ann/vqa_rad --output_dir=../runs/a")
    'flamingo-med train phantom --data_dir vqa_rad --output_dir=a'
    """
    if isinstance(value, dict):
        return {name: without_places(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_places(part) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("flamingo-med ", "python ")):  # a command: its words may be quoted and hold blanks
        with suppress(ValueError):  # a quotation without an end
            return shlex.join([_last_name(word) for word in shlex.split(value)])
    return _last_name(value)


def _last_name(text: str) -> str:
    return PLACE.sub(lambda place: re.split(r"[\\/]", place[0].rstrip("\\/ "))[-1], text)


def about(dataset: str | None) -> About:
    """What is known of a data set; of that of a model from elsewhere, None, only that it is not known."""
    if dataset is None:
        return About("unknown", "not known to this card", "the card of the model it began from")
    if dataset not in ABOUT:
        raise InputError(f"processing/datasets/about.py says nothing of the data set {dataset}; add its licence there")
    return ABOUT[dataset]


def describe_stage(stage: dict) -> dict[str, str]:
    """A line of the table of data."""
    known = about(stage["dataset"])
    title = (
        known.title if stage["dataset"] else f"unknown: that of {without_places(stage.get('model', 'another model'))}"
    )
    options = format_options(stage) or "defaults"
    return {"title": title, "options": options, "licence": known.licence, "source": known.source}


def format_options(meta: dict) -> str:
    """Options of a data set in a word or two, without paths, and the report whose images were left out."""
    exclude = {"exclude": Path(meta["exclude"]).name} if meta.get("exclude") else {}
    return ", ".join(f"{name}={value}" for name, value in sorted((without_places(meta["data"]) | exclude).items()))


def card_data(
    name: str,
    config: FlamingoMedConfig,
    summary: dict,
    metrics: list[Evaluation],
    abouts: list[About],
    pretrained: bool,
) -> ModelCardData:
    """Metadata of the card.

    Args:
        name: of the model.
        config: of the model.
        summary: of the run.
        metrics: what the files metrics.json hold.
        abouts: the data sets that it was trained on.
        pretrained: it went on from another model.
    """
    backbones = config.backbones.values()
    ours = not backbones and all(a.licence == "Apache-2.0" for a in abouts)
    licence = {"license": "apache-2.0"} if ours else {"license": "other", "license_name": "of-data-and-backbones"}
    if cost := estimate_cost(summary):
        licence["co2_eq_emissions"] = {
            "emissions": cost["grams"],
            "source": "estimated from hours and assumed power, see Environmental cost",
            "training_type": "fine-tuning" if pretrained or backbones else "pre-training",
            "hardware_used": cost["hardware"],
        }
    return ModelCardData(
        model_name=name,
        language="en",
        library_name="transformers",
        pipeline_tag="visual-question-answering",
        tags=["flamingo", "medical", "radiology", "visual-question-answering"],
        datasets=[a.hub_id for a in abouts if a.hub_id] or None,
        base_model=[part["name"] for part in backbones if part["revision"]] or None,
        metrics=[MAIN] if metrics else None,
        eval_results=[result for evaluation in metrics for result in eval_results(**evaluation)] or None,
        **licence,
    )


def eval_results(meta: dict, scores: list[dict]) -> list[EvalResult]:
    """Exact match of model and baselines on closed, open and all questions, and the model's other scores overall."""
    known, others = about(meta["dataset"]), [score for score in overall(scores) if score["condition"] == "model"]
    return [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=known.hub_id or meta["dataset"],
            dataset_name=known.title,
            dataset_config=format_options(meta) or None,
            dataset_split=meta["split"],
            metric_type=score["metric"],
            metric_value=score["value"],
            metric_name=f"{score['metric']}, {score['subset']} questions: {label(score['condition'])}",
            metric_args={name: score[name] for name in ("condition", "subset", "low", "high", "n", "signature")},
        )
        for score in scores
        if (score["metric"] == MAIN and score["subset"] in COLUMNS) or score in others
    ]


def label(condition: str) -> str:
    """A condition in words."""
    return CONDITIONS.get(condition, condition).lower()


def describe_evaluation(meta: dict, scores: list[dict]) -> dict[str, Any]:
    """What the template says of one metrics.json."""
    of_main = {(s["condition"], s["subset"]): s for s in scores if s["metric"] == MAIN}
    if ("model", "all") not in of_main:
        raise InputError(f"the evaluation on {meta['dataset']} {meta['split']} has no {MAIN} of the model; repeat it")
    columns = [subset for subset in COLUMNS if ("model", subset) in of_main]
    conditions = list(dict.fromkeys(condition for condition, _ in of_main))
    others = [s for s in overall(scores) if s["metric"] != MAIN and s["condition"] == "model"]
    options = format_options(meta)
    return {
        "title": f"{about(meta['dataset']).title}, {meta['split']}{f' ({options})' if options else ''}",
        "counts": f"{meta['rows']['scored']} questions about {meta['rows']['images']} images",
        "overlap": meta["overlap"],
        "looks": describe_looks(meta["model_minus_blank_image"]),
        "signature": of_main["model", "all"]["signature"],
        "columns": [f"{subset} (n={of_main['model', subset]['n']})" for subset in columns],
        "baselines": [
            [label(condition), *(format_score(of_main.get((condition, subset))) for subset in columns)]
            for condition in conditions
        ],
        "others": [[f"`{named(s['signature'], s['subset'])}`".replace("|", "\\|"), format_score(s)] for s in others],
        "command": without_places(meta["command"]),
        "commit": meta["commit"] or "unknown",
    }


def describe_looks(difference: dict) -> str:
    """Whether the model does better with the images than without, in a sentence."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    if low is None or high is None:
        return f"With images against the same model with all images blanked: {value:+.3f}."
    verdict = "It looks at the images" if low > 0 else "**That it looks at the images is not shown**"
    return f"{verdict}: against the same model with all images blanked {value:+.3f} [{low:+.2f}, {high:+.2f}]."


def architecture(config: FlamingoMedConfig) -> list[str]:
    """The parts of the model, one a line."""
    backbones = without_places(config.backbones)

    def part(name: str, kind: str, frozen: bool) -> str:
        begin = f"pretrained `{backbones[name]['name']}`" if name in backbones else "randomly initialised"
        return f"{kind}, {begin}, {'frozen' if frozen else 'trained'}"

    lines = [
        f"image encoder: {part('vision', config.vision_config.model_type, config.freeze_vision)}",
        f"Perceiver resampler: {config.resampler_num_latents} latents, depth {config.resampler_depth}",
        f"tanh-gated cross-attention: every {config.cross_attn_every_n_layers} decoder layer(s)",
        f"decoder: {part('text', config.text_config.model_type, config.freeze_text)}"
        + (f" (trainable token embeddings: {config.train_embeddings})" if config.freeze_text else ""),
    ]
    if config.problem_type:
        lines.append(f"classification head: {config.num_labels} classes, {config.problem_type}")
    return lines


def parameters(config: FlamingoMedConfig, path: Path) -> str:
    """The table of `parameter_summary`, from shapes alone; `path` of the configuration's file is for messages."""
    try:
        with torch.device("meta"):
            return FlamingoMedForConditionalGeneration(config).parameter_summary()
    except Exception as error:  # of whatever encoder and decoder
        raise InputError(f"{path} describes no model that can be built: {one_line(error)}") from None


def estimate_cost(summary: dict) -> dict[str, Any] | None:
    """hours, watts, kwh, grams and hardware of the training and of encoding its images; None where the time was not
    measured."""
    seconds = seconds_of(summary)
    if seconds is None:
        return None
    hardware = summary["hardware"]
    if hardware["cores"]:
        count, unit, watts = hardware["processes"] * hardware["cores"], "CPU core(s)", WATTS_PER_CORE
    else:
        count, unit, watts = hardware["processes"], f"GPU(s), {hardware['device']}", WATTS_PER_GPU
    hours = seconds / 3600
    kwh = hours * count * watts / 1000
    return {
        "hours": hours,
        "watts": watts,
        "kwh": kwh,
        "grams": float(f"{kwh * GRAMS_PER_KWH:.3g}"),
        "hardware": f"{count} {unit}",
    }


def describe_cost(summary: dict) -> str:
    """Hours, energy and emissions of the training with what was assumed, in a sentence or two."""
    cost = estimate_cost(summary)
    if cost is None:
        return "The time of training was not measured."
    since = " Training was interrupted: the hours before are not counted." if summary["resumed"] else ""
    return (
        f"Training: {cost['hours']:.3g} hours on {cost['hardware']}. At an assumed {cost['watts']} W each, "
        f"{cost['kwh']:.3g} kWh; at an assumed {GRAMS_PER_KWH} g/kWh (the world's mean of 2023), {cost['grams']:g} g "
        f"of CO2 equivalent. An estimate, not a measurement; evaluation is not counted.{since}"
    )
