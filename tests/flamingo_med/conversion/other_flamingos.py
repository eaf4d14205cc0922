"""Checkpoints in the layout of other Flamingos, with random weights, and their answers by the published maths.

The forward passes here share no code with ours: they read the other's weights by the other's names.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PretrainedConfig, PreTrainedTokenizerFast

from modeling_flamingo_med.backbones_flamingo_med import load_language_model
from processing.tokenization import train_tokenizer
from tests.conftest import QUESTIONS, VISION

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "sqrelu": lambda x: F.relu(x) ** 2}
HEAD_DIM, HEADS, WIDTH, LATENTS = 64, 2, 32, 4


def write_clip(folder: Path) -> str:
    """A tiny CLIP with its image preprocessing."""
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(CLIPConfig(vision_config=VISION["clip"].to_dict(), text_config=text)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    return str(folder)


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a decoder, with an end of text and without the tokens of a Flamingo."""
    tokenizer = train_tokenizer([*QUESTIONS, "Question: Short answer: Output: yes no <5"] * 3, 320)
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_decoder(folder: Path, config: PretrainedConfig, spare: int = 0) -> str:
    """A tiny decoder with its tokenizer, and with more rows in its vocabulary than that has tokens."""
    torch.manual_seed(1)
    config.vocab_size = len(write_tokenizer(folder)) + spare
    config.initializer_range = 0.2
    load_language_model(config).save_pretrained(folder)
    return str(folder)


def random(*shape: int) -> Tensor:
    """A weight."""
    return torch.randn(*shape) * shape[-1] ** -0.5


def norm_weights(prefix: str, width: int) -> dict[str, Tensor]:
    return {f"{prefix}weight": 1 + 0.1 * torch.randn(width), f"{prefix}bias": 0.1 * torch.randn(width)}


def ff_weights(prefix: str, width: int) -> dict[str, Tensor]:
    outer = {f"{prefix}1.weight": random(4 * width, width), f"{prefix}3.weight": random(width, 4 * width)}
    return norm_weights(f"{prefix}0.", width) | outer


def resampler_weights(prefix: str, depth: int = 2, split: bool = False) -> dict[str, Tensor]:
    """In the names of flamingo-pytorch; keys and values in one matrix, or split as in flamingo-mini."""
    inner = HEADS * HEAD_DIM
    weights = {f"{prefix}latents": torch.randn(LATENTS, WIDTH)} | norm_weights(f"{prefix}norm.", WIDTH)
    for i in range(depth):
        layer = f"{prefix}layers.{i}."
        weights |= norm_weights(f"{layer}0.norm_media.", WIDTH) | norm_weights(f"{layer}0.norm_latents.", WIDTH)
        weights |= {f"{layer}0.to_q.weight": random(inner, WIDTH), f"{layer}0.to_out.weight": random(WIDTH, inner)}
        if split:
            weights |= {f"{layer}0.to_{x}.weight": random(inner, WIDTH) for x in "kv"}
        else:
            weights[f"{layer}0.to_kv.weight"] = random(2 * inner, WIDTH)
        weights |= ff_weights(f"{layer}1.", WIDTH)
    return weights


def gated_weights(prefix: str, width: int, ff: str, attn_gate: str, ff_gate: str) -> dict[str, Tensor]:
    """One gated cross-attention in the names of flamingo-pytorch."""
    inner = HEADS * HEAD_DIM
    return {
        **norm_weights(f"{prefix}attn.norm.", width),
        f"{prefix}attn.to_q.weight": random(inner, width),
        f"{prefix}attn.to_kv.weight": random(2 * inner, WIDTH),
        f"{prefix}attn.to_out.weight": random(width, inner),
        **ff_weights(f"{prefix}{ff}.", width),
        f"{prefix}{attn_gate}": torch.tensor([0.6]),
        f"{prefix}{ff_gate}": torch.tensor([-0.4]),
    }


def norm(x: Tensor, weights: dict[str, Tensor], prefix: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{prefix}weight"], weights[f"{prefix}bias"])


def feed_forward(x: Tensor, weights: dict[str, Tensor], prefix: str, act: str) -> Tensor:
    inner = norm(x, weights, f"{prefix}0.") @ weights[f"{prefix}1.weight"].T
    return ACTIVATIONS[act](inner) @ weights[f"{prefix}3.weight"].T


def attend(q: Tensor, k: Tensor, v: Tensor, sees: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √e) v in each head; what sees nothing takes nothing."""
    q, k, v = (x.unflatten(-1, (-1, HEAD_DIM)).transpose(-2, -3) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / HEAD_DIM**0.5
    if sees is not None:
        scores = scores.masked_fill(~sees, -torch.inf)
    return (scores.softmax(-1).nan_to_num() @ v).transpose(-2, -3).flatten(-2)


def resample(patches: Tensor, weights: dict[str, Tensor], prefix: str, act: str = "gelu") -> Tensor:
    """(m p d) → (m l d)."""
    latents = weights[f"{prefix}latents"].expand(len(patches), -1, -1)
    for i in range(sum(name.endswith("0.to_q.weight") and name.startswith(prefix) for name in weights)):
        layer = f"{prefix}layers.{i}."
        queries = norm(latents, weights, f"{layer}0.norm_latents.")
        media = torch.cat([norm(patches, weights, f"{layer}0.norm_media."), queries], 1)
        if f"{layer}0.to_kv.weight" in weights:
            keys, values = (media @ weights[f"{layer}0.to_kv.weight"].T).chunk(2, -1)
        else:
            keys, values = (media @ weights[f"{layer}0.to_{x}.weight"].T for x in "kv")
        taken = attend(queries @ weights[f"{layer}0.to_q.weight"].T, keys, values)
        latents = latents + taken @ weights[f"{layer}0.to_out.weight"].T
        latents = latents + feed_forward(latents, weights, f"{layer}1.", act)
    return norm(latents, weights, f"{prefix}norm.")


def gate(
    x: Tensor,
    media: Tensor,
    is_image: Tensor,
    weights: dict[str, Tensor],
    prefix: str,
    names: tuple,
    act: str = "gelu",
) -> Tensor:
    """Hidden states (b t d) that see the latest of the images (b n l d) before them."""
    ff, attn_gate, ff_gate = names
    number = torch.arange(1, media.shape[1] + 1).repeat_interleave(media.shape[2])
    sees = (is_image.cumsum(-1)[:, :, None] == number)[:, None]
    keys, values = (media.flatten(1, 2) @ weights[f"{prefix}attn.to_kv.weight"].T).chunk(2, -1)
    queries = norm(x, weights, f"{prefix}attn.norm.") @ weights[f"{prefix}attn.to_q.weight"].T
    taken = attend(queries, keys, values, sees) @ weights[f"{prefix}attn.to_out.weight"].T
    x = x + weights[f"{prefix}{attn_gate}"].tanh() * taken
    return x + weights[f"{prefix}{ff_gate}"].tanh() * feed_forward(x, weights, f"{prefix}{ff}.", act)


def logits_with(
    decoder: nn.Module, layers: nn.ModuleList, before: dict[int, Callable[[Tensor], Tensor]], ids: Tensor
) -> Tensor:
    """Logits of a decoder of `transformers` when something changes the hidden states before some of its layers."""

    def hook(change: Callable[[Tensor], Tensor]):
        def changed(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        return changed

    handles = [layers[i].register_forward_pre_hook(hook(change), with_kwargs=True) for i, change in before.items()]
    try:
        return decoder.eval()(input_ids=ids).logits
    finally:
        for handle in handles:
            handle.remove()
