"""The two pretrained parts: how an image encoder and a decoder are built, loaded, and asked for what we need."""

import inspect
from dataclasses import fields
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.models.clip import CLIPVisionModelWithProjection

# What decoders call their cache, in their arguments and their output: `transformers` 5.24 has given it another name.
CACHE = next(f.name for f in fields(CausalLMOutputWithPast) if f.name in ("cache", "past_key_values"))

# Decoders whose layers get keyword arguments although their class does not say so.
DECODERS_KNOWN_TO_WORK = {"biogpt"}
# Decoders that drop keyword arguments before their layers, which get them by `context_keywords` nevertheless; but for
# layers that gradient checkpointing computes again: before transformers 5.23 those run hooks again, and fail.
DECODERS_THAT_DROP_KEYWORDS = {"mpt"}


def load_vision_encoder(source: str | PretrainedConfig, select: str, revision: str | None = None) -> PreTrainedModel:
    """An image encoder.

    Args:
        source: Hub id or local folder (of CLIP and its like, the vision tower is taken), or a configuration for one
            with random weights.
        select: see `FlamingoMedConfig.vision_feature_select`; "pooled" needs CLIP's projection too.
        revision: of the Hub id.
    """
    config = part_config(source, "vision_config", revision)
    projects = select == "pooled" and config.model_type == "clip_vision_model"
    return _load(CLIPVisionModelWithProjection if projects else AutoModel, source, config, revision)


def load_language_model(source: str | PretrainedConfig, revision: str | None = None) -> PreTrainedModel:
    """A causal LM from a Hub id or local folder, or one with random weights from a configuration."""
    return _load(AutoModelForCausalLM, source, part_config(source, "text_config", revision), revision)


def part_config(source: str | PretrainedConfig, part: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a backbone: of a model of images and text, that of its part."""
    if isinstance(source, PretrainedConfig):
        return getattr(source, part, source)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    return getattr(config, part, config)


def _load(
    kind: type, source: str | PretrainedConfig, config: PretrainedConfig, revision: str | None
) -> PreTrainedModel:
    if isinstance(source, PretrainedConfig):
        return kind._from_config(config) if issubclass(kind, PreTrainedModel) else kind.from_config(config)
    # In one precision, whatever each was stored in; `from_pretrained(dtype=…)` and autocast choose another for all.
    how = {"dtype": torch.float32, "revision": revision, "trust_remote_code": False}
    return kind.from_pretrained(source, config=config, **how)


def resize_embeddings(language_model: PreTrainedModel, vocab_size: int) -> None:
    """Embeddings for all tokens; those of new ones are sampled around the mean of the others."""
    if vocab_size > language_model.get_input_embeddings().num_embeddings:
        language_model.resize_token_embeddings(vocab_size)


def reference(source: str, model: PreTrainedModel) -> dict[str, str | None]:
    """Where pretrained weights came from: a Hub id with its revision, or a folder."""
    name = str(Path(source).resolve()) if Path(source).is_dir() else source
    return {"name": name, "revision": getattr(model.config, "_commit_hash", None)}


def image_features(
    encoder: PreTrainedModel, pixels: Tensor, layer: int, select: str, **kwargs
) -> tuple[Tensor, ModelOutput]:
    """What the image encoder makes of images (b c h w): features (b p d), and its whole output.

    Args:
        layer, select: see `FlamingoMedConfig.vision_feature_layer` and `vision_feature_select`.
        kwargs: passed to the encoder.

    Raises:
        ValueError: the encoder cannot take images of that size, or has no such layer, or nothing pooled.
    """
    height, width = pixels.shape[-2:]
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters:
        # Encoders without the option interpolate by themselves where they can.
        options["interpolate_pos_encoding"] = not encoder.config.image_size == height == width
    if layer != -1:
        options["output_hidden_states"] = True
    outputs = encoder(pixels.to(encoder.dtype), return_dict=True, **{**kwargs, **options})

    if select == "pooled":
        pooled = outputs.get("image_embeds", outputs.get("pooler_output"))
        if pooled is None:
            raise ValueError(f"{type(encoder).__name__} has no pooled vector; use vision_feature_select='full'")
        return rearrange(pooled.flatten(1), "b d -> b 1 d"), outputs
    if layer == -1:
        features = outputs.last_hidden_state
    else:
        depth = len(outputs.hidden_states)
        if not -depth <= layer < depth:
            raise ValueError(f"vision_feature_layer {layer} is not among the encoder's {depth} hidden states")
        features = outputs.hidden_states[layer]
    if features.ndim == 4:  # a convolutional encoder's map
        return rearrange(features, "b d h w -> b (h w) d"), outputs
    if select == "patch":
        patch = encoder.config.patch_size
        features = features[:, -(height // patch) * (width // patch) :]  # class and register tokens come first
    return features, outputs


def find_decoder_layers(language_model: PreTrainedModel) -> nn.ModuleList:
    """The list of layers of a causal LM, whatever its class calls it.

    Raises:
        ValueError: a decoder that drops the keyword arguments that carry the image, that is not causal, or that has no
            such list.
    """
    config = language_model.config.get_text_config(decoder=True)
    kind = type(language_model).__name__
    known = config.model_type in DECODERS_KNOWN_TO_WORK | DECODERS_THAT_DROP_KEYWORDS
    if not known and not language_model._supports_attention_backend:
        raise ValueError(f"{kind} does not hand keyword arguments to its layers, so it would never see the image")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_decoder:
        raise ValueError(f"{kind} looks ahead, at the answer itself; a decoder of its kind needs is_decoder=True")
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise ValueError(f"{kind} has no list of {config.num_hidden_layers} decoder layers to put cross-attention before")


def train_frozen(language_model: PreTrainedModel, mode: bool) -> None:
    """Put a frozen decoder in evaluation mode, but for what `mode`, training, is needed for.

    Its layers say that they train, since gradient checkpointing asks them; and adapters (PEFT) in it do train.
    """
    language_model.eval()
    set_layer_dropout(language_model, False)
    for layer in find_decoder_layers(language_model):
        layer.training = mode
    for module in language_model.modules():
        if type(module).__module__.startswith("peft."):
            module.train(mode)


def set_layer_dropout(language_model: PreTrainedModel, enabled: bool) -> None:
    """Turn the dropout of OPT and BioGPT, which the decoder layer itself applies, off or on again as configured."""
    for layer in find_decoder_layers(language_model):
        own = {name: p for name, p in vars(layer).items() if name.endswith("dropout") and isinstance(p, float)}
        configured = vars(layer).setdefault("_configured_dropout", own)
        vars(layer).update(configured if enabled else dict.fromkeys(configured, 0.0))


def keep_statistics(model: nn.Module) -> None:
    """Put batch norm whose weights are frozen in evaluation mode, so that its running statistics are frozen too.

    Whoever has frozen them, such as an adapter (PEFT), which would not save the statistics.
    """
    for module in model.modules():
        has_statistics = isinstance(module, nn.modules.batchnorm._NormBase)
        if has_statistics and not any(p.requires_grad for p in module.parameters()):
            module.eval()
