"""FlamingoMedModel: image encoder and decoder joined as in the Flamingo paper, up to the last hidden states."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple

from .backbones_flamingo_med import (
    CACHE,
    DECODERS_THAT_DROP_KEYWORDS,
    find_decoder_layers,
    image_features,
    keep_statistics,
    load_language_model,
    load_vision_encoder,
    reference,
    resize_embeddings,
    set_layer_dropout,
    train_frozen,
)
from .configuration_flamingo_med import FlamingoMedConfig
from .cross_attention_flamingo_med import (
    FlamingoMedCrossAttentionHook,
    FlamingoMedGatedCrossAttention,
    check_images,
    context_keywords,
    image_mask,
    packed_mask,
)
from .embeddings_flamingo_med import FlamingoMedNewTokens, FlamingoMedNewTokensHook
from .layers_flamingo_med import record_attention_weights
from .perceiver_flamingo_med import FlamingoMedPerceiverResampler
from .pretrained_flamingo_med import FlamingoMedPreTrainedModel


@dataclass
class FlamingoMedModelOutput(BaseModelOutputWithPast):
    """What `FlamingoMedModel` returns: `last_hidden_state` (b t d), and the rest of `FlamingoMedOutput`."""

    image_key_values: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    resampler_attentions: tuple[Tensor, ...] | None = None


@dataclass
class Seen:
    """What the decoder saw in a pass.

    Attributes:
        marks: (b t) token ids; of embeddings, see `find_marks`.
        image_latents: (b n l d), None where keys and values were given.
        image_key_values: (b g 2 a (n l) e), None where there was no image.
        latest_image: (b t) the number of the latest image before or at each token.
        image_mask: (b 1 t (n l))
        weights: recorded attention weights by their module.
    """

    marks: Tensor
    image_latents: Tensor | None
    image_key_values: Tensor | None
    latest_image: Tensor
    image_mask: Tensor | None
    weights: dict[nn.Module, Tensor]


class FlamingoMedModel(FlamingoMedPreTrainedModel):
    """The model without its heads: its output has `last_hidden_state`.

    It has the same modules under the same names as `FlamingoMedForConditionalGeneration`, the decoder's output layer
    among them, so that both load the same checkpoints.

    Args:
        config: the configuration.
        vision_encoder: a pretrained image encoder of `config.vision_config`; random weights if not given.
        language_model: a pretrained causal LM of `config.text_config`; random weights if not given.

    Raises:
        ValueError: the decoder is of a kind that would never see the image, or special token ids are missing.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # noqa: RUF012 (as transformers reads it)

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
        self.resampler = FlamingoMedPerceiverResampler(config)
        self.language_model = language_model or load_language_model(config.text_config)
        decoder_layers = find_decoder_layers(self.language_model)
        gated = range(config.cross_attn_first_layer, len(decoder_layers), config.cross_attn_every_n_layers)
        self.cross_attn = nn.ModuleList(FlamingoMedGatedCrossAttention(config) for _ in gated)
        self.drops_keywords = config.text_config.model_type in DECODERS_THAT_DROP_KEYWORDS
        for i, layer in enumerate(decoder_layers):
            index = gated.index(i) if i in gated else None
            hook = FlamingoMedCrossAttentionHook(self.cross_attn, index, self.drops_keywords)
            layer.register_forward_pre_hook(hook, with_kwargs=True)
        inputs, outputs = self.get_input_embeddings(), self.get_output_embeddings()
        if config.train_embeddings == "new":
            tied = config.text_config.tie_word_embeddings
            self.new_tokens = FlamingoMedNewTokens(inputs, outputs, config.first_new_token_id, tied)
            inputs.register_forward_hook(FlamingoMedNewTokensHook(self, "embed"))
            outputs.register_forward_hook(FlamingoMedNewTokensHook(self, "unembed"))
        self.add_heads()
        self._no_split_modules = [*self._no_split_modules, type(self.vision_encoder).__name__]
        self.post_init()
        # Tied weights stand once in a checkpoint; `Trainer` would warn that the other name is missing.
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)
        self.freeze()

    def add_heads(self) -> None:
        """What stands on top, of which a bare model has nothing."""

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | PretrainedConfig, text: str | PretrainedConfig, *, vocab_size: int, **config
    ) -> "FlamingoMedModel":
        """A new model from two pretrained ones, with randomly initialised resampler and cross-attention.

        Args:
            vision: Hub id or local folder of an image encoder (of CLIP, its vision tower is taken), or a
                configuration for one with random weights.
            text: the same for a causal LM.
            vocab_size: size of the vocabulary with the special tokens.
            config: arguments of `FlamingoMedConfig`; at least the rest of `**processor.token_ids`.

        Returns:
            A model whose checkpoint needs neither `vision` nor `text`, unless it is saved without its backbones.
        """
        if isinstance(text, PretrainedConfig):
            ids = {name: config[name] for name in ("eos_token_id", "pad_token_id")}
            text = type(text)(**{**text.to_dict(), "vocab_size": vocab_size, "bos_token_id": None, **ids})
        vision_encoder = load_vision_encoder(vision, config.get("vision_feature_select", "full"))
        language_model = load_language_model(text)
        resize_embeddings(language_model, vocab_size)
        parts = {"vision": (vision, vision_encoder), "text": (text, language_model)}
        backbones = {part: reference(name, model) for part, (name, model) in parts.items() if isinstance(name, str)}
        config = FlamingoMedConfig(
            vision_config=vision_encoder.config, text_config=language_model.config, backbones=backbones, **config
        )
        return cls(config, vision_encoder, language_model)

    def freeze(self) -> None:
        """Freeze the parts that the configuration says are frozen, their batch norm and dropout included."""
        if self.config.freeze_vision:
            self.vision_encoder.requires_grad_(False)
        if self.config.freeze_text:
            self.language_model.requires_grad_(False)
            for embeddings in (self.get_input_embeddings(), self.get_output_embeddings()):
                embeddings.requires_grad_(self.config.train_embeddings == "all")
        self.train(self.training)  # a new encoder is in training mode, in which batch norm mixes images

    def train(self, mode: bool = True) -> "FlamingoMedModel":
        """As in `torch`; frozen parts stay in evaluation mode, so that they have no dropout."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_encoder.eval()
        if self.config.freeze_text:
            train_frozen(self.language_model, mode)
        else:
            set_layer_dropout(self.language_model, True)
        keep_statistics(self)
        return self

    def parameter_summary(self) -> str:
        """A table of how many parameters each part has, and how many of them are trainable or frozen."""

        def count(p: nn.Parameter) -> int:
            return p.numel() * (2 if type(p).__name__ == "Params4bit" else 1)  # bitsandbytes packs two in one

        lines = [f"{'part':<16}{'parameters':>16}{'trainable':>16}{'frozen':>16}"]
        for name, part in [*self.named_children(), ("all", self)]:
            sizes = [(count(p), p.requires_grad) for p in part.parameters()]
            total, trainable = sum(n for n, _ in sizes), sum(n for n, is_trainable in sizes if is_trainable)
            lines.append(f"{name:<16}{total:>16,}{trainable:>16,}{total - trainable:>16,}")
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

    def get_decoder(self) -> PreTrainedModel:
        """The decoder without its output layer; given text alone, it sees no image."""
        return self.language_model.get_decoder()

    def image_features(self, pixels: Tensor) -> Tensor:
        """What the image encoder makes of images: (m c h w) → (m p d); a frozen one always makes the same of them."""
        layer, select = self.config.vision_feature_layer, self.config.vision_feature_select
        return image_features(self.vision_encoder, pixels, layer, select)[0]

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """What image encoder and resampler make of images.

        Args:
            pixel_values: (b n c h w), or (b n f c h w), see `encode_images`.
            kwargs: passed to the image encoder, such as `output_hidden_states`.

        Returns:
            `last_hidden_state` (m p d), the features of all m frames, and `pooler_output` (b n l d), the latents; of
            the encoder `hidden_states` and `attentions`, where asked for.
        """
        pixels = as_frames(pixel_values)
        layer, select = self.config.vision_feature_layer, self.config.vision_feature_select
        features, outputs = image_features(self.vision_encoder, pixels.flatten(0, 2), layer, select, **kwargs)
        latents = self.encode_images(image_features=features.unflatten(0, pixels.shape[:3]))
        kept = {name: outputs.get(name) for name in ("hidden_states", "attentions")}
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=latents, **kept)

    def encode_images(
        self,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> Tensor:
        """Images → latents, the visual tokens.

        Args:
            pixel_values: (b n c h w) the images of each row; rows with fewer than n are filled up with anything. Or
                (b n f c h w): each image has f frames, such as the views of a study.
            frame_mask: (b n f) False on frames that only fill up.
            image_features: (b n f p d) instead of the pixels, of each frame what `image_features` returned.

        Returns:
            (b n l d)

        Raises:
            ValueError: pixels, features or mask of another shape.
        """
        if image_features is None:
            pixel_values = as_frames(pixel_values)
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
        image_features = image_features.to(self.resampler.latents.dtype)  # stored ones may be of another precision
        latents = self.resampler(rearrange(image_features, "b n f p d -> (b n) f p d"), frame_mask, n)
        return rearrange(latents, "(b n) l d -> b n l d", n=n)

    def project_image_latents(self, image_latents: Tensor, image_indices: Tensor | None = None) -> Tensor:
        """Latents → the keys and values that the gated cross-attentions attend to.

        Args:
            image_latents: (b n l d)
            image_indices: (b n) where rows share images: the index, in `image_latents` (m 1 l d), of each image of
                each row. Every distinct image is then encoded once.

        Returns:
            (b g 2 a (n l) e)

        Raises:
            ValueError: rows share several images, although an image's number in its row is in its latents.
        """
        if self.config.resampler_max_images and image_indices is not None and image_indices.shape[1] > 1:
            raise ValueError(
                "with resampler_max_images, rows of several images cannot share them; leave out image_indices"
            )
        latents = rearrange(image_latents, "b n l d -> b (n l) d")
        # Spread over several devices, each layer answers on its own.
        key_values = [layer.attn.key_values(latents).to(latents.device) for layer in self.cross_attn]
        key_values = torch.stack(key_values, dim=1)
        if image_indices is not None:
            # Not key_values[image_indices], whose gradient is summed on CPUs in whatever order the threads come.
            key_values = key_values.index_select(0, image_indices.flatten())
            key_values = rearrange(key_values, "(b n) g two a l e -> b g two a (n l) e", n=image_indices.shape[1])
        return key_values

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> FlamingoMedModelOutput:
        """One pass, as in figure 3 of the paper, up to the decoder's last hidden states.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, cache, kwargs: as of
                `FlamingoMedForConditionalGeneration`, but for labels and logits.
        """
        outputs, seen = self.look(
            self.get_decoder(),
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values if cache is None else cache,
            **kwargs,
        )
        shared = self.shared_outputs(outputs, seen)
        return FlamingoMedModelOutput(last_hidden_state=outputs.last_hidden_state, **shared)

    def look(
        self,
        decoder: PreTrainedModel,
        *,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        image_latents: Tensor | None = None,
        image_indices: Tensor | None = None,
        image_key_values: Tensor | None = None,
        latest_image: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        cache: Cache | None = None,
        output_cross_attentions: bool | None = None,
        **kwargs,
    ) -> tuple[ModelOutput, "Seen"]:
        """The decoder's output, of a pass in which it sees the images, and what it saw.

        Args:
            decoder: the language model, or its decoder alone.
            kwargs: passed to it; the rest is described in `FlamingoMedForConditionalGeneration.forward`.
        """
        with record_attention_weights(self.attentions() if output_cross_attentions else ()) as weights:
            if pixel_values is not None or image_features is not None:
                image_latents = self.encode_images(pixel_values, frame_mask, image_features)
            if image_latents is not None:
                image_key_values = self.project_image_latents(image_latents, image_indices)
            marks = self.find_marks(inputs_embeds) if input_ids is None else input_ids
            if latest_image is None:
                latest_image = self.find_latest_image(marks, image_key_values, cache)
            image_mask = self.make_image_mask(latest_image, image_key_values)
            outputs = self.decode(
                decoder,
                {"image_key_values": image_key_values, "image_mask": image_mask},
                **({"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}),
                **self.place_text(marks, attention_mask, position_ids, sequence_ids),
                **{CACHE: cache},
                **self.asked(kwargs),
            )
        return outputs, Seen(marks, image_latents, image_key_values, latest_image, image_mask, weights)

    def asked(self, kwargs: dict) -> dict:
        """The decoder's keyword arguments; what is not said there about its output, the configuration says."""
        for name in ("output_hidden_states", "output_attentions"):
            if kwargs.get(name) is None:
                kwargs = {**kwargs, name: getattr(self.config, name)}
        return kwargs

    def shared_outputs(self, outputs: ModelOutput, seen: "Seen") -> dict:
        """What both kinds of output have, by name."""
        cross, resampler = self.name_attentions(seen)
        return {
            CACHE: outputs.get(CACHE),
            "hidden_states": outputs.get("hidden_states"),
            "attentions": outputs.get("attentions"),
            "image_key_values": seen.image_key_values,
            "cross_attentions": cross,
            "resampler_attentions": resampler,
        }

    def find_marks(self, inputs_embeds: Tensor | None) -> Tensor:
        """Where `<image>` and `<EOQ>` stand in text of which only the embeddings are known: (b t d) → ids (b t).

        As in other models of `transformers`, such a token is known by its embedding; others are -1.

        Raises:
            ValueError: neither ids nor embeddings.
        """
        if inputs_embeds is None:
            raise ValueError("give input_ids or inputs_embeds")
        marks = torch.full(inputs_embeds.shape[:2], -1, device=inputs_embeds.device)
        for token in (self.config.image_token_id, self.config.eoq_token_id):
            if token is not None:
                embedding = self.get_input_embeddings()(torch.tensor([token], device=inputs_embeds.device))
                marks = marks.masked_fill((inputs_embeds == embedding).all(-1), token)
        return marks

    def find_latest_image(
        self, input_ids: Tensor, image_key_values: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """The number of the latest image before or at each token, 0 for none: ids (b t) → (b t).

        Raises:
            ValueError: some tokens are in the cache already, or there are more `<image>` tokens than images.
        """
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError("with a filled cache, latest_image must say how many images stand before each token")
        latest_image = (input_ids == self.config.image_token_id).cumsum(-1)
        check_images(latest_image, image_key_values, self.config.resampler_num_latents)
        return latest_image

    def make_image_mask(self, latest_image: Tensor, image_key_values: Tensor | None) -> Tensor | None:
        """Which token sees which latents, (b 1 t (n l)); None where there is no image."""
        if image_key_values is None:
            return None
        num_latents = self.config.resampler_num_latents
        num_images = image_key_values.shape[-2] // num_latents
        return image_mask(latest_image, num_images, num_latents, self.config.cross_attn_latest_only)

    def place_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        sequence_ids: Tensor | None,
    ) -> dict[str, Tensor | None]:
        """The decoder's own mask and positions, of padded rows or of sequences packed into one row."""
        if sequence_ids is not None:
            if self.config.resampler_max_images:
                raise ValueError(
                    "with resampler_max_images, rows cannot be packed: each image has its number in a row"
                )
            attention_mask = packed_mask(sequence_ids, self.dtype)
        elif position_ids is None and attention_mask is not None:  # padding on the left takes no positions
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        return {"attention_mask": attention_mask, "position_ids": position_ids}

    def decode(self, decoder: PreTrainedModel, images: dict[str, Tensor | None], **kwargs) -> ModelOutput:
        """The decoder's forward.

        Args:
            decoder: the language model, or its decoder alone.
            images: keyword arguments that reach the gated cross-attention before each of its layers.
            kwargs: those of its own forward.
        """
        if not self.drops_keywords:
            return decoder(**images, **kwargs, return_dict=True)
        with context_keywords(images):
            return decoder(**kwargs, return_dict=True)

    def attentions(self) -> list[nn.Module]:
        """The attention modules of resampler and gated cross-attention, whose weights can be recorded."""
        return [layer.attn for layer in (*self.resampler.layers, *self.cross_attn)]

    def name_attentions(self, seen: "Seen") -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Recorded weights of gated cross-attentions, 0 for tokens that see no image, and of the resampler; None where
        none were recorded."""
        if not seen.weights:
            return None, None
        cross = [seen.weights[layer.attn] for layer in self.cross_attn if layer.attn in seen.weights]
        resampler = [seen.weights[layer.attn] for layer in self.resampler.layers if layer.attn in seen.weights]
        sees_image = None if seen.image_mask is None else seen.image_mask.any(-1, keepdim=True)
        return tuple(one * sees_image for one in cross), tuple(resampler)

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, **kwargs):
        """As in torch. Where not all names have to fit, those that checkpoints have for the weights of parts do.

        `Trainer` loads its best checkpoint so, and would leave such parts as they are.
        """
        if not strict and not state_dict.keys() <= self.state_dict().keys():
            loaded = type(self).from_pretrained(None, config=self.config, state_dict=dict(state_dict))
            state_dict = loaded.state_dict()
        return super().load_state_dict(state_dict, strict, **kwargs)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in `transformers`; not where the new tokens are apart."""
        if self.config.train_embeddings == "new":
            raise ValueError("with train_embeddings='new' the vocabulary cannot be resized; start with all tokens")
        return super().resize_token_embeddings(*args, **kwargs)


def as_frames(pixel_values: Tensor) -> Tensor:
    """(b n c h w), or (b n f c h w) with frames → (b n f c h w)."""
    if pixel_values.ndim == 5:
        return pixel_values.unsqueeze(2)
    if pixel_values.ndim != 6:
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values must be (b n c h w), or (b n f c h w) with frames, got {shape}")
    return pixel_values
