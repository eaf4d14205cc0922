"""Peer: what the converter must know of one kind of checkpoint, and the names that several kinds share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import AutoConfig, PretrainedConfig

from flamingo_med.conversion.source import Source
from processing.errors import InputError

# Pattern of a whole name there, and the name here: "NAME#0" and "NAME#1" are stacked to NAME.
Rule = tuple[str, str]


@dataclass(frozen=True)
class Tokens:
    """The special tokens that a peer adds to the decoder's tokenizer, in the order in which it numbers them.

    Attributes:
        end_of_chunk: ends an answer; None where the tokenizer's own end does.
        others: added after it.
        pad: added last where the tokenizer has no padding token; None for its own end token instead.
        resized: the peer gives the vocabulary exactly a row for each token, so another tokenizer can be told.
    """

    end_of_chunk: str | None = None
    others: tuple[str, ...] = ()
    pad: str | None = None
    resized: bool = False


@dataclass(frozen=True)
class Description:
    """What one checkpoint is made of.

    Attributes:
        vision, text: name of the pretrained part whose weights complete those of the checkpoint; or, where the
            checkpoint holds them all, its configuration.
        image_processor, tokenizer: Hub id or folder; for the image processor also the side of the square that images
            are scaled to, in pixels.
        settings: of `FlamingoMedConfig`, as far as they are not in the shapes of the weights.
    """

    vision: str | PretrainedConfig
    text: str | PretrainedConfig
    image_processor: str | int
    tokenizer: str
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A kind of checkpoint.

    Attributes:
        name: of the project that wrote it.
        mark: pattern of a name that only its checkpoints hold.
        rules: the first that fits a whole name renames it. The number of a gated cross-attention may be that of the
            decoder layer that it stands before.
        describe: (source, name of an image encoder, name of a decoder) → description; both names None where not given.
        tokens: its special tokens.
        prompt: its format, in `prompts.PROMPTS`.
    """

    name: str
    mark: str
    rules: Sequence[Rule]
    describe: Callable[[Source, str | None, str | None], Description]
    tokens: Tokens
    prompt: str

    def recognises(self, source: Source) -> bool:
        """Whether the source is of this kind."""
        return any(re.fullmatch(self.mark, name) for name in source.weights)

    def rename(self, name: str) -> str | None:
        """Our name of a weight; None where it has none."""
        for pattern, ours in self.rules:
            match = re.fullmatch(pattern, name)
            if match:
                return match.expand(ours)
        return None


def resampler_rules(prefix: str) -> list[Rule]:
    """Names of the resampler of flamingo-pytorch, from which others took it over.

    Args:
        prefix: pattern of what stands before them, without groups.
    """
    attention = {"norm_media": "patch_norm", "norm_latents": "latent_norm", "to_q": "attn.to_q", "to_kv": "attn.to_kv"}
    attention |= {"to_out": "attn.to_out"}
    return [
        (rf"{prefix}latents", "resampler.latents"),
        (rf"{prefix}norm\.(\w+)", r"resampler.norm.\1"),
        *((rf"{prefix}layers\.(\d+)\.0\.{a}\.(\w+)", rf"resampler.layers.\1.{b}.\2") for a, b in attention.items()),
        (rf"{prefix}layers\.(\d+)\.1\.(\d+\.\w+)", r"resampler.layers.\1.ff.\2"),
    ]


def gated_rules(prefix: str, *, ff: str = "ff", attn_gate: str = "attn_gate", ff_gate: str = "ff_gate") -> list[Rule]:
    """Names of the gated cross-attention of flamingo-pytorch, from which others took it over.

    Args:
        prefix: pattern of what stands before them, whose one group is the number.
        ff, attn_gate, ff_gate: names in which they differ.
    """
    return [
        (rf"{prefix}attn\.norm\.(\w+)", r"cross_attn.\1.norm.\2"),
        (rf"{prefix}attn\.(to_\w+\.weight)", r"cross_attn.\1.attn.\2"),
        (rf"{prefix}{ff}\.(\d+\.\w+)", r"cross_attn.\1.ff.\2"),
        (rf"{prefix}{attn_gate}", r"cross_attn.\1.attn_gate.alpha"),
        (rf"{prefix}{ff_gate}", r"cross_attn.\1.ff_gate.alpha"),
    ]


def needed(name: str | None, option: str, source: Source) -> str:
    """The name of a pretrained part, without which the checkpoint cannot be converted.

    Raises:
        InputError: it is not given.
    """
    if name is None:
        what = {"vision": "image encoder", "text": "decoder"}[option]
        raise InputError(f"{source.path} does not say which {what} it was trained with; add --{option} NAME")
    return name


def config_of(name: str, part: str) -> PretrainedConfig:
    """The configuration of a Hub id or local folder, or of one part of it ("vision_config").

    Raises:
        InputError: there is none.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no model at {name}: {str(error).splitlines()[0]}") from None
    return getattr(config, part, config)
