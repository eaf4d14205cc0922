"""FlamingoMedForConditionalGeneration: frozen image encoder and frozen decoder, joined as in the Flamingo paper."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from .configuration_flamingo_med import FlamingoMedConfig
from .cross_attention_flamingo_med import (
    FlamingoMedCrossAttentionHook,
    FlamingoMedGatedCrossAttention,
    latest_image_mask,
)
from .layers_flamingo_med import FlamingoMedGate
from .perceiver_flamingo_med import FlamingoMedPerceiverResampler

# Decoders whose layers pass keyword arguments on although their class does not say so.
DECODERS_KNOWN_TO_WORK = {"biogpt"}


@dataclass
class FlamingoMedOutput(ModelOutput):
    """What `FlamingoMedForConditionalGeneration` returns.

    Attributes:
        loss: cross entropy of the labelled tokens.
        logits: (b t v), or, where labels are given, (b k v) at the k positions that predict a labelled token of any
            row (a pass over the vocabulary costs more than a decoder layer).
        past_key_values: the decoder's cache.
        hidden_states: the decoder's hidden states, one (b t d) a layer, where asked for.
        image_states: (b g 2 a (n l) e) keys and values of the images, to pass to the next call.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    image_states: Tensor | None = None


class FlamingoMedPreTrainedModel(PreTrainedModel):
    """Weights: initialisation, loading and saving."""

    config_class = FlamingoMedConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["FlamingoMedPerceiverLayer", "FlamingoMedGatedCrossAttention"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FlamingoMedGate | FlamingoMedPerceiverResampler):
            module.reset_parameters()


