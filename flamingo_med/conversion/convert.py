"""The checkpoint of another Flamingo → a folder of ours, which answers as the other does.

    python -m modeling_flamingo_med.convert_checkpoint SOURCE TARGET
    python -m modeling_flamingo_med.convert_checkpoint med-flamingo/model.pt runs/med_flamingo \\
        --text path/to/llama-7b --prompt med_flamingo

SOURCE is a folder or a .safetensors or .pt file of flamingo-mini, OpenFlamingo, Med-Flamingo, IDEFICS or of the blocks
of flamingo-pytorch; which one, and all widths and depths, its weights tell. Where it holds only what was trained,
--text and --vision name the rest. A weight that finds no place, or a place without a weight, ends the conversion.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_type_hints

from transformers import AutoImageProcessor, CLIPImageProcessorPil, PretrainedConfig

from processing.errors import InputError, check_keys, check_types, run
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.recipe import build_arguments, describe, override

from . import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from .backbones_flamingo_med import load_language_model, load_vision_encoder, reference
from .converting import flamingo_mini, flamingo_pytorch, idefics, open_flamingo
from .converting.peer import Description, Peer
from .converting.prompts import PROMPTS
from .converting.source import Source, read_source
from .converting.vocabulary import fit_vocabulary, tokenizer_with
from .converting.weights import Renamed, load_weights, rename_weights, settings_of

PEERS = (flamingo_mini.PEER, open_flamingo.PEER, idefics.PEER, flamingo_pytorch.PEER)
MAX_NEW_TOKENS = 32  # of an answer, where `generate` is not told


@dataclass
class ConversionArguments:
    """What is converted, and what it does not say itself."""

    source: str = field(metadata={"help": "the first argument"})
    target: str = field(metadata={"help": "the second; a folder that does not exist or is empty"})
    vision: str | None = field(default=None, metadata={"help": "Hub id or folder of the image encoder"})
    text: str | None = field(default=None, metadata={"help": "of the decoder with its tokenizer"})
    prompt: str | None = field(default=None, metadata={"help": f"prompt format: {', '.join(PROMPTS)}"})
    config: dict = field(
        default_factory=dict,
        metadata={"help": "settings of the model that no weight tells: --config.cross_attn_head_dim 32"},
    )

    def __post_init__(self):
        if self.prompt is not None:
            check_keys([self.prompt], PROMPTS, "prompt")
        hints = get_type_hints(FlamingoMedConfig.__init__)
        check_keys(self.config, hints, "setting of the model")
        check_types(self.config, hints)


@dataclass(frozen=True)
class Converted:
    """The outcome: model and processor, and a table of what became of the weights."""

    model: FlamingoMedForConditionalGeneration
    processor: FlamingoMedProcessor
    table: str


def convert(
    source: Source, vision: str | None = None, text: str | None = None, prompt: str | None = None, **config
) -> Converted:
    """Our model and processor from a checkpoint of another Flamingo.

    Args:
        source: the checkpoint.
        vision, text: names of the pretrained parts that it does not hold.
        prompt: one of `prompts.PROMPTS`; the peer's where None.
        config: settings of `FlamingoMedConfig` that it does not tell.

    Raises:
        InputError: a checkpoint of no known kind or of another architecture, a part that cannot be loaded, or a weight
            without a place or a place without a weight.
    """
    peer = peer_of(source)
    described = peer.describe(source, vision, text)
    renamed = rename_weights(source, peer)
    tokenizer = tokenizer_with(peer.tokens, described.tokenizer)
    language_model = _load(load_language_model, described.text)
    num_layers = language_model.config.num_hidden_layers
    settings = settings_of(renamed, described.settings | config, source, num_layers)
    vision_encoder = _load(load_vision_encoder, described.vision, settings.get("vision_feature_select", "full"))
    drawn = fit_vocabulary(language_model, renamed, tokenizer, peer, source)

    template = PROMPTS[prompt or peer.prompt]
    processor = FlamingoMedProcessor(image_processor_of(described), tokenizer, chat_template=template)
    ids = processor.token_ids
    del ids["vocab_size"]  # fit_vocabulary has seen to it
    parts = {"vision": (described.vision, vision_encoder), "text": (described.text, language_model)}
    backbones = {part: reference(name, model) for part, (name, model) in parts.items() if isinstance(name, str)}
    try:
        configuration = FlamingoMedConfig(
            vision_encoder.config, language_model.config, backbones=backbones, **ids, **settings
        )
        model = FlamingoMedForConditionalGeneration(configuration, vision_encoder, language_model).eval()
    except (TypeError, ValueError) as error:
        raise InputError(f"{source.path} cannot be converted: {error}") from None
    outside = {"vision": "vision_encoder", "text": "language_model"}
    load_weights(model, renamed, source, {outside[part] for part in backbones})
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    return Converted(model, processor, format_table(model, renamed, source, peer, drawn))


def peer_of(source: Source) -> Peer:
    """Which kind of checkpoint it is.

    Raises:
        InputError: none that is known.
    """
    for peer in PEERS:
        if peer.recognises(source):
            return peer
    names = ", ".join(peer.name for peer in PEERS)
    raise InputError(f"{source.path} is no checkpoint of {names}: its first weight is {min(source.weights)}")


def image_processor_of(described: Description):
    """The image preprocessing of a pretrained encoder, or CLIP's for squares of the described side."""
    if isinstance(described.image_processor, str):
        return _load(AutoImageProcessor.from_pretrained, described.image_processor, backend="pil")
    side = described.image_processor
    return CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False)


