"""OpenFlamingo v1 and v2, and Med-Flamingo: what was trained beside CLIP ViT-L/14 and LLaMA, MPT, OPT or GPT-NeoX.

Gated cross-attentions stand before decoder layers n - 1, 2n - 1, …; v1 lists them twice. CLIP's patches enter, without
class token and last norm.
"""

from flamingo_med.conversion.peer import Description, Peer, Tokens, gated_rules, needed, resampler_rules
from flamingo_med.conversion.source import Source

VISION = "openai/clip-vit-large-patch14"


def describe(source: Source, vision: str | None, text: str | None) -> Description:
    """What the checkpoint is made of."""
    vision, text = vision or VISION, needed(text, "text", source)
    return Description(vision, text, vision, text, {"vision_feature_select": "patch"})


PEER = Peer(
    name="OpenFlamingo",
    mark=r"lang_encoder\..*gated_cross_attn_layers?\..*",
    rules=[
        *gated_rules(r"lang_encoder\.gated_cross_attn_layers\.(\d+)\."),
        *gated_rules(r"lang_encoder\.[\w.]+\.(\d+)\.gated_cross_attn_layer\."),
        *resampler_rules(r"perceiver\."),
        (r"lang_encoder\.(.+\.\d+)\.decoder_layer\.(.+)", r"language_model.\1.\2"),
        (r"lang_encoder\.((?!old_decoder_blocks|gated_cross_attn_layers).+)", r"language_model.\1"),
    ],
    describe=describe,
    tokens=Tokens("<|endofchunk|>", ("<image>",), "<PAD>", resized=True),
    prompt="open_flamingo",
)
