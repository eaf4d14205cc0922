"""ModelTesterMixin, GenerationTesterMixin and ConfigTester of `transformers`, on our model and on LLaVA beside it."""

import unittest

import torch
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
)

from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration, FlamingoMedModel
from tests.conftest import SMALL
from tests.outsiders.theirs import theirs

common = theirs("test_modeling_common")
generation = theirs("generation.test_utils")
configuration = theirs("test_configuration_common")

WIDE = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 95, "eos_token_id": 97, "pad_token_id": 98}
TEXT = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=128, **IDS),
    "llama": LlamaConfig(**WIDE, vocab_size=99, max_position_embeddings=128, **IDS),
}
VISION = CLIPVisionConfig(**WIDE, image_size=8, patch_size=4, projection_dim=32)
IMAGE = 9  # tests make the vocabulary smaller, and extend batches with tokens below 5


class Tester:
    """What their suites ask of a model: a small configuration, inputs for it, and a few of its sizes."""

    batch_size, seq_length = 3, 9
    encoder_seq_length = seq_length
    num_hidden_layers, num_attention_heads, hidden_size = 2, 4, 32
    is_training = True

    def __init__(self, text: str, **config):
        self.text_config = TEXT[text].to_dict()
        self.vision_config = VISION.to_dict()
        self.config = config

    def get_config(self) -> FlamingoMedConfig:
        """A new configuration, since tests change it."""
        small = {name: value for name, value in SMALL.items() if name != "initializer_range"}
        small |= {"freeze_vision": False, "freeze_text": False}  # theirs are not frozen
        ids = {"image_token_id": IMAGE, "eos_token_id": 97, "pad_token_id": 98}
        parts = {"vision_config": dict(self.vision_config), "text_config": dict(self.text_config)}
        return FlamingoMedConfig(**parts, **ids, **{**small, "cross_attn_gate_init": 0.5, **self.config})

    def prepare_config_and_inputs_for_common(self) -> tuple[FlamingoMedConfig, dict[str, torch.Tensor]]:
        """The configuration and a batch: an image at the beginning of each row."""
        input_ids = common.ids_tensor([self.batch_size, self.seq_length], 80) + IMAGE + 1
        input_ids[:, 0] = IMAGE
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": self.pixels(),
        }

    def pixels(self) -> torch.Tensor:
        """(b n c h w)"""
        return common.floats_tensor([self.batch_size, 1, 3, 8, 8])


class LlavaTester(Tester):
    """The same of LLaVA, the measure: what it skips or fails is no fault of ours."""

    seq_length = encoder_seq_length = 9 + 4

    def get_config(self) -> LlavaConfig:
        """An image of four patches."""
        parts = {"vision_config": dict(self.vision_config), "text_config": dict(self.text_config)}
        return LlavaConfig(**parts, image_token_index=IMAGE, image_seq_length=4)

    def prepare_config_and_inputs_for_common(self) -> tuple[LlavaConfig, dict[str, torch.Tensor]]:
        """A token for each patch."""
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs["input_ids"][:, :4] = IMAGE
        return config, inputs

    def pixels(self) -> torch.Tensor:
        """(b c h w)"""
        return super().pixels().squeeze(1)


class Suite(common.ModelTesterMixin, generation.GenerationTesterMixin):
    """All that is asked of any of the models."""

    _is_composite = True
    additional_model_inputs = ["pixel_values"]  # noqa: RUF012 (as they read it); an <image> token needs its image
    text: str
    sizes: type[Tester] = Tester
    config_class = FlamingoMedConfig

    def setUp(self) -> None:
        """Before each test."""
        self.model_tester = self.sizes(self.text)
        self.config_tester = configuration.ConfigTester(
            self, config_class=self.config_class, has_text_modality=False, common_properties=["image_token_id"]
        )

    def test_config(self) -> None:
        """What is asked of the configuration."""
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs, model_class, return_labels)
        if return_labels:  # by the name of the class, theirs get theirs
            inputs.setdefault("labels", torch.zeros_like(inputs["input_ids"]))
        return inputs


class OursWithGPT2Test(Suite, unittest.TestCase):
    """Embeddings and output layer share their weights."""

    all_model_classes = (FlamingoMedModel, FlamingoMedForConditionalGeneration)
    # CLIP's post_layernorm has no part in the features. LLaVA is not asked this at all.
    test_all_params_have_gradient = False
    text = "gpt2"

    def test_training(self) -> None:
        """By its place in AutoModel they know a bare model, which has no loss; ours has the one that answers there."""
        self.all_model_classes = (FlamingoMedForConditionalGeneration,)
        super().test_training()

    def check_training_gradient_checkpointing(self, *args, **kwargs) -> None:
        """As `test_training`."""
        self.all_model_classes = (FlamingoMedForConditionalGeneration,)
        super().check_training_gradient_checkpointing(*args, **kwargs)


class OursWithLlamaTest(OursWithGPT2Test):
    """They do not."""

    text = "llama"


class LlavaTest(Suite, unittest.TestCase):
    """Theirs."""

    all_model_classes = (LlavaModel, LlavaForConditionalGeneration)
    sizes = LlavaTester
    config_class = LlavaConfig
    text = "llama"
