"""Show several models' answers and maps to the same questions side by side.

Writes comparison.html and comparison.png to output_dir.

  flamingo-med compare-maps --models "[runs/phantom, runs/other]" --split test --output_dir page
"""

from dataclasses import dataclass, field
from pathlib import Path

from flamingo_med.cli.arguments import build_with_typed_data
from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.folders import lock_folder
from flamingo_med.common.provenance import provenance
from flamingo_med.explanation.map_comparison import compare, draw, page, says
from flamingo_med.explanation.measurement import choose
from flamingo_med.explanation.methods import METHODS, load_method
from flamingo_med.inference.split_arguments import TRUST_HELP
from flamingo_med.reporting.figures import to_png
from processing.datasets.arguments import DataArguments
from processing.errors import InputError, check_keys, check_path, disk_errors
from processing.files import write_whole


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
    trust_remote_code: bool = field(default=False, metadata={"help": TRUST_HELP})

    def __post_init__(self):
        for name in self.models:
            check_path("--models", name)
        if not self.models:
            raise InputError("no model given; write them as --models '[runs/a, runs/b]'")
        if self.limit < 1:
            raise InputError(f"limit is at least 1, got {self.limit}")
        check_keys([self.method], METHODS, "method")
        self.recipe = self.recipe or f"{self.models[0]}/recipe.yaml"


def main(arguments: list[str]) -> None:
    """comparison.html and comparison.png."""
    often = ("models", "split", "recipe", "data_dir", "output_dir", "limit", "method")
    parser = CommandParser("flamingo-med compare-maps", __doc__, ComparisonArguments, DataArguments, often=often)
    args, data_args = build_with_typed_data(parser, arguments)
    load_method(args.method)
    rows = [row for row, _ in choose(data_args.load(args.split), args.limit)]
    folder = Path(args.output_dir)
    lock = lock_folder(folder)
    cells = compare(args.models, rows, args.method, args.trust_remote_code)
    title = f"Models side by side on {data_args.dataset} {args.split}, questions: {len(rows)}"
    print(f"{title}\n")
    for row, line in zip(rows, cells, strict=True):
        print(row["id"], *(says(cell) for cell in line), sep="  ")
    png, command = to_png(draw(args.models, rows, cells, title)), provenance()["command"]
    with disk_errors(folder):
        (folder / "comparison.png").write_bytes(png)
        write_whole(folder / "comparison.html", page(args.models, rows, cells, title, command))
    lock.release()
    print(f"\nNot for clinical use.\nwritten: {folder}/comparison.html, comparison.png")
