"""Attention composed along the whole path: answer token → latents → encoder's features → patches.

`attention` is attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928) through decoder, resampler and image
encoder, joined by the gated cross-attentions at the strength of their gates. `attention_gradients` replaces the
attention weights by the positive part of weights × gradients (Chefer et al. 2021, arXiv:2103.15679); those gradients
hold the gates already. A convolutional encoder has no attention: the path ends in its feature map. What a
classification head sees of the image itself (`use_image_embeddings`) is not on this path.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from flamingo_med.explanation.case import Case, require_patches
from modeling_flamingo_med.configuration_flamingo_med import FlamingoMedConfig
from modeling_flamingo_med.layers_flamingo_med import record_attention_weights
from modeling_flamingo_med.modeling_flamingo_med import FlamingoMedOutput
from processing.errors import InputError


@dataclass
class Path:
    """Attention weights of one pass over one image and r texts, in the order of their layers.

    Attributes:
        decoder: (r a t t); [] where the decoder returns none, so that each token keeps what it took itself.
        cross: (r a t l) of the gated layers.
        resampler: (1 a l (p + l))
        encoder: (1 a p p); [] where the encoder returns none.
    """

    decoder: list[Tensor]
    cross: list[Tensor]
    resampler: list[Tensor]
    encoder: list[Tensor]

    def weights(self) -> list[Tensor]:
        """Those of all layers."""
        return [*self.decoder, *self.cross, *self.resampler, *self.encoder]

    def apply(self, tensors: list[Tensor]) -> "Path":
        """The same path with other weights, in the order of `weights`."""
        left = iter(tensors)
        parts = (self.decoder, self.cross, self.resampler, self.encoder)
        return Path(*([next(left) for _ in part] for part in parts))


@torch.no_grad()
def attention(case: Case) -> tuple[Tensor, str]:
    """Maps (k rows columns) of where answer tokens look, whatever they make of it, and the path.

    Raises:
        InputError: an alternative answer, which looks at the same place; a model with one pooled vector.
    """
    require_patches(case, "attention")
    if (case.target.weights < 0).any():
        raise InputError("attention alone cannot tell an answer from its alternative; take attention_gradients")
    _, outputs, path = _record(case, case.pixels)
    mean = path.apply([one.mean(1) for one in path.weights()])
    gates = [layer.attn_gate.alpha.tanh().abs() for layer in case.model.cross_attn]
    # Those of the output, in which tokens that see no image take nothing.
    mean.cross = [gate * one.mean(1) for gate, one in zip(gates, outputs.cross_attentions, strict=True)]
    tokens = _compose(mean, case.model.config, keep=0.5)  # (r t p)
    weights = case.target.weights / case.target.weights.sum((1, 2), keepdim=True)
    return _on_grid(case, einsum(weights, tokens, "k r t, r t p -> k p")), _name(path)


def attention_gradients(case: Case) -> tuple[Tensor, str]:
    """Maps (k rows columns) of where attention raises the target, and the path.

    Raises:
        InputError: a model with one pooled vector.
    """
    require_patches(case, "attention_gradients")
    values, _, path = _record(case, case.pixels.detach().requires_grad_())
    maps = []
    for value, weights in zip(values[0], case.target.weights, strict=True):
        gradients = torch.autograd.grad(value, path.weights(), retain_graph=True, materialize_grads=True)
        raised = [
            (one * gradient).clamp(min=0).mean(1).detach()
            for one, gradient in zip(path.weights(), gradients, strict=True)
        ]
        tokens = _compose(path.apply(raised), case.model.config, keep=1.0)
        maps.append(einsum((weights != 0).float(), tokens, "r t, r t p -> p"))
    return _on_grid(case, torch.stack(maps)), _name(path)


def _record(case: Case, pixels: Tensor) -> tuple[Tensor, FlamingoMedOutput, Path]:
    """The target's values (1 k), the output, and the very attention weights that both were computed with."""
    model, encoder = case.model, case.model.vision_encoder
    encoded: list[ModelOutput] = []

    def ask_for_weights(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "output_attentions": True}

    hooks = [
        encoder.register_forward_pre_hook(ask_for_weights, with_kwargs=True),
        encoder.register_forward_hook(lambda module, args, output: encoded.append(output)),
    ]
    try:
        with (
            _eager(model.language_model),
            _eager(encoder),
            record_attention_weights(model.attentions()) as ours,
        ):
            asked = {"output_cross_attentions": True, "output_attentions": True}
            values, outputs = case.target.run(model, pixel_values=pixels, **asked)
    finally:
        for hook in hooks:
            hook.remove()
    of_encoder = list(encoded[0].get("attentions") or [])
    # Layers behind the one whose features are taken have no part in the answer.
    of_encoder = of_encoder[: model.config.vision_feature_layer % (len(of_encoder) + 1)]
    of_decoder = list(outputs.attentions or [])
    of_cross, of_resampler = (
        [ours[layer.attn] for layer in part] for part in (model.cross_attn, model.resampler.layers)
    )
    path = Path(of_decoder, of_cross, of_resampler, of_encoder)
    return values, outputs, path


@contextmanager
def _eager(part: PreTrainedModel) -> Iterator[None]:
    """Within, the part computes attention step by step, the only way that returns its weights."""
    before = part.config._attn_implementation
    part.set_attn_implementation("eager")
    try:
        yield
    finally:
        part.set_attn_implementation(before)


def _compose(path: Path, config: FlamingoMedConfig, keep: float) -> Tensor:
    """How much of each patch each token has taken in, (r t p), from weights (r t t), (r t l), (1 l (p + l)), (1 p p).

    Args:
        keep: share of itself, and of what it takes, that a state passes on: 0.5 averages both, 1 adds them.
    """
    r, t, latents = path.cross[0].shape
    taken = path.cross[0].new_zeros(r, t, latents)
    first, every = config.cross_attn_first_layer, config.cross_attn_every_n_layers
    gated = dict(zip(count(first, every), path.cross, strict=False))  # by the decoder's layer that each stands before
    for layer in range(len(path.decoder) or max(gated) + 1):
        if layer in gated:
            taken = taken + gated[layer]
        if path.decoder:
            taken = keep * (taken + path.decoder[layer] @ taken)

    patches = path.resampler[0].shape[-1] - latents
    features = path.cross[0].new_zeros(1, latents, patches)  # the learned latents hold nothing of the image
    for one in path.resampler:
        features = keep * (features + one[..., :patches] + one[..., patches:] @ features)

    tokens = path.encoder[0].shape[-1] if path.encoder else patches
    origin = torch.eye(tokens, device=features.device, dtype=features.dtype)
    for one in path.encoder:
        origin = keep * (origin + one @ origin)
    return taken @ features @ origin[..., -patches:, :]  # where only patches are taken, class and registers come first


def _on_grid(case: Case, features: Tensor) -> Tensor:
    """(k p) → (k rows columns): class and register tokens come before the patches, and have no place."""
    grid = case.grid
    patches = features[:, -grid.rows * grid.columns :]
    return rearrange(patches, "k (rows columns) -> k rows columns", rows=grid.rows).float()


def _name(path: Path) -> str:
    """Which layers the path went through."""
    decoder = "decoder × " if path.decoder else ""
    encoder = "image encoder" if path.encoder else "its features"
    return f"{decoder}gated cross-attention × resampler × {encoder}"
