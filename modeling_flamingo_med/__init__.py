"""The model: configuration, Perceiver resampler, gated cross-attention, and the whole of them.

Importing this package registers the Auto classes: `AutoModel`, `AutoModelForImageTextToText` and
`AutoModelForMultimodalLM` then load the model that answers from our checkpoints, and `AutoProcessor` its processor;
`FlamingoMedModel.from_pretrained` loads the bare one. Those it saves carry their code, so that they load without it
too, by `trust_remote_code=True`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

try:
    from processing.processing_flamingo_med import FlamingoMedProcessor
except ModuleNotFoundError as error:
    if error.name != "processing.processing_flamingo_med":
        raise
    import processing

    raise ImportError(f"{processing.__file__} is in the way of flamingo-med's package processing: rename it") from None

from .bare_flamingo_med import FlamingoMedModel
from .configuration_flamingo_med import FlamingoMedConfig
from .cross_attention_flamingo_med import FlamingoMedGatedCrossAttention
from .modeling_flamingo_med import FlamingoMedForConditionalGeneration
from .perceiver_flamingo_med import FlamingoMedPerceiverResampler
from .pretrained_flamingo_med import FlamingoMedPreTrainedModel

# `import flamingo_med` may have registered their names already.
AutoConfig.register("flamingo_med", FlamingoMedConfig, exist_ok=True)
AutoModel.register(FlamingoMedConfig, FlamingoMedForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(FlamingoMedConfig, FlamingoMedForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(FlamingoMedConfig, FlamingoMedForConditionalGeneration, exist_ok=True)
AutoProcessor.register(FlamingoMedConfig, FlamingoMedProcessor, exist_ok=True)

FlamingoMedConfig.register_for_auto_class("AutoConfig")
FlamingoMedForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
FlamingoMedProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "FlamingoMedConfig",
    "FlamingoMedForConditionalGeneration",
    "FlamingoMedGatedCrossAttention",
    "FlamingoMedModel",
    "FlamingoMedPerceiverResampler",
    "FlamingoMedPreTrainedModel",
    "FlamingoMedProcessor",
]
