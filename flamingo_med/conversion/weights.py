"""Weights of another Flamingo under our names, the settings that their shapes tell, and their way into our model."""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flamingo_med.conversion.peer import Peer
from flamingo_med.conversion.source import Source
from modeling_flamingo_med.modeling_flamingo_med import FlamingoMedForConditionalGeneration
from processing.errors import InputError

# What older versions of transformers saved although the model computes it.
COMPUTED = r".*(\.rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias|\.embeddings\.position_ids)"


@dataclass
class Renamed:
    """The weights of a source under our names.

    Attributes:
        weights: by our names.
        origins: the names that each had in the source.
        layers: the numbers that the source gives to its gated cross-attentions.
        left: names in the source of what the model computes itself.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)
    layers: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def rename_weights(source: Source, peer: Peer) -> Renamed:
    """Every weight of the source under our name.

    Raises:
        InputError: a weight that has no name here, or two different ones of the same name.
    """
    renamed = Renamed()
    parts: dict[str, dict[int, str]] = {}
    for name in source.weights:
        if re.fullmatch(COMPUTED, name):
            renamed.left.append(name)
            continue
        ours = peer.rename(name)
        if ours is None:
            raise InputError(f"{name} in {source.path} has no counterpart here; only plain {peer.name} is converted")
        ours, _, number = ours.partition("#")
        renamed.origins.setdefault(ours, []).append(name)
        twin = parts.setdefault(ours, {}).setdefault(int(number or 0), name)
        if not torch.equal(source.weights[twin], source.weights[name]):
            raise InputError(f"{twin} and {name} in {source.path} should be the same weight but differ")
    for ours, names in parts.items():
        pieces = [source.weights[names[number]] for number in sorted(names)]
        renamed.weights[ours] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    _number_renamed_again(renamed)
    return renamed


def _number_renamed_again(renamed: Renamed) -> None:
    """Count the gated cross-attentions from 0, whatever their numbers in the source."""
    numbers = {int(m[1]) for m in (re.match(r"cross_attn\.(\d+)\.", name) for name in renamed.weights) if m}
    renamed.layers = sorted(numbers)
    place = {number: i for i, number in enumerate(renamed.layers)}

    def renamed_again(name: str) -> str:
        return re.sub(r"^cross_attn\.(\d+)\.", lambda match: f"cross_attn.{place[int(match[1])]}.", name)

    renamed.weights = {renamed_again(name): weight for name, weight in renamed.weights.items()}
    renamed.origins = {renamed_again(name): origins for name, origins in renamed.origins.items()}


def settings_of(renamed: Renamed, settings: dict, source: Source, num_layers: int) -> dict:
    """The given settings of `FlamingoMedConfig`, completed by what the weights themselves tell.

    Args:
        renamed: the weights.
        settings: what they do not tell; the width of a head is 64 where it is not given.
        source: where they come from.
        num_layers: of the decoder.

    Raises:
        InputError: no resampler or no gated cross-attention, heads that do not divide their width, or layers that are
            not evenly spaced.
    """
    settings = {"resampler_head_dim": 64, "cross_attn_head_dim": 64, **settings}
    weights, layers = renamed.weights, {"resampler": "resampler.layers.0", "cross_attn": "cross_attn.0"}
    for name in (
        "resampler.latents",
        *(f"{layer}.{a}.weight" for layer in layers.values() for a in ("attn.to_q", "ff.3")),
    ):
        if name not in weights:
            raise InputError(f"{source.path} lacks the weights of {name}, which a whole checkpoint has")
    for part, layer in layers.items():
        queries, head_dim = len(weights[f"{layer}.attn.to_q.weight"]), settings[f"{part}_head_dim"]
        if head_dim < 1 or queries % head_dim:
            name = renamed.origins[f"{layer}.attn.to_q.weight"][0]
            raise InputError(
                f"heads of width {head_dim} do not divide the {queries} of {name} in {source.path}; give the right "
                f"width as --config.{part}_head_dim"
            )
        width, inner = weights[f"{layer}.ff.3.weight"].shape
        settings[f"{part}_num_heads"] = queries // head_dim
        settings[f"{part}_ff_mult"] = inner // width if inner % width == 0 else inner / width
    settings["resampler_num_latents"] = len(weights["resampler.latents"])
    settings["resampler_depth"] = len({n.split(".")[2] for n in weights if n.startswith("resampler.layers.")})
    settings["resampler_max_frames"] = len(weights.get("resampler.times", [None]))
    settings["resampler_max_images"] = len(weights.get("resampler.numbers", []))
    return spacing(renamed.layers, num_layers, source) | settings


def spacing(layers: list[int], num_layers: int, source: Source) -> dict:
    """Before which of the decoder's layers gated cross-attentions stand, as settings.

    Raises:
        InputError: they are not evenly spaced.
    """
    step = layers[1] - layers[0] if len(layers) > 1 else num_layers
    if layers != list(range(layers[0], layers[-1] + 1, step)):
        raise InputError(f"the gated cross-attentions of {source.path} are not evenly spaced: layers {layers}")
    return {"cross_attn_first_layer": layers[0], "cross_attn_every_n_layers": step}


@torch.no_grad()
def load_weights(
    model: FlamingoMedForConditionalGeneration, renamed: Renamed, source: Source, complete: set[str]
) -> None:
    """Put the weights in their places, all of them, and leave no place empty.

    Args:
        model: our model.
        renamed: the weights.
        source: where they come from.
        complete: "vision_encoder" or "language_model", where these have their other weights from elsewhere.

    Raises:
        InputError: a weight that finds no place or has another shape, or a place without a weight.
    """
    places = model.state_dict()
    for ours, weight in renamed.weights.items():
        names = " and ".join(renamed.origins[ours])
        if ours not in places:
            raise InputError(f"{names} in {source.path} finds no place in the model, which has no {ours}")
        if places[ours].shape != weight.shape:
            shapes = f"{tuple(weight.shape)}, but the model's {ours} is {tuple(places[ours].shape)}"
            raise InputError(f"{names} in {source.path} is {shapes}; is the decoder or image encoder another one?")
    for alias, ours in model.all_tied_weights_keys.items():
        pair = [renamed.weights[name] for name in (alias, ours) if name in renamed.weights]
        if len(pair) == 2 and not torch.equal(*pair):
            names = " and ".join(renamed.origins[alias] + renamed.origins[ours])
            raise InputError(f"{names} in {source.path} differ, but the decoder ties them")
    for ours, weight in renamed.weights.items():
        places[ours].copy_(weight)
    filled = renamed.weights.keys() | {
        ours for alias, ours in model.all_tied_weights_keys.items() if alias in renamed.weights
    }
    for ours in sorted(places.keys() - filled - model.all_tied_weights_keys.keys()):
        if ours.split(".")[0] not in complete:
            raise InputError(f"{source.path} lacks the weights of {ours}, which a whole checkpoint has")
