"""FlamingoMedGenerationMixin: answers written token by token, and candidates scored; images are encoded once."""

import torch
from einops import rearrange, repeat
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import ModelOutput

from .backbones_flamingo_med import CACHE

# Options of `generate` that would be wrong or without effect, each with the reason and the way out.
REFUSED = {
    "assistant_model": "an assistant would look at this model's images; use prompt_lookup_num_tokens instead",
    "guidance_scale": "it calls the model a second time without the images of its cache; leave it out",
    "output_cross_attentions": "they are not collected token by token; call the model on the finished sequences",
}


class FlamingoMedGenerationMixin(GenerationMixin):
    """What a model with `encode_images`, `project_image_latents` and our `forward` can do with a prompt."""

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        image_latents: Tensor | None = None,
        image_indices: Tensor | None = None,
        image_key_values: Tensor | None = None,
        **kwargs,
    ) -> Tensor | ModelOutput:
        """As in `transformers`; images are encoded once, however many beams and tokens there are.

        Prompts of different lengths are padded on the left.
        """
        if pixel_values is not None or image_features is not None:
            image_latents = self.encode_images(pixel_values, frame_mask, image_features)
        if image_latents is not None:
            image_key_values = self.project_image_latents(image_latents, image_indices)
        for option, reason in REFUSED.items():
            if kwargs.get(option) and not (option == "guidance_scale" and kwargs[option] == 1):  # 1 is none
                raise ValueError(f"{option} cannot be used here: {reason}")
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        if prompt is None:
            prompt = self.find_marks(kwargs.get("inputs_embeds"))
        prompt_images = self.find_latest_image(prompt, image_key_values)
        return super().generate(inputs, image_key_values=image_key_values, prompt_images=prompt_images, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, prompt_images: Tensor, inputs_embeds: Tensor | None = None, **kwargs
    ) -> dict:
        """As in `transformers`, and the latest image before each token.

        Args:
            prompt_images: (b t) of the prompt; what is generated after it sees the same images.
            inputs_embeds: (b t d) the prompt, where its embeddings were given.
        """
        model_inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        past = model_inputs.get(CACHE)
        start = 0 if past is None else int(past.get_seq_length())
        text = next(
            model_inputs[name] for name in ("inputs_embeds", "input_ids") if model_inputs.get(name) is not None
        )
        stop = start + text.shape[1]
        generated = prompt_images[:, -1:].expand(-1, max(stop - prompt_images.shape[1], 0))
        latest_image = torch.cat([prompt_images, generated], dim=1)[:, start:stop]
        # With other strides at each step, a compiled model would be compiled at each.
        model_inputs["latest_image"] = latest_image.clone(memory_format=torch.contiguous_format)
        return model_inputs

    @torch.no_grad()
    def score_answers(self, candidates: Tensor, input_ids: Tensor, attention_mask: Tensor, **images: Tensor) -> Tensor:
        """How likely each candidate answer is; the prompt is computed once, however many there are.

        Args:
            candidates: (s t) the same for all rows, or (b s t): token ids with `<EOC>` at the end, -100 on padding, as
                `FlamingoMedProcessor.tokenize_answers` returns them; on any device.
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
        s, candidates = candidates.shape[1], candidates.to(input_ids.device)
        prompt = self(input_ids, attention_mask, use_cache=True, logits_to_keep=1, **images)

        candidates = rearrange(candidates, "b s t -> (b s) t")
        known = candidates != -100
        ids = candidates.masked_fill(~known, 0)
        past = prompt[CACHE]
        past.batch_repeat_interleave(s)
        num_images = (input_ids == self.config.image_token_id).sum(-1)
        answers = self(
            ids,
            torch.cat([attention_mask.repeat_interleave(s, 0), known.to(attention_mask.dtype)], dim=1),
            image_key_values=prompt.image_key_values.repeat_interleave(s, 0),
            latest_image=repeat(num_images, "b -> (b s) t", s=s, t=ids.shape[1]),
            **{CACHE: past},
            use_cache=True,
        )
        logits = torch.cat([prompt.logits.repeat_interleave(s, 0), answers.logits[:, :-1]], dim=1)
        log_probs = logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        scores = (log_probs * known).sum(-1).masked_fill(~known.any(-1), -torch.inf)
        return rearrange(scores, "(b s) -> b s", s=s)
