"""flamingo-mini (dhansmair): CLIP with GPT-2 or OPT, the decoder's layers wrapped.

Its config.json names both parts and the activations. The decoder lies in the checkpoint, or only what was trained of
it; newer versions also hold the image encoder.
"""

import torch

from flamingo_med.conversion.peer import Description, Peer, Tokens, config_of, gated_rules, needed, resampler_rules
from flamingo_med.conversion.source import Source
from processing.errors import InputError

ROOT = r"(?:flamingo\.)?"
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "sqrelu": "relu2"}  # its names, ours


def describe(source: Source, vision: str | None, text: str | None) -> Description:
    """What the checkpoint is made of.

    Raises:
        InputError: no config.json, or an activation that is not known.
    """
    config = source.config
    if not {"resampler_act", "xattn_act"} <= config.keys():
        raise InputError(f"the config.json beside {source.path} is missing or does not name its activations")
    for name in ("resampler_act", "xattn_act"):
        if config[name] not in ACTIVATIONS:
            raise InputError(
                f"{name} in config.json is {config[name]!r}, which is not one of {', '.join(ACTIVATIONS)}"
            )
    vision = needed(vision or config.get("clip_model_type"), "vision", source)
    text = needed(text or config.get("lm"), "text", source)
    names = {name.removeprefix("flamingo.") for name in source.weights}
    holds_vision = any(name.startswith("vision_encoder.") for name in names)
    holds_text = any(".lm_block." in name for name in names)
    text_config = config_of(text, "text_config")
    text_config.tie_word_embeddings = _is_tied(source)
    return Description(
        config_of(vision, "vision_config") if holds_vision else vision,
        text_config if holds_text else text,
        vision,
        text,
        {
            "resampler_act": ACTIVATIONS[config["resampler_act"]],
            "resampler_head_dim": config.get("resampler_dim_head", 64),
            "cross_attn_act": ACTIVATIONS[config["xattn_act"]],
            "cross_attn_head_dim": config.get("xattn_dim_head", 64),
        },
    )


def _is_tied(source: Source) -> bool:
    """Whether the output layer is that of the embeddings: its first versions trained only the latter."""
    weights = {name.removeprefix("flamingo."): weight for name, weight in source.weights.items()}
    head = weights.get("lm_head.weight")
    inputs = weights.get("lm.wte.weight", weights.get("lm.decoder.embed_tokens.weight"))
    return head is None or inputs is None or torch.equal(head, inputs)


PEER = Peer(
    name="flamingo-mini",
    mark=rf"{ROOT}resampler\.time_pos_emb",
    rules=[
        *gated_rules(
            rf"{ROOT}lm\.(?:h|decoder\.layers)\.(\d+)\.xattn_block\.",
            ff="ffw",
            attn_gate="alpha_attn",
            ff_gate="alpha_ffw",
        ),
        (rf"{ROOT}resampler\.time_pos_emb", "resampler.times"),
        (rf"{ROOT}resampler\.layers\.(\d+)\.0\.to_k\.weight", r"resampler.layers.\1.attn.to_kv.weight#0"),
        (rf"{ROOT}resampler\.layers\.(\d+)\.0\.to_v\.weight", r"resampler.layers.\1.attn.to_kv.weight#1"),
        *resampler_rules(rf"{ROOT}resampler\."),
        (rf"{ROOT}lm\.h\.(\d+)\.(?:lm_block\.)?(.+)", r"language_model.transformer.h.\1.\2"),
        (rf"{ROOT}lm\.((?:wte|wpe|ln_f)\..+)", r"language_model.transformer.\1"),
        (rf"{ROOT}lm\.decoder\.layers\.(\d+)\.(?:lm_block\.)?(.+)", r"language_model.model.decoder.layers.\1.\2"),
        (rf"{ROOT}lm\.(decoder\..+)", r"language_model.model.\1"),
        (rf"{ROOT}(lm_head\.weight)", r"language_model.\1"),
        (rf"{ROOT}vision_encoder\.(?:vision_model\.)?(.+)", r"vision_encoder.\1"),
    ],
    describe=describe,
    tokens=Tokens("<EOC>"),
    prompt="flamingo_mini",
)
