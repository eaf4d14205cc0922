"""FlamingoMedConfig: everything that shapes the model, and which parts of it learn."""

from transformers import AutoConfig, PretrainedConfig


class FlamingoMedConfig(PretrainedConfig):
    """Configuration of `FlamingoMedForConditionalGeneration`.

    Args:
        vision_config: configuration (or its dict with `model_type`) of any `transformers` image encoder.
        text_config: configuration (or its dict with `model_type`) of any supported `transformers` causal LM; its
            vocabulary includes the special tokens.
        image_token_id: id of `<image>`, which marks where an image stands in the text.
        eoq_token_id: id of `<EOQ>`, the end of a question.
        eos_token_id: id of `<EOC>`, the end of a chunk (an answer or a report); generation stops there.
        pad_token_id: id of the padding token.
        resampler_depth: number of Perceiver layers.
        resampler_num_latents: number of latents, the visual tokens that the decoder sees of one image.
        resampler_num_heads: attention heads of the resampler.
        resampler_head_dim: width of one of them.
        resampler_ff_mult: feed-forward width over the width of the image encoder.
        resampler_num_positions: patches of an image, to learn an embedding of each one's place, as a convolutional
            encoder needs; 0 for encoders that know places, as vision transformers do.
        cross_attn_every_n_layers: a gated cross-attention stands before decoder layers 0, n, 2n, …
        cross_attn_num_heads: attention heads of a gated cross-attention.
        cross_attn_head_dim: width of one of them.
        cross_attn_ff_mult: feed-forward width over the width of the decoder.
        cross_attn_gate_init: where the gates' α starts. At 0 a fresh model is the plain decoder, which protects what a
            pretrained one knows; a decoder that starts from random weights learns to look sooner with open gates.
        freeze_vision: the image encoder does not learn.
        freeze_text: the decoder does not learn (its token embeddings: see `freeze_embeddings`).
        freeze_embeddings: the decoder's token embeddings do not learn either, where `freeze_text` holds.
        initializer_range: standard deviation of the initial weights of resampler and cross-attention.

    Defaults follow Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning" (arXiv:2204.14198).
    """

    model_type = "flamingo_med"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (as transformers reads it)

    def __init__(
        self,
        vision_config: PretrainedConfig | dict | None = None,
        text_config: PretrainedConfig | dict | None = None,
        *,
        image_token_id: int | None = None,
        eoq_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        resampler_depth: int = 6,
        resampler_num_latents: int = 64,
        resampler_num_heads: int = 8,
        resampler_head_dim: int = 64,
        resampler_ff_mult: int = 4,
        resampler_num_positions: int = 0,
        cross_attn_every_n_layers: int = 1,
        cross_attn_num_heads: int = 8,
        cross_attn_head_dim: int = 64,
        cross_attn_ff_mult: int = 4,
        cross_attn_gate_init: float = 0.0,
        freeze_vision: bool = True,
        freeze_text: bool = True,
        freeze_embeddings: bool = False,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        if cross_attn_every_n_layers < 1:
            raise ValueError(f"cross_attn_every_n_layers is at least 1, got {cross_attn_every_n_layers}")
        text_config = _as_config(text_config, default="gpt2")
        kwargs.setdefault("tie_word_embeddings", text_config.tie_word_embeddings)
        # First: with the parts in place, it would reset the attention implementation that their models have chosen.
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)
        self.vision_config = _as_config(vision_config, default="clip_vision_model")
        self.text_config = text_config
        self.image_token_id = image_token_id
        self.eoq_token_id = eoq_token_id
        self.resampler_depth = resampler_depth
        self.resampler_num_latents = resampler_num_latents
        self.resampler_num_heads = resampler_num_heads
        self.resampler_head_dim = resampler_head_dim
        self.resampler_ff_mult = resampler_ff_mult
        self.resampler_num_positions = resampler_num_positions
        self.cross_attn_every_n_layers = cross_attn_every_n_layers
        self.cross_attn_num_heads = cross_attn_num_heads
        self.cross_attn_head_dim = cross_attn_head_dim
        self.cross_attn_ff_mult = cross_attn_ff_mult
        self.cross_attn_gate_init = cross_attn_gate_init
        self.freeze_vision = freeze_vision
        self.freeze_text = freeze_text
        self.freeze_embeddings = freeze_embeddings
        self.initializer_range = initializer_range

    @property
    def vision_width(self) -> int:
        """Width of the image encoder's features; of a convolutional one, that of its last stage."""
        sizes = getattr(self.vision_config, "hidden_sizes", None)
        return sizes[-1] if sizes else self.vision_config.hidden_size


def _as_config(config: PretrainedConfig | dict | None, default: str) -> PretrainedConfig:
    """A configuration from a configuration, from its dict, or the default class's."""
    if isinstance(config, PretrainedConfig):
        return config
    config = dict(config or {})
    return AutoConfig.for_model(config.pop("model_type", default), **config)
