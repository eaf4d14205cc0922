"""Registers our classes with the Auto classes of `transformers` without importing torch before anybody needs it.

`AutoModel.register` wants the classes themselves, and with them torch. `transformers` lists its own models by name,
and imports each when it is asked for; ours are added to the same lists as soon as their modules are imported.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODEL_TYPE = "flamingo_med"
AUTO = "transformers.models.auto"

# Module of `transformers` → its lists, and the name of our class in each.
LISTS = {
    f"{AUTO}.configuration_auto": {"CONFIG_MAPPING_NAMES": "FlamingoMedConfig"},
    f"{AUTO}.modeling_auto": dict.fromkeys(
        (
            "MODEL_MAPPING_NAMES",
            "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
            "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
        ),
        "FlamingoMedForConditionalGeneration",
    ),
    f"{AUTO}.processing_auto": {"PROCESSOR_MAPPING_NAMES": "FlamingoMedProcessor"},
}


class _AddsOurs(MetaPathFinder):
    """Finds the modules with the lists as Python does, and adds our names once they are executed."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """None for any other module, which then is found as ever."""
        spec = PathFinder.find_spec(name, path) if name in LISTS else None
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                for names, ours in LISTS[name].items():
                    getattr(module, names)[MODEL_TYPE] = ours

            spec.loader.exec_module = execute_and_add
        return spec


def register_lazily() -> None:
    """Make the Auto classes know ours, whether they have been imported already or will be."""
    if any(name in sys.modules for name in LISTS):  # too late for names: the lists have been read
        import modeling_flamingo_med  # noqa: F401 (which registers the classes)
    elif not any(isinstance(finder, _AddsOurs) for finder in sys.meta_path):
        # Where `transformers` looks for the classes of a model type; this package hands each out when asked.
        sys.modules[f"transformers.models.{MODEL_TYPE}"] = sys.modules["flamingo_med"]
        sys.meta_path.insert(0, _AddsOurs())
