"""`python eval.py compare_maps`: several models' answers and maps to the same questions, side by side."""

from dataclasses import dataclass, field
from pathlib import Path

from modeling_flamingo_med.explanation.comparison import compare, draw, page, says
from modeling_flamingo_med.explanation.methods import METHODS, load_method
from modeling_flamingo_med.explanation.report import choose
from processing.errors import InputError, check_keys
from processing.files import write_whole
from processing.folders import reserve
from processing.pictures import to_png
from processing.provenance import provenance
from processing.recipe import build_with_data


@dataclass
class ComparisonArguments:
    """Which models, on what, and where the page goes."""

    models: list[str] = field(metadata={"help": "folders or Hub ids of the models: '[runs/a, runs/b]'"})
    output_dir: str = field(metadata={"help": "folder of comparison.html and comparison.png"})
    recipe: str | None = field(
        default=None, metadata={"help": "recipe that names the data set; the first model's if unset"}
    )
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    limit: int = field(default=6, metadata={"help": "at most so many questions, always the same"})
    method: str = field(default="occlusion", metadata={"help": f"of the maps: {', '.join(METHODS)}"})

    def __post_init__(self):
        if not self.models:
            raise InputError("no model given; write them as --models '[runs/a, runs/b]'")
        if self.limit < 1:
            raise InputError(f"limit is at least 1, got {self.limit}")
        check_keys([self.method], METHODS, "method")
        self.recipe = self.recipe or f"{self.models[0]}/recipe.yaml"


def compare_maps(arguments: list[str]) -> None:
    """comparison.html and comparison.png."""
    args, data_args = build_with_data(arguments, ComparisonArguments)
    load_method(args.method)
    rows = [row for row, _ in choose(data_args.load(args.split), args.limit)]
    folder = Path(args.output_dir)
    lock = reserve(folder)
    cells = compare(args.models, rows, args.method)
    title = f"Models side by side on {data_args.dataset} {args.split}, questions: {len(rows)}"
    (folder / "comparison.png").write_bytes(to_png(draw(args.models, rows, cells, title)))
    command = provenance()["command"]
    write_whole(folder / "comparison.html", page(args.models, rows, cells, title, command))
    lock.release()
    print(f"{title}\n")
    for row, line in zip(rows, cells, strict=True):
        print(row["id"], *(says(cell) for cell in line), sep="  ")
    print(f"\nNot for clinical use.\nwritten: {folder}/comparison.html, comparison.png")
