"""FlamingoMedForConditionalGeneration: frozen image encoder and frozen decoder, joined as in the Flamingo paper."""

import copy
import inspect
import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from .backbones_flamingo_med import (
    DECODERS_THAT_DROP_KEYWORDS,
    HUB_ARGUMENTS,
    backbone_weights,
    checkpoint_weights,
    find_decoder_layers,
    image_features,
    load_language_model,
    load_vision_encoder,
    make_room,
    reference,
    stay_without_dropout,
)
from .classification_flamingo_med import FlamingoMedClassificationHead, classification_loss, question_end
from .configuration_flamingo_med import FlamingoMedConfig
from .cross_attention_flamingo_med import (
    FlamingoMedCrossAttentionHook,
    FlamingoMedGatedCrossAttention,
    carried,
    check_images,
    image_mask,
    packed_mask,
)
from .embeddings_flamingo_med import FlamingoMedNewTokens, FlamingoMedNewTokensHook
from .layers_flamingo_med import FlamingoMedGate
from .perceiver_flamingo_med import FlamingoMedPerceiverResampler


@dataclass
class FlamingoMedOutput(ModelOutput):
    """What `FlamingoMedForConditionalGeneration` returns.

    Attributes:
        loss: cross entropy of the labelled tokens, and the weighted loss of the classes, where labels are given.
        logits: (b t v), or, where labels are given, (b k v) at the k positions that predict a labelled token of any
            row (a pass over the vocabulary costs more than a decoder layer).
        class_logits: (b num_labels), where the model has a head and sees the images themselves.
        past_key_values: the decoder's cache.
        hidden_states: the decoder's hidden states, one (b t d) a layer, where asked for.
        attentions: the decoder's own attention weights, where asked for.
        image_states: (b g 2 a (n l) e) keys and values of the images, to pass to the next call, with `image_index`.
        cross_attentions: g attention weights (b a t (n l)) of tokens over latents, where asked for.
        resampler_attentions: attention weights (m a l (f p + l)) of latents over patches and latents, one of each
            resampler layer, m all images one after the other, where asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    class_logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_states: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    resampler_attentions: tuple[Tensor, ...] | None = None


class FlamingoMedPreTrainedModel(PreTrainedModel):
    """Weights: initialisation, loading and saving."""

    config_class = FlamingoMedConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["FlamingoMedPerceiverLayer", "FlamingoMedGatedCrossAttention"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FlamingoMedGate | FlamingoMedPerceiverResampler):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *args, config: FlamingoMedConfig | None = None, **kwargs):
        """As in `transformers`; what the configuration freezes is frozen in the loaded model too.

        A checkpoint that was saved without its backbones gets their weights from where they came from.
        """
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        if config is None:
            known = inspect.signature(FlamingoMedConfig.__init__).parameters
            settings = {key: kwargs.pop(key) for key in list(kwargs) if key in known}
            config = FlamingoMedConfig.from_pretrained(name, **hub, **settings)
        wants_info = kwargs.pop("output_loading_info", False)
        if config.backbones_saved:
            model, info = super().from_pretrained(name, *args, config=config, output_loading_info=True, **kwargs)
        else:
            kwargs["state_dict"] = backbone_weights(config) | checkpoint_weights(name, **hub)
            config = copy.deepcopy(config)
            config.backbones_saved = True
            model, info = super().from_pretrained(None, *args, config=config, output_loading_info=True, **kwargs)
            model.name_or_path = str(name)
            with suppress(OSError):  # a checkpoint without one generates as the model does by default
                model.generation_config = GenerationConfig.from_pretrained(name, **hub)
        if any(key.startswith("new_tokens.") for key in info["unexpected_keys"]):
            raise ValueError(f"{name} has learned its new tokens apart: load it with train_embeddings='new'")
        if any(key.startswith("new_tokens.") for key in info["missing_keys"]):
            model.new_tokens.begin_as(model.get_input_embeddings(), model.get_output_embeddings())
        model.freeze()
        return (model, info) if wants_info else model

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args, save_backbones: bool = True, state_dict=None, **kwargs
    ) -> None:
        """As in `transformers`.

        Args:
            save_backbones: without, only what is ours or differs from the pretrained parts is written, and where those
                came from; saving and `from_pretrained` then need them too.

        Raises:
            ValueError: a part that would not be saved began with random weights.
        """
        if save_backbones:
            super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
            return
        for part in ("vision", "text"):
            if part not in self.config.backbones:
                raise ValueError(f"the {part} part began with random weights; save it too: save_backbones=True")
        ours = self.changed_weights(self.state_dict() if state_dict is None else state_dict)
        self.config.backbones_saved = False
        try:
            super().save_pretrained(save_directory, *args, state_dict=ours, **kwargs)
        finally:
            self.config.backbones_saved = True


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
        select = config.vision_feature_select
        self.vision_encoder = vision_encoder or load_vision_encoder(config.vision_config, select)
        self.resampler = FlamingoMedPerceiverResampler(
            width=config.vision_width,
            depth=config.resampler_depth,
            num_latents=config.resampler_num_latents,
            num_heads=config.resampler_num_heads,
            head_dim=config.resampler_head_dim,
            ff_mult=config.resampler_ff_mult,
            num_positions=config.resampler_num_positions,
            max_frames=config.resampler_max_frames,
        )
        self.language_model = language_model or load_language_model(config.text_config)
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
        self.drops_keywords = config.text_config.model_type in DECODERS_THAT_DROP_KEYWORDS
        for i, layer in enumerate(decoder_layers):
            index, skipped = divmod(i, config.cross_attn_every_n_layers)
            hook = FlamingoMedCrossAttentionHook(self.cross_attn, None if skipped else index, self.drops_keywords)
            layer.register_forward_pre_hook(hook, with_kwargs=True)
        inputs, outputs = self.get_input_embeddings(), self.get_output_embeddings()
        if config.train_embeddings == "new":
            tied = config.text_config.tie_word_embeddings
            self.new_tokens = FlamingoMedNewTokens(inputs, outputs, config.first_new_token_id, tied)
            inputs.register_forward_hook(FlamingoMedNewTokensHook(self, "embed"))
            outputs.register_forward_hook(FlamingoMedNewTokensHook(self, "unembed"))
        if config.num_labels:
            self.classifier = FlamingoMedClassificationHead(
                width=outputs.weight.shape[1],
                image_width=config.vision_width if config.use_image_embeddings else 0,
                num_labels=config.num_labels,
                dropout=config.classification_dropout,
            )
        self.post_init()
        # Tied weights stand once in a checkpoint; `Trainer` would warn that the other name is missing.
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)
        self.generation_config.use_cache = True  # MPT's is off
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
        vision_encoder = load_vision_encoder(vision, config.get("vision_feature_select", "full"))
        language_model = load_language_model(text)
        make_room(language_model, vocab_size)
        parts = {"vision": (vision, vision_encoder), "text": (text, language_model)}
        backbones = {part: reference(name, model) for part, (name, model) in parts.items() if isinstance(name, str)}
        config = FlamingoMedConfig(vision_encoder.config, language_model.config, backbones=backbones, **config)
        return cls(config, vision_encoder, language_model)

    def freeze(self) -> None:
        """Stop the parts that the configuration freezes from learning."""
        if self.config.freeze_vision:
            self.vision_encoder.requires_grad_(False)
        if self.config.freeze_text:
            self.language_model.requires_grad_(False)
            for embeddings in (self.get_input_embeddings(), self.get_output_embeddings()):
                embeddings.requires_grad_(self.config.train_embeddings == "all")

    def train(self, mode: bool = True) -> "FlamingoMedForConditionalGeneration":
        """As in `torch`; frozen parts stay in evaluation mode, so that they have no dropout."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_encoder.eval()
        if self.config.freeze_text:
            stay_without_dropout(self.language_model, mode)
        return self

    def changed_weights(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a state dict that cannot be had from the backbones: what is ours, and what differs from them."""
        start = self.config.first_new_token_id
        inputs, outputs = self.get_input_embeddings().weight, self.get_output_embeddings().weight
        rows = {name for name, p in self.named_parameters(remove_duplicate=False) if p is inputs or p is outputs}

        def differs(name: str, weight: Tensor, origin: Tensor) -> bool:
            if name in rows and self.config.train_embeddings == "new":  # from `start` on they are never used
                weight, origin = weight[:start], origin[:start]
            return not torch.equal(weight.cpu(), origin.to(weight.dtype))

        origins = backbone_weights(self.config)
        return {
            name: weight
            for name, weight in state_dict.items()
            if name not in origins or differs(name, weight, origins[name])
        }

    def parameter_summary(self) -> str:
        """A table of how many parameters each part has, and how many of them learn or are frozen."""

        def count(p: nn.Parameter) -> int:
            return p.numel() * (2 if type(p).__name__ == "Params4bit" else 1)  # bitsandbytes packs two in one

        lines = [f"{'part':<16}{'parameters':>16}{'learning':>16}{'frozen':>16}"]
        for name, part in [*self.named_children(), ("all", self)]:
            sizes = [(count(p), p.requires_grad) for p in part.parameters()]
            total, learning = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
            lines.append(f"{name:<16}{total:>16,}{learning:>16,}{total - learning:>16,}")
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

    def image_features(self, pixels: Tensor) -> Tensor:
        """What the image encoder makes of images: (m c h w) → (m p d); a frozen one always makes the same of them."""
        layer, select = self.config.vision_feature_layer, self.config.vision_feature_select
        return image_features(self.vision_encoder, pixels, layer, select)

    def encode_images(
        self,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Images → latents, the visual tokens.

        Args:
            pixel_values: (b n c h w) the images of each row; rows with fewer than n are filled up with anything. Or
                (b n f c h w): each image has f frames, such as the views of a study.
            frame_mask: (b n f) False on frames that only fill up.
            image_features: (b n f p d) instead of the pixels, of each frame what `image_features` returned.
            maps: where given, each resampler layer appends its attention weights.

        Returns:
            (b n l d)

        Raises:
            ValueError: pixels, features or mask of another shape.
        """
        if image_features is None:
            if pixel_values.ndim == 5:
                pixel_values = pixel_values.unsqueeze(2)
            if pixel_values.ndim != 6:
                shape = tuple(pixel_values.shape)
                raise ValueError(f"pixel_values must be (b n c h w), or (b n f c h w) with frames, got {shape}")
            b, n, f = pixel_values.shape[:3]
            features = self.image_features(rearrange(pixel_values, "b n f c h w -> (b n f) c h w"))
            image_features = rearrange(features, "(b n f) p d -> b n f p d", b=b, n=n)
        elif image_features.ndim != 5:
            raise ValueError(f"image_features must be (b n f p d), got {tuple(image_features.shape)}")
        b, n, f = image_features.shape[:3]
        if frame_mask is not None:
            if frame_mask.shape != (b, n, f):
                raise ValueError(f"frame_mask must be (b n f) {(b, n, f)}, got {tuple(frame_mask.shape)}")
            frame_mask = rearrange(frame_mask.bool(), "b n f -> (b n) f")
        latents = self.resampler(rearrange(image_features, "b n f p d -> (b n) f p d"), frame_mask, maps)
        return rearrange(latents, "(b n) l d -> b n l d", n=n)

    def latents_to_states(self, image_latents: Tensor, row_images: Tensor | None = None) -> Tensor:
        """Latents → the keys and values that the gated layers attend to.

        Args:
            image_latents: (b n l d)
            row_images: (b n) where rows share images: the number, in `image_latents` (m 1 l d), of each image of each
                row. Every distinct image is then encoded once.

        Returns:
            (b g 2 a (n l) e)
        """
        latents = rearrange(image_latents, "b n l d -> b (n l) d")
        # Spread over several devices, each layer answers on its own.
        states = [layer.attn.keys_values(latents).to(latents.device) for layer in self.cross_attn]
        states = torch.stack(states, dim=1)
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
        frame_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        image_latents: Tensor | None = None,
        row_images: Tensor | None = None,
        image_states: Tensor | None = None,
        image_index: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        labels: Tensor | None = None,
        class_labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_cross_attentions: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> FlamingoMedOutput:
        """One pass, as in figure 3 of the paper.

        Args:
            input_ids: (b t) with one `<image>` token where each image stands.
            attention_mask: (b t) 0 on padding.
            position_ids: (b t) counted from `attention_mask` by default.
            pixel_values, frame_mask, image_features: the images, see `encode_images`.
            image_latents: (b n l d) instead of them, as `encode_images` returns them.
            row_images: (b n) which rows share images, see `latents_to_states`.
            image_states: (b g 2 a (n l) e) instead of both, as `latents_to_states` returns them.
            image_index: (b t) how many images stand before or at each token; counted from `input_ids` by default. With
                a filled cache `input_ids` are not all there, so it must be given.
            sequence_ids: (1 t) where several sequences are packed into one row without padding: which one each token
                belongs to. `position_ids` begin anew in each, and `image_index` says which of the row's n images each
                token sees, from 1 on, 0 for none.
            labels: (b t) token ids that the loss is taken of, -100 elsewhere.
            class_labels: (b) or (b num_labels), see `classification_loss`.
            past_key_values, use_cache: the decoder's cache.
            logits_to_keep: only the last so many positions (0 for all), or these; with `labels`, those that they need.
            output_cross_attentions: return the attention weights of gated layers and resampler.
            output_hidden_states: return the decoder's hidden states.
            kwargs: passed to the decoder; `num_items_in_batch` (labelled tokens) and `num_classes_in_batch` (known
                classes) to the losses, where those of several batches are added up.

        Raises:
            ValueError: shapes that do not fit, more `<image>` tokens than images, or class labels without a head.
        """
        explicit = output_cross_attentions or self.config._attn_implementation == "eager"
        resampler_maps, cross_maps = ([], []) if explicit else (None, None)
        if pixel_values is not None or image_features is not None:
            image_latents = self.encode_images(pixel_values, frame_mask, image_features, resampler_maps)
        if image_latents is not None:
            image_states = self.latents_to_states(image_latents, row_images)
        if sequence_ids is not None:
            attention_mask = packed_mask(sequence_ids, self.dtype)
        elif position_ids is None and attention_mask is not None:  # padding on the left takes no positions
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        num_latents = self.config.resampler_num_latents
        if image_index is None:
            if past_key_values is not None and past_key_values.get_seq_length() > 0:
                raise ValueError("with a filled cache, image_index must say how many images stand before each token")
            image_index = (input_ids == self.config.image_token_id).cumsum(-1)
            check_images(image_index, image_states, num_latents)
        mask = None
        if image_states is not None:
            num_images = image_states.shape[-2] // num_latents
            mask = image_mask(image_index, num_images, num_latents, self.config.cross_attn_latest_only)

        if labels is not None:
            next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
            # Which positions those are depends on the data, so a compiled graph takes all.
            every = torch.compiler.is_compiling()
            logits_to_keep = slice(None) if every else (next_labels != -100).any(0).nonzero().squeeze(1)
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        num_classes_in_batch = kwargs.pop("num_classes_in_batch", None)
        return_dict = kwargs.pop("return_dict", True)
        classifies = self.config.num_labels > 0 and image_latents is not None
        images = {"image_states": image_states, "image_mask": mask, "cross_attention_maps": cross_maps}
        with carried(images) if self.drops_keywords else nullcontext():
            outputs = self.language_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=False if labels is not None else use_cache,
                logits_to_keep=0 if isinstance(logits_to_keep, slice) else logits_to_keep,
                output_hidden_states=output_hidden_states or classifies,
                **({} if self.drops_keywords else images),
                **kwargs,
            )

        loss = class_logits = None
        if labels is not None and outputs.logits.shape[1] == 0:  # no answer to learn from
            loss = outputs.logits.sum()
        elif labels is not None:
            loss = self.loss_function(
                outputs.logits,
                labels=None,
                shift_labels=next_labels[:, logits_to_keep],
                vocab_size=outputs.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        if classifies:
            places = question_end(input_ids, attention_mask, labels, sequence_ids, self.config.eoq_token_id)
            class_logits = self.classify(outputs.hidden_states[-1], places, image_latents, row_images, image_index)
        if class_labels is not None:
            class_loss = self._class_loss(class_logits, class_labels, num_classes_in_batch)
            loss = class_loss if loss is None else loss + class_loss
        output = FlamingoMedOutput(
            loss=loss,
            logits=outputs.logits,
            class_logits=class_logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.get("attentions"),
            image_states=image_states,
            cross_attentions=tuple(cross_maps) if output_cross_attentions else None,
            resampler_attentions=tuple(resampler_maps) if output_cross_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def classify(
        self,
        states: Tensor,
        places: tuple[Tensor, Tensor],
        image_latents: Tensor,
        row_images: Tensor | None,
        image_index: Tensor,
    ) -> Tensor:
        """The head on the last hidden states (b t d) at `places`, rows (b) and positions (b) → (b num_labels)."""
        image = None
        if self.config.use_image_embeddings:
            image = image_latents.mean(2)  # (b n d)
            if row_images is not None:
                image = image.squeeze(1).index_select(0, row_images.flatten()).unflatten(0, row_images.shape)
            image = image[places[0], (image_index[places] - 1).clamp(min=0)]
        return self.classifier(states[places], image)

    def _class_loss(self, logits: Tensor | None, class_labels: Tensor, num_classes_in_batch: Tensor | None) -> Tensor:
        if logits is None:
            raise ValueError("class_labels need a model with a head (num_labels) and the images' pixels or latents")
        loss = classification_loss(
            logits,
            class_labels,
            multi_label=self.config.problem_type == "multi_label_classification",
            label_smoothing=self.config.classification_label_smoothing,
            num_classes_in_batch=num_classes_in_batch,
        )
        return self.config.classification_loss_weight * loss

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        image_latents: Tensor | None = None,
        row_images: Tensor | None = None,
        image_states: Tensor | None = None,
        **kwargs,
    ) -> Tensor | ModelOutput:
        """As in `transformers`; images are encoded once, however many beams and tokens there are.

        Prompts of different lengths are padded on the left.
        """
        if pixel_values is not None or image_features is not None:
            image_latents = self.encode_images(pixel_values, frame_mask, image_features)
        if image_latents is not None:
            image_states = self.latents_to_states(image_latents, row_images)
        if kwargs.get("assistant_model") is not None:
            raise ValueError("an assistant would look at this model's images; use prompt_lookup_num_tokens instead")
        input_ids = kwargs["input_ids"] if inputs is None else inputs
        prompt_images = (input_ids == self.config.image_token_id).cumsum(-1)
        check_images(prompt_images, image_states, self.config.resampler_num_latents)
        return super().generate(inputs, image_states=image_states, prompt_images=prompt_images, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *, prompt_images: Tensor, **kwargs) -> dict:
        """As in `transformers`, and how many images stand before each token.

        Args:
            prompt_images: (b t) of the prompt; what is generated after it sees the same images.
        """
        model_inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        past = model_inputs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        stop = start + model_inputs["input_ids"].shape[1]
        generated = prompt_images[:, -1:].expand(-1, max(stop - prompt_images.shape[1], 0))
        model_inputs["image_index"] = torch.cat([prompt_images, generated], dim=1)[:, start:stop]
        return model_inputs

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in `transformers`; not where the new tokens are apart."""
        if self.config.train_embeddings == "new":
            raise ValueError("with train_embeddings='new' the vocabulary cannot be resized; start with all tokens")
        return super().resize_token_embeddings(*args, **kwargs)

    @torch.no_grad()
    def score_answers(self, candidates: Tensor, input_ids: Tensor, attention_mask: Tensor, **images: Tensor) -> Tensor:
        """How likely each candidate answer is; the prompt is computed once, however many there are.

        Args:
            candidates: (s t) the same for all rows, or (b s t): token ids with `<EOC>` at the end, -100 on padding, as
                `FlamingoMedProcessor.tokenize_answers` returns them.
            input_ids, attention_mask: (b t) prompts, padded on the left.
            images: pixel_values or what else `forward` takes in its place.

        Returns:
            (b s) log-likelihood of each candidate, the sum over its tokens; -inf where a row has fewer than s.

        Raises:
            ValueError: candidates for another number of rows, or prompts padded on the right.
        """
        b = len(input_ids)
        if candidates.ndim == 2:
            candidates = repeat(candidates, "s t -> b s t", b=b)
        if candidates.ndim != 3 or len(candidates) != b:
            raise ValueError(f"candidates must be (s t) or ({b} s t), got {tuple(candidates.shape)}")
        if not attention_mask[:, -1].all():
            raise ValueError("prompts must be padded on the left, as a processor without answers does")
        s = candidates.shape[1]
        prompt = self(input_ids, attention_mask, use_cache=True, logits_to_keep=1, **images)

        candidates = rearrange(candidates, "b s t -> (b s) t")
        known = candidates != -100
        ids = candidates.masked_fill(~known, 0)
        past = prompt.past_key_values
        past.batch_repeat_interleave(s)
        num_images = (input_ids == self.config.image_token_id).sum(-1)
        answers = self(
            ids,
            torch.cat([attention_mask.repeat_interleave(s, 0), known.to(attention_mask.dtype)], dim=1),
            image_states=prompt.image_states.repeat_interleave(s, 0),
            image_index=repeat(num_images, "b -> (b s) t", s=s, t=ids.shape[1]),
            past_key_values=past,
            use_cache=True,
        )
        logits = torch.cat([prompt.logits.repeat_interleave(s, 0), answers.logits[:, :-1]], dim=1)
        log_probs = logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        scores = (log_probs * known).sum(-1).masked_fill(~known.any(-1), -torch.inf)
        return rearrange(scores, "(b s) -> b s", s=s)
