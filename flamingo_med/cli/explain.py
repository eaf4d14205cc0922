"""Measure how faithful the maps of a model's answers are, for every method, on a split.

Writes report.json, questions.jsonl, report.png and report.html to output_dir.

  flamingo-med explain --model runs/phantom --split test
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from transformers import PreTrainedModel

from flamingo_med.cli.arguments import OFTEN, build_with_typed_data
from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.folders import lock_folder
from flamingo_med.common.provenance import provenance
from flamingo_med.explanation import explanation_card
from flamingo_med.explanation.faithfulness import randomise
from flamingo_med.explanation.measurement import Checks, choose, format_table, measure, score, verdicts
from flamingo_med.explanation.methods import METHODS, load_method
from flamingo_med.inference.answering import load_model
from flamingo_med.inference.split_arguments import SplitArguments, results_folder
from flamingo_med.reporting.figures import to_png
from processing.datasets import fingerprint
from processing.datasets.arguments import DataArguments
from processing.errors import InputError, check_keys, check_path, disk_errors
from processing.files import write_json, write_whole
from processing.processing_flamingo_med import FlamingoMedProcessor


@dataclass(kw_only=True)
class ExplanationArguments(SplitArguments):
    """Whose explanations, of what, and where the report goes."""

    limit: int = field(default=200, metadata={"help": "at most so many questions, always the same"})
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": "which methods"})
    repeats: list[str] = field(
        default_factory=list, metadata={"help": "the same model trained with other seeds, to see if its maps repeat"}
    )
    seed: int = field(default=0, metadata={"help": "of the random model"})

    def __post_init__(self):
        super().__post_init__()
        for name in self.repeats:
            check_path("--repeats", name)
        check_keys(self.methods, METHODS, "method")
        if not self.methods:
            raise InputError(f"no method given; known: {', '.join(METHODS)}")
        if self.limit < 1:
            raise InputError(f"limit is at least 1, got {self.limit}")


def main(arguments: list[str]) -> None:
    """Table, report.json, questions.jsonl, report.png and report.html."""
    often = (*OFTEN, "methods", "limit")
    parser = CommandParser("flamingo-med explain", __doc__, ExplanationArguments, DataArguments, often=often)
    args, data_args = build_with_typed_data(parser, arguments)
    for method in args.methods:
        load_method(method)
    rows = data_args.load(args.split)
    folder = results_folder(args, "explain", data_args)
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    others = [load_repeat(name, processor, args.trust_remote_code) for name in args.repeats]
    lock = lock_folder(folder)
    chosen = choose(rows, args.limit)
    records = measure(model, processor, chosen, args.methods, Checks(randomise(model, args.seed), others))
    scores = score(records)
    sentences, notes = verdicts(scores, args.methods), describe_choice(records, len(rows))

    title = f"Explanations of {args.model} on {data_args.dataset} {args.split}"
    png = to_png(explanation_card.draw(scores, title))
    meta = {**asdict(args), **asdict(data_args), "fingerprints": {"rows": fingerprint(rows)}, **provenance()}
    meta["revision"] = getattr(model.config, "_commit_hash", None)
    print(f"\n{title}, 95 % intervals clustered by image\n\n{format_table(scores)}\n")
    print(*notes, *sentences, sep="\n")
    with disk_errors(folder):
        write_json(folder / "report.json", {"meta": meta, "notes": notes, "verdicts": sentences, "scores": scores})
        write_whole(
            folder / "questions.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        )
        (folder / "report.png").write_bytes(png)
        write_whole(folder / "report.html", explanation_card.to_html(scores, sentences, notes, title, png))
    lock.release()
    print(f"\nwritten: {folder}/report.json, questions.jsonl, report.png, report.html")


def load_repeat(name: str, processor: FlamingoMedProcessor, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model whose maps can be laid over those of the first.

    Raises:
        InputError: no model, or one that reads other tokens or images of another size.
    """
    model, other = load_model(name, trust_remote_code=trust_remote_code)
    same_tokens = other.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    if not same_tokens or other.image_processor.to_dict() != processor.image_processor.to_dict():
        raise InputError(f"{name} has another tokenizer or image size; repeats differ in their seed only")
    return model


def describe_choice(records: Sequence[dict], total: int) -> list[str]:
    """How many questions were asked, of how many, and of which the finding was looked for."""
    asked = {record["id"]: record for record in records}.values()
    boxes = [record for record in asked if record["findings"]]
    right = [record for record in boxes if record["right"]]
    located = {record["id"] for record in records if "pointing" in record}
    notes = [f"{len(asked)} of {total} questions, {len(boxes)} of them with boxes that the answer depends on"]
    if boxes:
        notes.append(
            f"the finding was looked for in {len(located)} of these: not in {len(boxes) - len(right)} with a wrong "
            f"answer and {len(right) - len(located)} whose boxes the model does not see"
        )
    return notes
