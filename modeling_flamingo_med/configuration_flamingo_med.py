"""FlamingoMedConfig: everything that shapes the model, and which parts of it are trained."""

import inspect
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.activations import ACT2FN

FEATURE_SELECTIONS = ("full", "patch", "pooled")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")
TRAINABLE_EMBEDDINGS = ("all", "new", "none")


@strict
class FlamingoMedConfig(PretrainedConfig):
    """Configuration of `FlamingoMedForConditionalGeneration`: each setting with its type, default and meaning.

    All are given by name; `num_labels` too, which gives a classification head classes without names.

    Raises:
        ValueError: a value out of its range.
        StrictDataclassFieldValidationError: a value of another type.

    Defaults follow Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning" (arXiv:2204.14198).

    >>> config = FlamingoMedConfig(text_config={"model_type": "llama"}, cross_attn_every_n_layers=4, num_labels=3)
    >>> config.text_config.num_hidden_layers, config.vision_width, config.id2label[2]
    (32, 768, 'LABEL_2')
    >>> FlamingoMedConfig(train_embeddings="some")
    Traceback (most recent call last):
    ValueError: train_embeddings is one of all, new, none, got 'some'
    """

    model_type = "flamingo_med"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (as transformers reads it)
    # What a trainer does not gather as predictions, of all that the model returns.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "past_key_values",
        "cache",
        "hidden_states",
        "attentions",
        "image_key_values",
        "cross_attentions",
        "resampler_attentions",
    ]

    vision_config: PretrainedConfig | dict | None = None
    """Configuration (or its dict with `model_type`) of any `transformers` image encoder; CLIP's where None."""
    text_config: PretrainedConfig | dict | None = None
    """Configuration (or its dict with `model_type`) of any supported `transformers` causal LM, whose vocabulary
    includes the special tokens; GPT-2's where None."""

    image_token_id: int | None = None
    """Id of `<image>`, or of the first of its tokens, which marks where an image stands in the text."""
    eoq_token_id: int | None = None
    """Id of `<EOQ>`, the end of a question, where the classification head reads; None where a tokenizer has none, and
    the head reads at the end of the prompt."""
    eos_token_id: int | None = None
    """Id of `<EOC>`, the end of a chunk (an answer or a report); generation stops there."""
    pad_token_id: int | None = None
    """Id of the padding token."""

    vision_feature_layer: int = -1
    """The layer of the image encoder whose features are taken; -1 for its output, -2 for the last but one layer, and
    so on."""
    vision_feature_select: str = "full"
    """"full" for all tokens of the image encoder; "patch" for those of patches, without a class token; "pooled" for
    its one pooled vector (of CLIP: projected), as a single visual token."""

    resampler_depth: int = 6
    """Number of Perceiver layers."""
    resampler_num_latents: int = 64
    """Number of latents, the visual tokens that the decoder sees of one image."""
    resampler_num_heads: int = 8
    """Attention heads of the resampler."""
    resampler_head_dim: int = 64
    """Width of one of them."""
    resampler_ff_mult: float | int = 4
    """Feed-forward width over the width of the image encoder."""
    resampler_act: str = "gelu"
    """Activation of the feed-forward, by its name in `transformers`."""
    resampler_qk_norm: bool = False
    """LayerNorm of queries and keys in each head."""
    resampler_num_positions: int = 0
    """Patches of an image, to learn an embedding of each one's position, as a convolutional encoder needs; 0 for
    encoders that know positions, as vision transformers do."""
    resampler_max_frames: int = 1
    """The most frames of an image, such as the views of a study; with more than one, each has a learned time
    embedding."""
    resampler_max_images: int = 0
    """The most images of a row, each with a learned embedding of its number in the row; 0 for images that are encoded
    alike wherever they stand."""

    cross_attn_every_n_layers: int = 1
    """A gated cross-attention stands before every n-th decoder layer."""
    cross_attn_first_layer: int = 0
    """The first decoder layer with one before it, counted from 0."""
    cross_attn_num_heads: int = 8
    """Attention heads of a gated cross-attention."""
    cross_attn_head_dim: int = 64
    """Width of one of them."""
    cross_attn_ff_mult: float | int = 4
    """Feed-forward width over the width of the decoder."""
    cross_attn_act: str = "gelu"
    """Activation of the feed-forward, by its name in `transformers`."""
    cross_attn_gated_ff: bool = False
    """The activation of one projection gates another, as in Llama."""
    cross_attn_qk_norm: bool = False
    """Norm of queries and keys in each head."""
    cross_attn_rms_norm_eps: float | None = None
    """The norms are RMSNorms with this epsilon; LayerNorms where None."""
    cross_attn_gate_init: float | int = 0.0
    """Initial value of the gates' α. At 0 a fresh model is the plain decoder, which protects what a pretrained one
    knows; a randomly initialised decoder learns to use the image sooner with open gates."""
    cross_attn_latest_only: bool = True
    """A token sees the latest image before it; otherwise all images before it."""

    id2label: dict | None = None
    """Names of the classes by their ids; with any there is a classification head."""
    problem_type: str | None = None
    """"single_label_classification" (where None, of a model with a head), or "multi_label_classification", whose
    classes are independent of each other."""
    classification_dropout: float | int = 0.1
    """Dropout of the classification head."""
    classification_label_smoothing: float | int = 0.0
    """Label smoothing of its loss, in [0, 1]."""
    classification_loss_weight: float | int = 1.0
    """Its loss times this is added to the loss of the answer."""
    use_image_embeddings: bool = False
    """The head sees the mean latent of the question's image too."""

    freeze_vision: bool = True
    """The image encoder is frozen."""
    freeze_text: bool = True
    """The decoder is frozen, its token embeddings apart."""
    train_embeddings: str = "all"
    """Which token embeddings are trained, where `freeze_text` holds: "all", "new" (only the rows from the first
    special token on), or "none"."""
    initializer_range: float | int = 0.02
    """Standard deviation of the initial weights of resampler, cross-attention and head."""

    backbones: dict | None = None
    """{"vision" | "text": {"name", "revision"}}, where the pretrained parts came from."""
    backbones_saved: bool = True
    """The checkpoint holds the weights of both; otherwise they are loaded from `backbones`."""

    def __post_init__(self, num_labels: int | None = None, **kwargs):
        self.vision_config = _as_config(self.vision_config, default="clip_vision_model")
        self.text_config = _as_config(self.text_config, default="gpt2")
        self.backbones = self.backbones or {}
        self._set_labels(num_labels)
        self._check_ranges()
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        for name in ("attn_implementation", "experts_implementation"):
            kwargs.setdefault(name, {})  # nothing else than what the models of the two parts have chosen
        super().__post_init__(**kwargs)

    def _set_labels(self, num_labels: int | None) -> None:
        if self.id2label and num_labels not in (None, len(self.id2label)):
            raise ValueError(f"num_labels is {num_labels}, but id2label names {len(self.id2label)}")
        names = self.id2label or {i: f"LABEL_{i}" for i in range(num_labels or 0)}
        self.id2label = {int(i): name for i, name in names.items()}  # JSON has made their ids strings
        self.label2id = {name: i for i, name in self.id2label.items()}
        if self.id2label:
            self.problem_type = self.problem_type or PROBLEM_TYPES[0]
            _check("problem_type", self.problem_type, PROBLEM_TYPES)

    def _check_ranges(self) -> None:
        _check("vision_feature_select", self.vision_feature_select, FEATURE_SELECTIONS)
        _check("train_embeddings", self.train_embeddings, TRAINABLE_EMBEDDINGS)
        if self.vision_feature_select == "pooled" and self.vision_feature_layer != -1:
            raise ValueError(f"the pooled vector is the encoder's output, not of layer {self.vision_feature_layer}")
        if not self.freeze_text and self.train_embeddings != "all":
            raise ValueError(
                f"train_embeddings={self.train_embeddings!r} needs freeze_text: the whole decoder is trained"
            )
        for name in ("resampler_max_frames", "cross_attn_every_n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        for name in ("resampler_act", "cross_attn_act"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(
                    f"{name} is an activation of transformers, such as gelu or relu, got {getattr(self, name)!r}"
                )
        first, layers = self.cross_attn_first_layer, self.text_config.num_hidden_layers
        if not 0 <= first < layers:
            raise ValueError(f"cross_attn_first_layer is one of the decoder's {layers}, got {first}")
        smoothing = self.classification_label_smoothing
        if not 0 <= smoothing <= 1:
            raise ValueError(f"classification_label_smoothing is from 0 to 1, got {smoothing}")

    def to_diff_dict(self) -> dict[str, Any]:
        """As in `transformers`, which would leave out two classes without names, and with them the head."""
        return {**super().to_diff_dict(), "id2label": self.id2label}

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """The settings by name, with their types.

        >>> FlamingoMedConfig.settings()["resampler_depth"]
        <class 'int'>
        """
        return {**inspect.get_annotations(cls), "num_labels": int | None}

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
