"""FlamingoMedConfig: everything that shapes the model, and which parts of it learn."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.activations import ACT2FN

FEATURE_SELECTIONS = ("full", "patch", "pooled")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")
LEARNING_EMBEDDINGS = ("all", "new", "none")


class FlamingoMedConfig(PretrainedConfig):
    """Configuration of `FlamingoMedForConditionalGeneration`.

    Args:
        vision_config: configuration (or its dict with `model_type`) of any `transformers` image encoder.
        text_config: configuration (or its dict with `model_type`) of any supported `transformers` causal LM; its
            vocabulary includes the special tokens.
        image_token_id: id of `<image>`, or of the first of its tokens, which marks where an image stands in the text.
        eoq_token_id: id of `<EOQ>`, the end of a question, where the classification head reads; None where a tokenizer
            has none, and the head reads at the end of the prompt.
        eos_token_id: id of `<EOC>`, the end of a chunk (an answer or a report); generation stops there.
        pad_token_id: id of the padding token.
        vision_feature_layer: the layer of the image encoder whose features are taken; -1 for its output, -2 for the
            last but one layer, and so on.
        vision_feature_select: "full" for all its tokens; "patch" for those of patches, without a class token; "pooled"
            for its one pooled vector (of CLIP: projected), as a single visual token.
        resampler_depth: number of Perceiver layers.
        resampler_num_latents: number of latents, the visual tokens that the decoder sees of one image.
        resampler_num_heads: attention heads of the resampler.
        resampler_head_dim: width of one of them.
        resampler_ff_mult: feed-forward width over the width of the image encoder.
        resampler_act: its activation, by its name in `transformers`.
        resampler_qk_norm: LayerNorm of its queries and keys in each head.
        resampler_num_positions: patches of an image, to learn an embedding of each one's place, as a convolutional
            encoder needs; 0 for encoders that know places, as vision transformers do.
        resampler_max_frames: the most frames of an image, such as the views of a study; with more than one, each has a
            learned time embedding.
        resampler_max_images: the most images of a row, each with a learned embedding of its number in the row; 0 for
            images that are encoded alike wherever they stand.
        cross_attn_every_n_layers: a gated cross-attention stands before every n-th decoder layer,
        cross_attn_first_layer: from this one on, counted from 0.
        cross_attn_num_heads: attention heads of a gated cross-attention.
        cross_attn_head_dim: width of one of them.
        cross_attn_ff_mult: feed-forward width over the width of the decoder.
        cross_attn_act: its activation, by its name in `transformers`.
        cross_attn_gated_ff: the activation of one projection gates another, as in Llama.
        cross_attn_qk_norm: norm of its queries and keys in each head.
        cross_attn_rms_norm_eps: its norms are RMSNorms with this epsilon; LayerNorms where None.
        cross_attn_gate_init: where the gates' α starts. At 0 a fresh model is the plain decoder, which protects what a
            pretrained one knows; a decoder that starts from random weights learns to look sooner with open gates.
        cross_attn_latest_only: a token sees the latest image before it; otherwise all images before it.
        classification_dropout: of the classification head, which is there where `num_labels` (or `id2label`) is given.
            With `problem_type="multi_label_classification"`, classes are independent of each other.
        classification_label_smoothing: of its loss, in [0, 1].
        classification_loss_weight: its loss times this is added to the loss of the answer.
        use_image_embeddings: the head sees the mean latent of the question's image too.
        freeze_vision: the image encoder does not learn.
        freeze_text: the decoder does not learn, its token embeddings apart.
        train_embeddings: which token embeddings learn, where `freeze_text` holds: "all", "new" (only the rows from the
            first special token on), or "none".
        initializer_range: standard deviation of the initial weights of resampler, cross-attention and head.
        backbones: {"vision" | "text": {"name", "revision"}}, where the pretrained parts came from.
        backbones_saved: the checkpoint holds the weights of both; otherwise they are loaded from `backbones`.

    Raises:
        ValueError: a value out of its range.

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
        vision_feature_layer: int = -1,
        vision_feature_select: str = "full",
        resampler_depth: int = 6,
        resampler_num_latents: int = 64,
        resampler_num_heads: int = 8,
        resampler_head_dim: int = 64,
        resampler_ff_mult: float = 4,
        resampler_act: str = "gelu",
        resampler_qk_norm: bool = False,
        resampler_num_positions: int = 0,
        resampler_max_frames: int = 1,
        resampler_max_images: int = 0,
        cross_attn_every_n_layers: int = 1,
        cross_attn_first_layer: int = 0,
        cross_attn_num_heads: int = 8,
        cross_attn_head_dim: int = 64,
        cross_attn_ff_mult: float = 4,
        cross_attn_act: str = "gelu",
        cross_attn_gated_ff: bool = False,
        cross_attn_qk_norm: bool = False,
        cross_attn_rms_norm_eps: float | None = None,
        cross_attn_gate_init: float = 0.0,
        cross_attn_latest_only: bool = True,
        num_labels: int | None = None,
        id2label: dict | None = None,
        problem_type: str | None = None,
        classification_dropout: float = 0.1,
        classification_label_smoothing: float = 0.0,
        classification_loss_weight: float = 1.0,
        use_image_embeddings: bool = False,
        freeze_vision: bool = True,
        freeze_text: bool = True,
        train_embeddings: str = "all",
        initializer_range: float = 0.02,
        backbones: dict[str, dict[str, Any]] | None = None,
        backbones_saved: bool = True,
        **kwargs,
    ):
        _check("vision_feature_select", vision_feature_select, FEATURE_SELECTIONS)
        _check("train_embeddings", train_embeddings, LEARNING_EMBEDDINGS)
        if vision_feature_select == "pooled" and vision_feature_layer != -1:
            raise ValueError(f"the pooled vector is the encoder's output, not of layer {vision_feature_layer}")
        if not freeze_text and train_embeddings != "all":
            raise ValueError(f"train_embeddings={train_embeddings!r} needs freeze_text: the whole decoder learns")
        for name, value in (
            ("resampler_max_frames", resampler_max_frames),
            ("cross_attn_every_n_layers", cross_attn_every_n_layers),
        ):
            if value < 1:
                raise ValueError(f"{name} is at least 1, got {value}")

        for name, act in (("resampler_act", resampler_act), ("cross_attn_act", cross_attn_act)):
            if act not in ACT2FN:
                raise ValueError(f"{name} is an activation of transformers, such as gelu or relu, got {act!r}")

        text_config = _as_config(text_config, default="gpt2")
        if not 0 <= cross_attn_first_layer < text_config.num_hidden_layers:
            layers = text_config.num_hidden_layers
            raise ValueError(f"cross_attn_first_layer is one of the decoder's {layers}, got {cross_attn_first_layer}")
        kwargs.setdefault("tie_word_embeddings", text_config.tie_word_embeddings)
        if id2label and num_labels not in (None, len(id2label)):
            raise ValueError(f"num_labels is {num_labels}, but id2label names {len(id2label)}")
        if not 0 <= classification_label_smoothing <= 1:
            raise ValueError(f"classification_label_smoothing is from 0 to 1, got {classification_label_smoothing}")
        names = id2label or {i: f"LABEL_{i}" for i in range(num_labels or 0)}
        id2label = {int(i): name for i, name in names.items()}
        kwargs["label2id"] = {name: i for i, name in id2label.items()}
        if id2label:
            problem_type = problem_type or PROBLEM_TYPES[0]
            _check("problem_type", problem_type, PROBLEM_TYPES)
        # First: with the parts in place, it would reset the attention implementation that their models have chosen.
        super().__init__(
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            id2label=id2label,
            problem_type=problem_type,
            **kwargs,
        )
        self.vision_config = _as_config(vision_config, default="clip_vision_model")
        self.text_config = text_config
        self.image_token_id = image_token_id
        self.eoq_token_id = eoq_token_id
        self.vision_feature_layer = vision_feature_layer
        self.vision_feature_select = vision_feature_select
        self.resampler_depth = resampler_depth
        self.resampler_num_latents = resampler_num_latents
        self.resampler_num_heads = resampler_num_heads
        self.resampler_head_dim = resampler_head_dim
        self.resampler_ff_mult = resampler_ff_mult
        self.resampler_act = resampler_act
        self.resampler_qk_norm = resampler_qk_norm
        self.resampler_num_positions = resampler_num_positions
        self.resampler_max_frames = resampler_max_frames
        self.resampler_max_images = resampler_max_images
        self.cross_attn_every_n_layers = cross_attn_every_n_layers
        self.cross_attn_first_layer = cross_attn_first_layer
        self.cross_attn_num_heads = cross_attn_num_heads
        self.cross_attn_head_dim = cross_attn_head_dim
        self.cross_attn_ff_mult = cross_attn_ff_mult
        self.cross_attn_act = cross_attn_act
        self.cross_attn_gated_ff = cross_attn_gated_ff
        self.cross_attn_qk_norm = cross_attn_qk_norm
        self.cross_attn_rms_norm_eps = cross_attn_rms_norm_eps
        self.cross_attn_gate_init = cross_attn_gate_init
        self.cross_attn_latest_only = cross_attn_latest_only
        self.classification_dropout = classification_dropout
        self.classification_label_smoothing = classification_label_smoothing
        self.classification_loss_weight = classification_loss_weight
        self.use_image_embeddings = use_image_embeddings
        self.freeze_vision = freeze_vision
        self.freeze_text = freeze_text
        self.train_embeddings = train_embeddings
        self.initializer_range = initializer_range
        self.backbones = backbones or {}
        self.backbones_saved = backbones_saved

    @property
    def vision_width(self) -> int:
        """Width of the image encoder's features; of a convolutional one, that of its last stage."""
        if self.vision_feature_select == "pooled" and self.vision_config.model_type == "clip_vision_model":
            return self.vision_config.projection_dim
        sizes = getattr(self.vision_config, "hidden_sizes", None)
        return sizes[-1] if sizes else self.vision_config.hidden_size

    @property
    def first_new_token_id(self) -> int:
        """Where the special tokens begin, which a processor puts behind a tokenizer's own."""
        ids = (self.image_token_id, self.eoq_token_id, self.eos_token_id)
        return min(i for i in ids if i is not None)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}, got {value!r}")


def _as_config(config: PretrainedConfig | dict | None, default: str) -> PretrainedConfig:
    """A configuration from a configuration, from its dict, or the default class's."""
    if isinstance(config, PretrainedConfig):
        return config
    config = dict(config or {})
    return AutoConfig.for_model(config.pop("model_type", default), **config)
