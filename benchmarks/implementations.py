"""The implementations that are compared, with random weights of one shape.

CLIP ViT-B/32 at 224 pixels, frozen; a resampler of depth 6 with 64 latents; gated cross-attention before each of 12
frozen decoder layers of GPT-2 small's size; trainable token embeddings. IDEFICS has a Llama decoder of that shape,
flamingo-pytorch its own (PaLM), which knows neither padding on the left nor a cache.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, GPT2Config, StoppingCriteria

from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from processing.processing_flamingo_med import FlamingoMedProcessor

OURS = "flamingo-med"
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


@dataclass
class Peer:
    """A Flamingo of others.

    Attributes:
        model: the model, with its trainable parts marked.
        loss: of a batch of the processor's, with answers.
        generate: writes so many tokens after a batch of prompts, with criteria that are asked after each.
    """

    model: nn.Module
    loss: Callable[[dict[str, Tensor]], Tensor]
    generate: Callable[[dict[str, Tensor], int, list[StoppingCriteria]], Tensor]


def ours(processor: FlamingoMedProcessor) -> FlamingoMedForConditionalGeneration:
    """Our model."""
    return FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        CLIPVisionConfig(patch_size=32, image_size=224, **CLIP),
        GPT2Config(),
        **processor.token_ids,
        cross_attn_gate_init=0.1,
    )


def idefics(processor: FlamingoMedProcessor) -> Peer:
    """IDEFICS of transformers, of the nearest shape."""
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    ids = processor.token_ids
    model = IdeficsForVisionText2Text(
        IdeficsConfig(
            vocab_size=ids["vocab_size"],
            additional_vocab_size=0,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            cross_layer_interval=1,
            use_resampler=True,
            freeze_text_layers=True,
            freeze_vision_layers=True,
            vision_config={"embed_dim": 768, "image_size": 224, "intermediate_size": 3072, "patch_size": 32},
            perceiver_config={"resampler_depth": 6, "resampler_n_heads": 8, "resampler_head_dim": 64},
            pad_token_id=ids["pad_token_id"],
            bos_token_id=ids["eos_token_id"],
            eos_token_id=ids["eos_token_id"],
        )
    )
    for name, p in model.named_parameters():
        p.requires_grad_(any(part in name for part in ("perceiver", "gated_cross", "embed_tokens", "lm_head")))

    def with_mask(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, "image_attention_mask": torch.ones(*batch["input_ids"].shape, 1, dtype=torch.long)}

    def generate(batch: dict[str, Tensor], tokens: int, criteria: list[StoppingCriteria]) -> Tensor:
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        return model.generate(**with_mask(batch), **length, do_sample=False, stopping_criteria=criteria)

    return Peer(model, lambda batch: model(**with_mask(batch)).loss, generate)


class Patches(nn.Module):
    """Images → tokens of a frozen CLIP, as flamingo-pytorch takes them."""

    def __init__(self):
        super().__init__()
        self.clip = CLIPVisionModel(CLIPVisionConfig(patch_size=32, **CLIP)).requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b 3 h w) → (b p d)."""
        return self.clip(pixels).last_hidden_state


def flamingo_pytorch(processor: FlamingoMedProcessor) -> Peer:
    """flamingo-pytorch."""
    from flamingo_pytorch import FlamingoPaLM

    ids = processor.token_ids
    model = FlamingoPaLM(
        num_tokens=ids["vocab_size"],
        dim=768,
        depth=12,
        heads=12,
        dim_head=64,
        ff_mult=4,
        media_token_id=ids["image_token_id"],
        cross_attn_every=1,
        img_encoder=Patches(),
        perceiver_num_latents=64,
        perceiver_depth=6,
        max_video_frames=1,
        only_attend_immediate_media=True,
    )

    def loss(batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], images=batch["pixel_values"])
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    @torch.no_grad()
    def generate(batch: dict[str, Tensor], tokens: int, criteria: list[StoppingCriteria]) -> Tensor:
        written = batch["input_ids"]
        for _ in range(tokens):
            logits = model(written, images=batch["pixel_values"])[:, -1]
            written = torch.cat([written, logits.argmax(-1, keepdim=True)], dim=1)
            for criterion in criteria:
                criterion(written, logits)
        return written

    return Peer(model, loss, generate)


PEERS = {"idefics": idefics, "flamingo-pytorch": flamingo_pytorch}
