"""FlamingoMedPreTrainedModel: how weights begin, are saved and are loaded, with the backbones or without."""

import copy
import logging
import os
from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import cached_file

from .backbones_flamingo_med import load_language_model, load_vision_encoder, resize_embeddings
from .configuration_flamingo_med import FlamingoMedConfig
from .layers_flamingo_med import FlamingoMedGate
from .manifest_flamingo_med import MANIFEST, check_folder, model_files, write_manifest
from .perceiver_flamingo_med import FlamingoMedPerceiverResampler

AUTO_CLASSES = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
HEAD = ("id2label", "problem_type", "use_image_embeddings")  # what decides on the weights of a head

logger = logging.getLogger(__name__)
_told: set[str] = set()  # folders of which it was said that they have no manifest


class FlamingoMedPreTrainedModel(PreTrainedModel):
    """Weights: initialisation, loading and saving."""

    config_class = FlamingoMedConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _tied_weights_keys = {}  # noqa: RUF012 (none of its own; where it is None, PEFT does not look into the decoder)
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Modules that stay on one device, and whose weights FSDP gathers together. What works outside of `forward`, on the
    # images before generation, has to be one of them.
    _no_split_modules = [  # noqa: RUF012
        "FlamingoMedPerceiverResampler",
        "FlamingoMedGatedCrossAttention",
        "FlamingoMedKeyValues",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FlamingoMedGate | FlamingoMedPerceiverResampler):
            module.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args,
        config: FlamingoMedConfig | None = None,
        **kwargs,
    ):
        """As in `transformers`; what the configuration freezes is frozen in the loaded model too.

        A checkpoint that was saved without its backbones gets their weights from where they came from.

        Raises:
            ValueError: a file is missing, cut or changed by what the folder's manifest says, or weights are missing.
        """
        name = pretrained_model_name_or_path
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        folder = Path(name or "", hub.get("subfolder", ""))  # without a name the weights are given
        if name and folder.is_dir() and check_folder(folder) is None and str(folder) not in _told:
            _told.add(str(folder))
            logger.warning(f"{folder} has no {MANIFEST}, so nothing shows that its files are what they were")
        if config is None:
            saved, _ = FlamingoMedConfig.get_config_dict(name, **hub)
            settings = {key: kwargs.pop(key) for key in FlamingoMedConfig.settings() if key in kwargs}
            config = FlamingoMedConfig.from_dict(saved | settings)  # so that what depends on a setting follows it
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
        if not folder.is_dir():
            _check_download(name, hub)
        had = FlamingoMedConfig.from_pretrained(name, **hub) if info["missing_keys"] else config
        if missing := lacking(info["missing_keys"], had, config):
            names = ", ".join(missing[:3])
            raise ValueError(f"{name} lacks {len(missing)} weights that its config.json asks for, such as {names}")
        if any(key.startswith("new_tokens.") for key in info["unexpected_keys"]):
            raise ValueError(f"{name} was saved with its new tokens apart: load it with train_embeddings='new'")
        if any(key.startswith("new_tokens.") for key in info["missing_keys"]):
            model.new_tokens.copy_from(model.get_input_embeddings(), model.get_output_embeddings())
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
        if self.is_remote_code():  # the code goes with it, and `transformers` names the model to one Auto class only
            reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
            self.config.auto_map = dict.fromkeys(AUTO_CLASSES, reference)
        if save_backbones:
            self._save(save_directory, *args, state_dict=state_dict, **kwargs)
            return
        for part in ("vision", "text"):
            if part not in self.config.backbones:
                raise ValueError(f"the {part} part began with random weights; save it too: save_backbones=True")
        ours = self.changed_weights(self.state_dict() if state_dict is None else state_dict)
        self.config.backbones_saved = False
        try:
            self._save(save_directory, *args, state_dict=ours, **kwargs)
        finally:
            self.config.backbones_saved = True

    def _save(self, folder: str | os.PathLike, is_main_process: bool = True, *args, **kwargs) -> None:
        """As `save_pretrained` of `transformers`, and the manifest, last; what is pushed holds it too."""
        pushes = kwargs.pop("push_to_hub", False)
        of_pushing = ("repo_id", "commit_message", "private", "revision", "create_pr", "token")
        push = {key: kwargs.pop(key) for key in of_pushing if pushes and key in kwargs}
        super().save_pretrained(folder, is_main_process, *args, **kwargs)
        if is_main_process and Path(folder).is_dir():
            write_manifest(folder, model_files(folder))
        if pushes:
            self.push_to_hub(push.pop("repo_id", Path(folder).name), **push)

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


def lacking(missing: set[str], had: FlamingoMedConfig, config: FlamingoMedConfig) -> list[str]:
    """Names of weights that a checkpoint lacks and should hold: all but new tokens, and a head that it did not have.

    Args:
        missing: the names that were not found in it.
        had, config: its configuration, and that of the model that was made of it.
    """
    new_head = any(getattr(had, name) != getattr(config, name) for name in HEAD)
    new = ("new_tokens.", "classifier.") if new_head else ("new_tokens.",)
    return sorted(name for name in missing if not name.startswith(new))


def _check_download(name: str, hub: dict) -> None:
    """Of a repository on the Hub, what was downloaded is checked where there is a manifest."""
    quiet = ("missing_entries", "connection_errors", "gated_repo")
    found = cached_file(name, MANIFEST, **hub, **{f"_raise_exceptions_for_{kind}": False for kind in quiet})
    if found is not None:
        check_folder(Path(found).parent, absent=True)


def backbone_weights(config: FlamingoMedConfig) -> dict[str, Tensor]:
    """The weights of image encoder and decoder as they came, by their names in our model.

    Raises:
        OSError: they are no longer where they came from.
    """
    vision, text = config.backbones["vision"], config.backbones["text"]
    try:
        vision_encoder = load_vision_encoder(vision["name"], config.vision_feature_select, vision["revision"])
        language_model = load_language_model(text["name"], text["revision"])
    except (OSError, ValueError) as error:
        names = f"{vision['name']} and {text['name']}"
        raise OSError(f"the checkpoint was saved without its backbones and needs {names}: {error}") from error
    resize_embeddings(language_model, config.text_config.vocab_size)
    parts = {"vision_encoder": vision_encoder, "language_model": language_model}
    return {
        f"{part}.{name}": weight
        for part, model in parts.items()
        for name, weight in model.state_dict().items()
        if name not in model.all_tied_weights_keys  # they are those of another name
    }


def checkpoint_weights(name: str, subfolder: str = "", **hub) -> dict[str, Tensor]:
    """All weights in the safetensors files of a Hub id or local folder."""
    folder = name if Path(name).is_dir() else snapshot_download(name, allow_patterns="*.safetensors", **hub)
    files = sorted(Path(folder, subfolder).glob("*.safetensors"))
    if not files:
        raise OSError(f"{name} holds no safetensors file")
    return {key: weight for file in files for key, weight in load_file(file).items()}
