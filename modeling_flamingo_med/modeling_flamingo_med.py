"""FlamingoMedForConditionalGeneration: image encoder and decoder, joined as in the Flamingo paper."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput
from transformers.utils import can_return_tuple

from .backbones_flamingo_med import (
    CACHE,
    DECODERS_THAT_DROP_KEYWORDS,
    find_decoder_layers,
    image_features,
    load_language_model,
    load_vision_encoder,
    reference,
    resize_embeddings,
    set_layer_dropout,
    train_frozen,
)
from .classification_flamingo_med import FlamingoMedClassificationHead, classification_loss, question_end
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
from .generation_flamingo_med import FlamingoMedGenerationMixin
from .layers_flamingo_med import record_attention_weights
from .perceiver_flamingo_med import FlamingoMedPerceiverResampler
from .pretrained_flamingo_med import FlamingoMedPreTrainedModel


@dataclass
class FlamingoMedOutput(CausalLMOutputWithPast):
    """What `FlamingoMedForConditionalGeneration` returns.

    Attributes:
        loss: cross entropy of the labelled tokens, and the weighted loss of the classes, where labels are given.
        logits: (b t v), or, where labels are given, (b k v) at the k positions that predict a labelled token of any
            row (a pass over the vocabulary costs more than a decoder layer).
        past_key_values: the decoder's cache; from `transformers` 5.24 on, `cache`.
        hidden_states: the decoder's hidden states, one (b t d) a layer, where asked for.
        attentions: the decoder's own attention weights, where asked for.
        class_logits: (b num_labels), where the model has a head and sees the images themselves.
        image_key_values: (b g 2 a (n l) e) keys and values of the images, to pass to the next call, with
            `latest_image`.
        cross_attentions: g attention weights (b a t (n l)) of tokens over latents, where asked for.
        resampler_attentions: attention weights (m a l (f p + l)) of latents over patches and latents, one of each
            resampler layer, m all images one after the other, where asked for.
    """

    class_logits: Tensor | None = None
    image_key_values: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    resampler_attentions: tuple[Tensor, ...] | None = None


class FlamingoMedForConditionalGeneration(FlamingoMedPreTrainedModel, FlamingoMedGenerationMixin):
    """Flamingo (Alayrac et al. 2022): answers questions about images.

    Args:
        config: the configuration.
        vision_encoder: a pretrained image encoder of `config.vision_config`; random weights if not given.
        language_model: a pretrained causal LM of `config.text_config`; random weights if not given.

    Raises:
        ValueError: the decoder is of a kind that would never see the image, or special token ids are missing.

    >>> from transformers import CLIPVisionConfig, GPT2Config
    >>> small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    >>> config = FlamingoMedConfig(
    ...     vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=8),
    ...     text_config=GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100),
    ...     image_token_id=99,
    ... )
    >>> model = FlamingoMedForConditionalGeneration(config).eval()
    >>> outputs = model(input_ids=torch.tensor([[99, 7, 8]]), pixel_values=torch.randn(1, 1, 3, 32, 32))
    >>> outputs.logits.shape, outputs.image_key_values.shape  # (b t v), (b g 2 a (n l) e)
    (torch.Size([1, 3, 100]), torch.Size([1, 2, 2, 8, 64, 64]))
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
        if config.num_labels:
            self.classifier = FlamingoMedClassificationHead(
                width=outputs.weight.shape[1],
                image_width=config.vision_width if config.use_image_embeddings else 0,
                num_labels=config.num_labels,
                dropout=config.classification_dropout,
            )
        self._no_split_modules = [*self._no_split_modules, type(self.vision_encoder).__name__]
        self.post_init()
        # Tied weights stand once in a checkpoint; `Trainer` would warn that the other name is missing.
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)
        self.generation_config.use_cache = True  # MPT's is off
        self.freeze()

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | PretrainedConfig, text: str | PretrainedConfig, *, vocab_size: int, **config
    ) -> "FlamingoMedForConditionalGeneration":
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

    def train(self, mode: bool = True) -> "FlamingoMedForConditionalGeneration":
        """As in `torch`; frozen parts stay in evaluation mode, so that they have no dropout."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_encoder.eval()
        if self.config.freeze_text:
            train_frozen(self.language_model, mode)
        else:
            set_layer_dropout(self.language_model, True)
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

    def image_features(self, pixels: Tensor) -> Tensor:
        """What the image encoder makes of images: (m c h w) → (m p d); a frozen one always makes the same of them."""
        layer, select = self.config.vision_feature_layer, self.config.vision_feature_select
        return image_features(self.vision_encoder, pixels, layer, select)

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
        input_ids: Tensor,
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
        labels: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        num_classes_in_batch: int | Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
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
            image_indices: (b n) of rows that share images, see `project_image_latents`.
            image_key_values: (b g 2 a (n l) e) instead of both, as `project_image_latents` returns them.
            latest_image: (b t) the number of the latest image before or at each token, from 1 on, 0 for none; counted
                from `input_ids` by default. With a filled cache `input_ids` are not all there, so it must be given.
            sequence_ids: (1 t) where several sequences are packed into one row without padding: which one each token
                belongs to. `position_ids` start at 0 in each, and `latest_image` says which of the row's n images each
                token sees.
            labels: (b t) token ids that the loss is taken of, -100 elsewhere.
            class_labels: (b) or (b num_labels), see `classification_loss`.
            num_items_in_batch, num_classes_in_batch: how many labelled tokens and known classes there are in all the
                batches whose losses will be added up; by default in this one.
            past_key_values, use_cache: the decoder's cache, which `transformers` calls `cache` from 5.24 on.
            logits_to_keep: only the last so many positions (0 for all), or these; with `labels`, those that they need.
            output_cross_attentions: return the attention weights of gated layers and resampler; not in a model that is
                compiled with `fullgraph=True`.
            output_hidden_states: return the decoder's hidden states.
            kwargs: passed to the decoder.

        Raises:
            ValueError: shapes that do not fit, more `<image>` tokens than images, or class labels without a head.
        """
        cache = past_key_values if cache is None else cache
        with record_attention_weights(self.attentions() if output_cross_attentions else ()) as weights:
            if pixel_values is not None or image_features is not None:
                image_latents = self.encode_images(pixel_values, frame_mask, image_features)
            if image_latents is not None:
                image_key_values = self.project_image_latents(image_latents, image_indices)
            if latest_image is None:
                latest_image = self.find_latest_image(input_ids, image_key_values, cache)
            image_mask = self.make_image_mask(latest_image, image_key_values)
            text = self.place_text(input_ids, attention_mask, position_ids, sequence_ids)
            if labels is not None:
                next_labels, logits_to_keep = labelled_positions(labels)
            classifies = self.config.num_labels > 0 and image_latents is not None
            outputs = self.decode(
                {"image_key_values": image_key_values, "image_mask": image_mask},
                **text,
                **{CACHE: cache},
                input_ids=input_ids,
                use_cache=False if labels is not None else use_cache,
                logits_to_keep=logits_to_keep,
                output_hidden_states=output_hidden_states or classifies,
                **kwargs,
            )
        loss = class_logits = None
        if labels is not None:
            loss = self.answer_loss(outputs.logits, next_labels, num_items_in_batch)
        if classifies:
            places = question_end(input_ids, attention_mask, labels, sequence_ids, self.config.eoq_token_id)
            class_logits = self.classify(outputs.hidden_states[-1], places, image_latents, image_indices, latest_image)
        if class_labels is not None:
            loss = (0 if loss is None else loss) + self.class_loss(class_logits, class_labels, num_classes_in_batch)
        return FlamingoMedOutput(
            loss=loss,
            logits=outputs.logits,
            class_logits=class_logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.get("attentions"),
            image_key_values=image_key_values,
            **(self.name_attentions(weights, image_mask) if output_cross_attentions else {}),
        )

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

    def decode(self, images: dict[str, Tensor | None], **kwargs) -> ModelOutput:
        """The decoder's forward.

        Args:
            images: keyword arguments that reach the gated cross-attention before each of its layers.
            kwargs: those of its own forward.
        """
        if not self.drops_keywords:
            return self.language_model(**images, **kwargs)
        with context_keywords(images):
            return self.language_model(**kwargs)

    def answer_loss(self, logits: Tensor, next_labels: Tensor, num_items_in_batch: int | Tensor | None) -> Tensor:
        """Cross entropy of logits (b k v) and the labels of the tokens that follow, (b k)."""
        if logits.shape[1] == 0:  # no answer to train on
            return logits.sum()
        return self.loss_function(
            logits,
            labels=None,
            shift_labels=next_labels,
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
        )

    def attentions(self) -> list[nn.Module]:
        """The attention modules of resampler and gated cross-attention, whose weights can be recorded."""
        return [layer.attn for layer in (*self.resampler.layers, *self.cross_attn)]

    def name_attentions(
        self, weights: dict[nn.Module, Tensor], image_mask: Tensor | None
    ) -> dict[str, tuple[Tensor, ...]]:
        """Recorded attention weights as they stand in the output: 0 for tokens that see no image."""
        resampler = [weights[layer.attn] for layer in self.resampler.layers if layer.attn in weights]
        cross = [weights[layer.attn] for layer in self.cross_attn if layer.attn in weights]
        return {
            "cross_attentions": tuple(one * image_mask.any(-1, keepdim=True) for one in cross),
            "resampler_attentions": tuple(resampler),
        }

    def classify(
        self,
        states: Tensor,
        places: tuple[Tensor, Tensor],
        image_latents: Tensor,
        image_indices: Tensor | None,
        latest_image: Tensor,
    ) -> Tensor:
        """The head on the last hidden states (b t d) at `places`, rows (b) and positions (b) → (b num_labels)."""
        image = None
        if self.config.use_image_embeddings:
            image = image_latents.mean(2)  # (b n d)
            if image_indices is not None:
                image = image.squeeze(1).index_select(0, image_indices.flatten()).unflatten(0, image_indices.shape)
            image = image[places[0], (latest_image[places] - 1).clamp(min=0)]
        return self.classifier(states[places], image)

    def class_loss(
        self, logits: Tensor | None, class_labels: Tensor, num_classes_in_batch: int | Tensor | None
    ) -> Tensor:
        """The weighted loss of the classes, see `classification_loss`."""
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

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in `transformers`; not where the new tokens are apart."""
        if self.config.train_embeddings == "new":
            raise ValueError("with train_embeddings='new' the vocabulary cannot be resized; start with all tokens")
        return super().resize_token_embeddings(*args, **kwargs)


def labelled_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The k positions that predict a labelled token of any row: labels (b t) → the labels that follow (b k), and (k).

    Which positions those are depends on the data, so a compiled graph takes all.

    >>> labelled_positions(torch.tensor([[-100, -100, 7, 8]]))
    (tensor([[7, 8]]), tensor([1, 2]))
    """
    next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    if torch.compiler.is_compiling():
        return next_labels, torch.arange(labels.shape[1], device=labels.device)
    positions = (next_labels != -100).any(0).nonzero().squeeze(1)
    return next_labels[:, positions], positions
