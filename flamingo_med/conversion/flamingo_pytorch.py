"""flamingo-pytorch (lucidrains, 0.1.2): its two blocks around an image encoder and a decoder of `transformers`.

A state dict of one resampler and of gated cross-attentions in a list, whatever its attributes are called; the
attentions stand before every n-th decoder layer, or in a list that has None elsewhere. Its FlamingoPaLM is another
architecture. What no weight tells: --config.cross_attn_latest_only false where it has
only_attend_immediate_media=False (tokens before the first image then see none here, and all there), and
--config.vision_feature_select patch where the class token does not enter.
"""

import re

from flamingo_med.conversion.peer import Description, Peer, Tokens, config_of, gated_rules, needed, resampler_rules
from flamingo_med.conversion.source import Source
from processing.errors import InputError
from processing.processing_flamingo_med import END_OF_CHUNK, END_OF_QUESTION, IMAGE, PAD

ANYWHERE = r"(?:.*\.)?"


def describe(source: Source, vision: str | None, text: str | None) -> Description:
    """What the checkpoint is made of.

    Raises:
        InputError: a FlamingoPaLM, or attentions that do not divide the decoder's layers.
    """
    if "token_emb.weight" in source.weights:
        raise InputError(
            f"{source.path} is a FlamingoPaLM (token_emb.weight), whose decoder transformers does not have and whose "
            "cross-attentions stand after its layers; only the blocks around another decoder can be converted"
        )
    vision, text = needed(vision, "vision", source), needed(text, "text", source)
    found = (re.fullmatch(rf"{ANYWHERE}(\d+)\.attn_gate", name) for name in source.weights)
    numbers = sorted({int(match[1]) for match in found if match})
    settings = {}
    if numbers == list(range(len(numbers))):  # a list without gaps does not tell what stands between
        layers = config_of(text, "text_config").num_hidden_layers
        if not numbers or layers % len(numbers):
            raise InputError(
                f"{source.path} has {len(numbers)} gated cross-attentions for the {layers} layers of {text}"
            )
        settings["cross_attn_every_n_layers"] = layers // len(numbers)
    return Description(vision, text, vision, text, settings)


PEER = Peer(
    name="flamingo-pytorch",
    mark=rf"{ANYWHERE}media_pos_emb",
    rules=[
        *gated_rules(rf"{ANYWHERE}(\d+)\."),
        (rf"{ANYWHERE}media_pos_emb", "resampler.numbers"),
        *resampler_rules(ANYWHERE),
    ],
    describe=describe,
    tokens=Tokens(END_OF_CHUNK, (IMAGE, END_OF_QUESTION), PAD),
    prompt="flamingo_med",
)
