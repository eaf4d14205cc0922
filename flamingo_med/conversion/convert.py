"""The checkpoint of another Flamingo → a model and processor of ours, which answer as the other does."""

from collections import Counter
from dataclasses import dataclass

from transformers import AutoImageProcessor, CLIPImageProcessorPil, PretrainedConfig

from flamingo_med.conversion import flamingo_mini, flamingo_pytorch, idefics, open_flamingo
from flamingo_med.conversion.peer import Description, Peer
from flamingo_med.conversion.prompts import PROMPTS
from flamingo_med.conversion.source import Source
from flamingo_med.conversion.vocabulary import fit_vocabulary, tokenizer_with
from flamingo_med.conversion.weights import Renamed, load_weights, rename_weights, settings_of
from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from modeling_flamingo_med.backbones_flamingo_med import load_language_model, load_vision_encoder, reference
from processing.errors import InputError
from processing.processing_flamingo_med import FlamingoMedProcessor

PEERS = (flamingo_mini.PEER, open_flamingo.PEER, idefics.PEER, flamingo_pytorch.PEER)
MAX_NEW_TOKENS = 32  # of an answer, where `generate` is given no number


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
            vision_config=vision_encoder.config,
            text_config=language_model.config,
            backbones=backbones,
            **ids,
            **settings,
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
        return _load(
            AutoImageProcessor.from_pretrained, described.image_processor, backend="pil", trust_remote_code=False
        )
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
