"""IDEFICS (`IdeficsForVisionText2Text` of transformers): a Llama and a CLIP vision tower, all weights in the folder.

Its gated layers have RMSNorm and Llama's gated feed-forward; the rows of its added tokens lie apart.
"""

from transformers import CLIPVisionConfig, IdeficsConfig, LlamaConfig

from flamingo_med.conversion.peer import Description, Peer, Tokens
from flamingo_med.conversion.source import Source
from processing.errors import InputError


def describe(source: Source, vision: str | None, text: str | None) -> Description:
    """What the checkpoint is made of; the decoder's name, if given, is that of its tokenizer.

    Raises:
        InputError: no config.json of IDEFICS, a second image encoder, or an architecture unlike ours.
    """
    if source.config.get("model_type") != "idefics":
        raise InputError(f"the config.json of IDEFICS is missing beside {source.path}")
    if vision is not None:
        raise InputError(f"{source.path} holds its own image encoder; leave out --vision")
    config = IdeficsConfig.from_dict(source.config)
    if not config.use_resampler:
        raise InputError(f"{source.path} has no resampler (use_resampler), which every model here has")
    if config.alpha_type != "float":
        raise InputError(f"{source.path} has gates of alpha_type {config.alpha_type!r}; a gate here is one number")
    if config.num_hidden_layers % config.cross_layer_interval:
        raise InputError(f"{source.path}: cross_layer_interval does not divide num_hidden_layers")
    vision_config = config.vision_config
    same = ("image_size", "patch_size", "num_channels", "num_hidden_layers", "num_attention_heads", "hidden_act")
    same += ("intermediate_size", "layer_norm_eps", "attention_dropout")
    text_same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    text_same += ("rms_norm_eps", "rope_parameters", "max_position_embeddings", "tie_word_embeddings")
    return Description(
        CLIPVisionConfig(hidden_size=vision_config.embed_dim, **{name: getattr(vision_config, name) for name in same}),
        LlamaConfig(**{name: getattr(config, name) for name in text_same}),
        vision_config.image_size,
        text or str(source.folder),
        {
            "resampler_head_dim": config.perceiver_config.resampler_head_dim,
            "resampler_act": "relu",
            "resampler_qk_norm": config.perceiver_config.qk_layer_norms_perceiver,
            "cross_attn_every_n_layers": config.cross_layer_interval,
            "cross_attn_head_dim": config.hidden_size // config.num_attention_heads,
            "cross_attn_act": config.hidden_act,
            "cross_attn_gated_ff": True,
            "cross_attn_qk_norm": config.qk_layer_norms,
            "cross_attn_rms_norm_eps": config.rms_norm_eps,
        },
    )


BLOCK, GATED = r"model\.perceiver_resampler\.blocks\.(\d+)\.", r"model\.gated_cross_attn_layers\.(\d+)\."

PEER = Peer(
    name="IDEFICS",
    mark=r"model\.gated_cross_attn_layers\..*",
    rules=[
        (r"model\.perceiver_resampler\.latents", "resampler.latents"),
        (r"model\.perceiver_resampler\.layer_norm\.(\w+)", r"resampler.norm.\1"),
        (rf"{BLOCK}0\.context_layer_norm\.(\w+)", r"resampler.layers.\1.patch_norm.\2"),
        (rf"{BLOCK}0\.latents_layer_norm\.(\w+)", r"resampler.layers.\1.latent_norm.\2"),
        (rf"{BLOCK}0\.([qk])_layer_norm\.(\w+)", r"resampler.layers.\1.attn.\2_norm.\3"),
        (rf"{BLOCK}0\.q_proj\.weight", r"resampler.layers.\1.attn.to_q.weight"),
        (rf"{BLOCK}0\.k_proj\.weight", r"resampler.layers.\1.attn.to_kv.weight#0"),
        (rf"{BLOCK}0\.v_proj\.weight", r"resampler.layers.\1.attn.to_kv.weight#1"),
        (rf"{BLOCK}0\.output_proj\.weight", r"resampler.layers.\1.attn.to_out.weight"),
        (rf"{BLOCK}1\.ln\.(\w+)", r"resampler.layers.\1.ff.0.\2"),
        (rf"{BLOCK}1\.fc\.weight", r"resampler.layers.\1.ff.1.weight"),
        (rf"{BLOCK}1\.c_proj\.weight", r"resampler.layers.\1.ff.3.weight"),
        (rf"{GATED}input_layernorm\.weight", r"cross_attn.\1.norm.weight"),
        (rf"{GATED}cross_attn\.([qk])_layer_norm\.weight", r"cross_attn.\1.attn.\2_norm.weight"),
        (rf"{GATED}cross_attn\.q_proj\.weight", r"cross_attn.\1.attn.to_q.weight"),
        (rf"{GATED}cross_attn\.k_proj\.weight", r"cross_attn.\1.attn.to_kv.weight#0"),
        (rf"{GATED}cross_attn\.v_proj\.weight", r"cross_attn.\1.attn.to_kv.weight#1"),
        (rf"{GATED}cross_attn\.o_proj\.weight", r"cross_attn.\1.attn.to_out.weight"),
        (rf"{GATED}alpha_cross_attn", r"cross_attn.\1.attn_gate.alpha"),
        (rf"{GATED}post_attention_layernorm\.weight", r"cross_attn.\1.ff.0.weight"),
        (rf"{GATED}mlp\.gate_proj\.weight", r"cross_attn.\1.ff.1.weight#0"),
        (rf"{GATED}mlp\.up_proj\.weight", r"cross_attn.\1.ff.1.weight#1"),
        (rf"{GATED}mlp\.down_proj\.weight", r"cross_attn.\1.ff.3.weight"),
        (rf"{GATED}alpha_dense", r"cross_attn.\1.ff_gate.alpha"),
        (r"model\.vision_model\.(.+)", r"vision_encoder.\1"),
        (r"model\.embed_tokens\.weight", "language_model.model.embed_tokens.weight#0"),
        (r"model\.embed_tokens\.additional_embedding\.weight", "language_model.model.embed_tokens.weight#1"),
        (r"lm_head\.weight", "language_model.lm_head.weight#0"),
        (r"lm_head\.additional_fc\.weight", "language_model.lm_head.weight#1"),
        (r"model\.((?:layers|norm)\..+)", r"language_model.model.\1"),
    ],
    describe=describe,
    tokens=Tokens(),
    prompt="idefics",
)