def format_table(
    model: FlamingoMedForConditionalGeneration, renamed: Renamed, source: Source, peer: Peer, drawn: list[str]
) -> str:
    """What became of the weights: a line for each part and origin, then what was left and what stands in."""
    origins, sizes = Counter(), Counter()
    for name, p in model.named_parameters():
        part = name.split(".")[0]
        backbone = model.config.backbones.get({"vision_encoder": "vision", "language_model": "text"}.get(part), {})
        origin = str(source.path) if name in renamed.weights else backbone.get("name", "")
        origins[part, origin] += 1
        sizes[part, origin] += p.numel()
    lines = [f"{peer.name}\n{'part':<16}{'weights':>9}{'parameters':>16}  from"]
    lines += [f"{part:<16}{n:>9,}{sizes[part, origin]:>16,}  {origin}" for (part, origin), n in origins.items()]
    if renamed.left:
        lines.append(f"left: {len(renamed.left)} that the model computes itself, such as {renamed.left[0]}")
    for name in drawn:
        lines.append(f"mean of the other rows: those of added tokens in {name}, which {source.path} does not hold")
    return "\n".join(lines)


def _load(loader, name: str | PretrainedConfig, *args, **kwargs):
    """What the loader makes of a name; a name of nothing is the user's mistake."""
    try:
        return loader(name, *args, **kwargs)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from None


def main() -> None:
    """SOURCE → TARGET, and a table."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n{describe(ConversionArguments)}")
        return
    if len(arguments) < 2 or arguments[1].startswith("--"):
        raise InputError("two arguments come first, SOURCE and TARGET; see --help")
    named = ["--source", arguments[0], "--target", arguments[1], *arguments[2:]]
    (args,) = build_arguments(override({}, named, ConversionArguments), ConversionArguments)
    target = Path(args.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not an empty folder; choose another, or remove it")
    converted = convert(read_source(args.source), args.vision, args.text, args.prompt, **args.config)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the model cannot be written to {target}: {error.strerror}") from None
    converted.model.save_pretrained(target)
    converted.processor.save_pretrained(target)
    print(f"{converted.table}\nwritten: {target}")


if __name__ == "__main__":
    run(main)
