"""Train a tokenizer on the train split of a data set, or extend a decoder's own by its words.

Prints the tokens per word of the validation split, and writes a folder that tokenizer: in a recipe
takes: beside a decoder with random weights, or beside the decoder whose tokenizer was extended.

  flamingo-med tokenizer --recipe vqa_rad --data_dir DIR --vocab_size 8192 --output_dir DIR
  flamingo-med tokenizer --recipe vqa_rad --data_dir DIR --vocab_size 51000 --output_dir DIR \\
      --extend gpt2
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from flamingo_med.cli.arguments import build_with_typed_data
from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.folders import whole_folder
from processing.datasets.arguments import DataArguments
from processing.errors import InputError, check_path
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.tokenization import extend_tokenizer, load_tokenizer, texts_of, tokens_per_word, train_tokenizer


@dataclass
class TokenizerArguments:
    """What the tokenizer is trained on, and where it goes."""

    recipe: str = field(metadata={"help": "recipe that names the data set"})
    vocab_size: int = field(metadata={"help": "at most so many tokens, beside the special ones"})
    output_dir: str = field(metadata={"help": "folder of the tokenizer"})
    extend: str | None = field(default=None, metadata={"help": "Hub id or folder whose vocabulary is extended"})

    def __post_init__(self):
        check_path("--extend", self.extend)


def main(arguments: list[str]) -> None:
    """Recipe → train split → tokenizer → folder, and a table."""
    often = ("recipe", "data_dir", "vocab_size", "output_dir", "extend")
    parser = CommandParser("flamingo-med tokenizer", __doc__, TokenizerArguments, DataArguments, often=often)
    args, data_args = build_with_typed_data(parser, arguments)
    if args.vocab_size <= 256:
        raise InputError(f"vocab_size is {args.vocab_size}, but the bytes alone are 256 tokens")
    folder = Path(args.output_dir)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; choose another --output_dir, or remove it")

    rows = data_args.load("train")
    compared = {}
    if args.extend is None:
        tokenizer = train_tokenizer(texts_of(rows), args.vocab_size)
        compared["bytes"] = train_tokenizer([], 256)
    else:
        compared["before"] = load_tokenizer(args.extend)
        tokenizer = extend_tokenizer(compared["before"], texts_of(rows), args.vocab_size)
    compared["after"] = tokenizer
    print(f"{data_args.dataset}, validation split\n{format_table(data_args.load('validation'), compared)}")
    # The processor adds the special tokens, as it will when the tokenizer is used.
    tokenizer = FlamingoMedProcessor.from_vision_text_pretrained(None, tokenizer).tokenizer
    with whole_folder(folder) as part:
        tokenizer.save_pretrained(part)
    print(f"written: {folder}; use it in a recipe: tokenizer: {folder}")


def format_table(rows: Dataset, tokenizers: dict[str, PreTrainedTokenizerBase]) -> str:
    """Tokens per word of questions and of answers: a line for each tokenizer, and one for its bytes."""
    columns = {name: [text for text in rows[name] if text.strip()] for name in ("question", "answer")}
    columns = {name: texts for name, texts in columns.items() if texts}
    width = max(map(len, [*tokenizers, "tokens per word"]))
    lines = [f"{'tokens per word':<{width}}" + "".join(f"{name + 's':>12}" for name in columns) + f"{'tokens':>12}"]
    for label, tokenizer in tokenizers.items():
        values = "".join(f"{tokens_per_word(tokenizer, texts):>12.2f}" for texts in columns.values())
        lines.append(f"{label:<{width}}{values}{len(tokenizer):>12,}")
    return "\n".join(lines)