class FlamingoMedForConditionalGeneration(FlamingoMedPreTrainedModel, GenerationMixin):
    """Flamingo (Alayrac et al. 2022): answers questions about images.

    Args:
        config: the configuration.
        vision_encoder: a pretrained image encoder of `config.vision_config`; random weights if not given.
        language_model: a pretrained causal LM of `config.text_config`; random weights if not given.

    Raises:
        ValueError: the decoder is of a kind that would never see the image, or special token ids are missing.
    """

    def __init__(
        self,
        config: FlamingoMedConfig,
        vision_encoder: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        if config.image_token_id is None:
            raise ValueError("image_token_id is missing: pass FlamingoMedConfig(…, **processor.token_ids)")
        self.vision_encoder = vision_encoder or AutoModel.from_config(config.vision_config)
        self.resampler = FlamingoMedPerceiverResampler(
            width=config.vision_width,
            depth=config.resampler_depth,
            num_latents=config.resampler_num_latents,
            num_heads=config.resampler_num_heads,
            head_dim=config.resampler_head_dim,
            ff_mult=config.resampler_ff_mult,
            num_positions=config.resampler_num_positions,
        )
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        decoder_layers = find_decoder_layers(self.language_model)
        self.cross_attn = nn.ModuleList(
            FlamingoMedGatedCrossAttention(
                width=config.text_config.hidden_size,
                media_width=config.vision_width,
                num_heads=config.cross_attn_num_heads,
                head_dim=config.cross_attn_head_dim,
                ff_mult=config.cross_attn_ff_mult,
                gate_init=config.cross_attn_gate_init,
            )
            for _ in decoder_layers[:: config.cross_attn_every_n_layers]
        )
        for i, layer in enumerate(decoder_layers):
            index, skipped = divmod(i, config.cross_attn_every_n_layers)
            hook = FlamingoMedCrossAttentionHook(None if skipped else self.cross_attn[index], index)
            layer.register_forward_pre_hook(hook, with_kwargs=True)
        self.post_init()
        # Tied weights stand once in a checkpoint; `Trainer` would warn that the other name is missing.
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)
        self.freeze()

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | PretrainedConfig, text: str | PretrainedConfig, *, vocab_size: int, **config
    ) -> "FlamingoMedForConditionalGeneration":
        """A new model from two pretrained ones, with fresh resampler and cross-attention.

        Args:
            vision: Hub id or local folder of an image encoder (of CLIP, its vision tower is taken), or a
                configuration for one with random weights.
            text: the same for a causal LM.
            vocab_size: size of the vocabulary with the special tokens.
            config: arguments of `FlamingoMedConfig`; at least the rest of `**processor.token_ids`.

        Returns:
            A model whose checkpoint holds all weights: loading it needs neither `vision` nor `text`.
        """
        if isinstance(text, PretrainedConfig):
            ids = {name: config[name] for name in ("eos_token_id", "pad_token_id")}
            text = type(text)(**{**text.to_dict(), "vocab_size": vocab_size, "bos_token_id": None, **ids})
        vision_encoder = _load(AutoModel, vision, part="vision_config")
        language_model = _load(AutoModelForCausalLM, text, part="text_config")
        if vocab_size > language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(vocab_size)
        config = FlamingoMedConfig(vision_encoder.config, language_model.config, **config)
        return cls(config, vision_encoder, language_model)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in `transformers`; what the configuration freezes is frozen in the loaded model too."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze()
        return loaded

    def freeze(self) -> None:
        """Stop the parts that the configuration freezes from learning."""
        if self.config.freeze_vision:
            self.vision_encoder.requires_grad_(False)
        if self.config.freeze_text:
            self.language_model.requires_grad_(False)
            for embeddings in (self.get_input_embeddings(), self.get_output_embeddings()):
                embeddings.requires_grad_(not self.config.freeze_embeddings)

    def train(self, mode: bool = True) -> "FlamingoMedForConditionalGeneration":
        """As in `torch`; frozen parts stay in evaluation mode, so that they have no dropout."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_encoder.eval()
        if self.config.freeze_text:
            self.language_model.eval()
        return self

    def parameter_summary(self) -> str:
        """A table of how many parameters each part has, and how many of them learn."""
        lines = [f"{'part':<16}{'parameters':>14}{'learning':>14}"]
        for name, part in [*self.named_children(), ("all", self)]:
            sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
            total, learning = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
            lines.append(f"{name:<16}{total:>14,}{learning:>14,}")
        return "\n".join(lines)

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's output layer."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder's output layer."""
        self.language_model.set_output_embeddings(value)

    def encode_images(self, pixel_values: Tensor, row_images: Tensor | None = None) -> Tensor:
        """Images → the keys and values that the decoder's gated layers attend to.

        Args:
            pixel_values: (b n c h w) the images of each row; rows with fewer than n are filled up with anything.
            row_images: (b n) where rows share images: the number, in `pixel_values` (m 1 c h w), of each image of
                each row. Every distinct image is then encoded once.

        Returns:
            (b g 2 a (n l) e)
        """
        if pixel_values.ndim != 5:
            raise ValueError(f"pixel_values must be (b n c h w), got {tuple(pixel_values.shape)}")
        n = pixel_values.shape[1]
        patches = self.vision_encoder(rearrange(pixel_values, "b n c h w -> (b n) c h w")).last_hidden_state
        if patches.ndim == 4:  # a convolutional encoder's map
            patches = rearrange(patches, "b d h w -> b (h w) d")
        latents = rearrange(self.resampler(patches), "(b n) l d -> b (n l) d", n=n)
        states = torch.stack([layer.attn.keys_values(latents) for layer in self.cross_attn], dim=1)
        if row_images is not None:
            # Not states[row_images], whose gradient is summed on CPUs in whatever order the threads come.
            states = states.index_select(0, row_images.flatten())
            states = rearrange(states, "(b n) g two a l e -> b g two a (n l) e", n=row_images.shape[1])
        return states

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        row_images: Tensor | None = None,
        image_states: Tensor | None = None,
        image_index: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> FlamingoMedOutput:
        """One pass, as in figure 3 of the paper.

        Args:
            input_ids: (b t) with one `<image>` token where each image stands.
            attention_mask: (b t) 0 on padding.
            position_ids: (b t)
            pixel_values, row_images: the images, see `encode_images`.
            image_states: (b g 2 a (n l) e) instead of `pixel_values`: images that are encoded already.
            image_index: (b t) how many images stand before or at each token; counted from `input_ids` by default.
            labels: (b t) token ids that the loss is taken of, -100 elsewhere.
            past_key_values, use_cache: the decoder's cache.
            logits_to_keep: only the last so many positions (0 for all), or these.
            kwargs: passed to the decoder; `num_items_in_batch` to the loss.
        """
        if pixel_values is not None:
            image_states = self.encode_images(pixel_values, row_images)
        if image_index is None:
            image_index = (input_ids == self.config.image_token_id).cumsum(-1)
        image_mask = None
        if image_states is not None:
            num_latents = self.config.resampler_num_latents
            image_mask = latest_image_mask(image_index, image_states.shape[-2] // num_latents, num_latents)

        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        if labels is not None:
            next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
            logits_to_keep = (next_labels != -100).any(0).nonzero().squeeze(1)
        outputs = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=False if labels is not None else use_cache,
            logits_to_keep=logits_to_keep,
            image_states=image_states,
            image_mask=image_mask,
            **kwargs,
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(
                outputs.logits,
                labels=None,
                shift_labels=next_labels[:, logits_to_keep],
                vocab_size=outputs.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        return FlamingoMedOutput(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            image_states=image_states,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        row_images: Tensor | None = None,
        image_states: Tensor | None = None,
        **kwargs,
    ) -> Tensor | ModelOutput:
        """As in `transformers`; images are encoded once, however many beams and tokens there are.

        Prompts of different lengths are padded on the left.
        """
        if pixel_values is not None:
            image_states = self.encode_images(pixel_values, row_images)
        return super().generate(inputs, image_states=image_states, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs) -> dict:
        """As in `transformers`, and how many images stand before each token of the whole text so far."""
        model_inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        image_index = (input_ids == self.config.image_token_id).cumsum(-1)
        model_inputs["image_index"] = image_index[:, -model_inputs["input_ids"].shape[1] :]
        return model_inputs


def find_decoder_layers(language_model: PreTrainedModel) -> nn.ModuleList:
    """The list of layers of a causal LM, whatever its class calls it.

    Raises:
        ValueError: a decoder that drops the keyword arguments that carry the image, or one without such a list.
    """
    config = language_model.config.get_text_config(decoder=True)
    kind = type(language_model).__name__
    if not language_model._supports_attention_backend and config.model_type not in DECODERS_KNOWN_TO_WORK:
        raise ValueError(f"{kind} does not hand keyword arguments to its layers, so it would never see the image")
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise ValueError(f"{kind} has no list of {config.num_hidden_layers} decoder layers to put cross-attention before")


def _load(auto_class: type, source: str | PretrainedConfig, part: str) -> PreTrainedModel:
    """Pretrained weights of a Hub id or folder, of its `part` where it is a model of several; or random ones."""
    if isinstance(source, PretrainedConfig):
        return auto_class.from_config(source)
    config = AutoConfig.from_pretrained(source)
    # In one precision, whatever each was stored in; `from_pretrained(dtype=…)` and autocast choose another for all.
    return auto_class.from_pretrained(source, config=getattr(config, part, config), dtype=torch.float32)
