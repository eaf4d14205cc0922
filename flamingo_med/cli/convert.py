"""Turn a checkpoint of another Flamingo into a folder of ours, which gives the same answers.

SOURCE is a folder, or a .safetensors or .pt file, of flamingo-mini, OpenFlamingo, Med-Flamingo,
IDEFICS or of the blocks of flamingo-pytorch. Which one it is, and all widths and depths, follow
from its weights. Where it holds only the trained part, --text and --vision name the rest. A weight
that fits nowhere, or a parameter without a weight, ends the conversion.

  flamingo-med convert med-flamingo/model.pt runs/med_flamingo --text path/to/llama-7b
"""

from dataclasses import dataclass, field
from pathlib import Path

from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.folders import whole_folder
from flamingo_med.conversion.convert import convert
from flamingo_med.conversion.prompts import PROMPTS
from flamingo_med.conversion.source import read_source
from modeling_flamingo_med import FlamingoMedConfig
from modeling_flamingo_med.manifest_flamingo_med import model_files, processor_files, write_manifest
from processing.errors import InputError, check_keys, check_path, check_types

WORDS = {"source": "checkpoint of another Flamingo", "target": "folder that does not exist or is empty"}


@dataclass
class ConversionArguments:
    """What is converted, and what it does not say itself."""

    source: str = field(metadata={"help": WORDS["source"]})
    target: str = field(metadata={"help": WORDS["target"]})
    vision: str | None = field(default=None, metadata={"help": "Hub id or folder of the image encoder"})
    text: str | None = field(default=None, metadata={"help": "of the decoder with its tokenizer"})
    prompt: str | None = field(default=None, metadata={"help": f"prompt format: {', '.join(PROMPTS)}"})
    config: dict = field(
        default_factory=dict,
        metadata={"help": "settings of the model that no weight tells: --config.cross_attn_head_dim 32"},
    )

    def __post_init__(self):
        for name in ("vision", "text"):
            check_path(f"--{name}", getattr(self, name))
        if self.prompt is not None:
            check_keys([self.prompt], PROMPTS, "prompt")
        settings = FlamingoMedConfig.settings()
        check_keys(self.config, settings, "setting of the model")
        check_types(self.config, settings)


def main(arguments: list[str]) -> None:
    """SOURCE → TARGET, and a table."""
    often = ("vision", "text", "prompt", "config")
    (args,) = CommandParser("flamingo-med convert", __doc__, ConversionArguments, words=WORDS, often=often).build(
        arguments
    )
    target = Path(args.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not an empty folder; choose another, or remove it")
    converted = convert(read_source(args.source), args.vision, args.text, args.prompt, **args.config)
    with whole_folder(target) as part:
        converted.model.save_pretrained(part)
        converted.processor.save_pretrained(part)
        write_manifest(part, model_files(part) | processor_files(part))
    print(f"{converted.table}\nwritten: {target}")
