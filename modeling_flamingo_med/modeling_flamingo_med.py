"""FlamingoMedForConditionalGeneration: the Flamingo of the paper; it answers, and with a head it classifies."""

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .bare_flamingo_med import FlamingoMedModel, Seen
from .classification_flamingo_med import FlamingoMedClassificationHead, classification_loss, question_end
from .configuration_flamingo_med import FlamingoMedConfig
from .generation_flamingo_med import FlamingoMedGenerationMixin

# What accelerate and hooks put on a module around its forward.
WRAPPED = {"forward", "_old_forward", "_hf_hook", "_forward_hooks", "_forward_pre_hooks", "_original_forward"}


@dataclass
class FlamingoMedOutput(CausalLMOutputWithPast):
    """What `FlamingoMedForConditionalGeneration` returns.

    Attributes:
        loss: cross entropy of the labelled tokens, and the weighted loss of the classes, where labels are given.
        logits: (b t v), or (b k v) of the k positions in `logits_to_keep`.
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


class FlamingoMedForConditionalGeneration(FlamingoMedModel, FlamingoMedGenerationMixin):
    """Flamingo (Alayrac et al. 2022): answers questions about images.

    Args:
        config: the configuration.
        vision_encoder: a pretrained image encoder of `config.vision_config`; random weights if not given.
        language_model: a pretrained causal LM of `config.text_config`; random weights if not given.

    Raises:
        ValueError: the decoder is of a kind that would never see the image, or special token ids are missing.

    >>> import torch
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

    _keys_to_ignore_on_load_unexpected = None

    def __init__(
        self,
        config: FlamingoMedConfig,
        vision_encoder: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config, vision_encoder, language_model)
        self.generation_config.use_cache = True  # MPT's is off

    def add_heads(self) -> None:
        """A classification head, where there are classes; the other one is the decoder's output layer."""
        config = self.config
        if config.num_labels:
            self.classifier = FlamingoMedClassificationHead(
                width=self.get_output_embeddings().weight.shape[1],
                image_width=config.vision_width if config.use_image_embeddings else 0,
                num_labels=config.num_labels,
                dropout=config.classification_dropout,
            )

    @property
    def base_model(self) -> FlamingoMedModel:
        """This model without its heads, whose output has `last_hidden_state`: the very same modules."""
        bare = FlamingoMedModel.__new__(FlamingoMedModel)
        nn.Module.__init__(bare)
        # But for what others have put around this model's own forward, such as another precision.
        vars(bare).update({name: value for name, value in vars(self).items() if name not in WRAPPED})
        return bare

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
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
        num_items_in_batch: int | Tensor | None = None,
        num_classes_in_batch: int | Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_cross_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> FlamingoMedOutput:
        """One pass, as in figure 3 of the paper.

        Args:
            input_ids: (b t) with one `<image>` token where each image stands.
            inputs_embeds: (b t d) instead of them; `<image>` and `<EOQ>` are known by their embeddings.
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
            num_items_in_batch, num_classes_in_batch: how many labelled tokens and known classes there are in all the
                batches whose losses will be added up; by default in this one.
            past_key_values, use_cache: the decoder's cache, which `transformers` calls `cache` from 5.24 on.
            logits_to_keep: only the last so many positions (0 for all), or these. The loss is that of the tokens which
                they predict; `labelled_positions` are all that it needs.
            output_cross_attentions: return the attention weights of gated layers and resampler; not in a model that is
                compiled with `fullgraph=True`.
            output_hidden_states: return the decoder's hidden states.
            kwargs: `class_labels` (b) or (b num_labels), see `classification_loss`; all others go to the decoder.
                (Were they named above, trainers would evaluate no batch without them.)

        Raises:
            ValueError: shapes that do not fit, more `<image>` tokens than images, images without any, or class labels
                without a head.
        """
        class_labels = kwargs.pop("class_labels", None)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        has_images = any(images is not None for images in (pixel_values, image_features, image_latents))
        classifies = self.config.num_labels > 0 and has_images
        outputs, seen = self.look(
            self.language_model,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            frame_mask=frame_mask,
            image_features=image_features,
            image_latents=image_latents,
            image_indices=image_indices,
            image_key_values=image_key_values,
            latest_image=latest_image,
            sequence_ids=sequence_ids,
            cache=past_key_values if cache is None else cache,
            use_cache=False if labels is not None else use_cache,
            logits_to_keep=logits_to_keep,
            output_cross_attentions=output_cross_attentions,
            output_hidden_states=output_hidden_states or classifies,
            **kwargs,
        )
        loss = class_logits = None
        if labels is not None:
            loss = self.answer_loss(outputs.logits, labels, logits_to_keep, num_items_in_batch)
        if classifies:
            places = question_end(seen.marks, attention_mask, labels, sequence_ids, self.config.eoq_token_id)
            class_logits = self.classify(outputs.hidden_states[-1], places, seen, image_indices)
        if class_labels is not None:
            loss = (0 if loss is None else loss) + self.class_loss(class_logits, class_labels, num_classes_in_batch)
        shared = self.shared_outputs(outputs, seen) | ({} if output_hidden_states else {"hidden_states": None})
        return FlamingoMedOutput(loss=loss, logits=outputs.logits, class_logits=class_logits, **shared)

    def answer_loss(
        self, logits: Tensor, labels: Tensor, logits_to_keep: int | Tensor, num_items_in_batch: int | Tensor | None
    ) -> Tensor:
        """Cross entropy of logits (b k v) at the positions that were kept, and the labels (b t) that follow them."""
        next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        if isinstance(logits_to_keep, int):
            next_labels = next_labels[:, -logits_to_keep:]
        else:
            next_labels = next_labels[:, logits_to_keep]
        if num_items_in_batch is None:  # 0 where there is no answer to train on
            num_items_in_batch = (next_labels != -100).sum().clamp(min=1)
        return self.loss_function(
            logits,
            labels=None,
            shift_labels=next_labels.contiguous(),
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
        )

    def classify(
        self,
        states: Tensor,
        places: tuple[Tensor, Tensor],
        seen: Seen,
        image_indices: Tensor | None,
    ) -> Tensor:
        """The head on the last hidden states (b t d) at `places`, rows (b) and positions (b) → (b num_labels)."""
        image = None
        if self.config.use_image_embeddings:
            image = seen.image_latents.mean(2)  # (b n d)
            if image_indices is not None:
                image = image.squeeze(1).index_select(0, image_indices.flatten()).unflatten(0, image_indices.shape)
            image = image[places[0], (seen.latest_image[places] - 1).clamp(min=0)]
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


def labelled_positions(labels: Tensor) -> Tensor:
    """The k positions that predict a labelled token of any row, for `logits_to_keep`: labels (b t) → (k).

    A pass of all others over the vocabulary would cost more than a decoder layer.

    >>> import torch
    >>> labelled_positions(torch.tensor([[-100, -100, 7, 8]]))
    tensor([1, 2])
    """
    return (labels[:, 1:] != -100).any(0).nonzero().squeeze(1)
