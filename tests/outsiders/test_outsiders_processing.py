"""transformers' own suite for processors, `ProcessorTesterMixin`, on ours. Run by `.ci/outsiders`.

31 of its tests are skipped, and all of these on LlavaProcessor as well: 28 are about videos, sounds, or libraries for
them, two about counting their tokens, and one about templates that know tools.
"""

import sys
import unittest
from types import ModuleType

import torch

from modeling_flamingo_med import FlamingoMedProcessor
from processing.tokenization import train_tokenizer
from tests import ROOT
from tests.outsiders.theirs import theirs

# What their suite fetches pictures with is not in the archive, and there may be no network: all are this one.
fetching = sys.modules.setdefault("fetch_hub_objects_for_ci", ModuleType("fetch_hub_objects_for_ci"))
fetching.url_to_local_path = lambda url: str(ROOT / "docs" / "phantom.png")
common = theirs("test_processing_common")


class FlamingoMedProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    """Their tests on a processor with a tokenizer of a few hundred tokens."""

    processor_class = FlamingoMedProcessor

    @classmethod
    def setUpClass(cls):
        tokenizer = train_tokenizer(["lower newer upper older longer string"] * 3, 320)
        cls.parts = FlamingoMedProcessor.from_vision_text_pretrained(None, tokenizer, image_size=32)
        super().setUpClass()

    @classmethod
    def _setup_image_processor(cls):
        return cls.parts.image_processor

    @classmethod
    def _setup_tokenizer(cls):
        return cls.parts.tokenizer

    def test_subprocessor_defaults_1_images(self):
        """As theirs says it, but for the axis of a question's images, which no image processor has."""
        image = self.prepare_images_inputs()
        alone = self.get_component("image_processor")(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(self.get_processor()(images=image)["pixel_values"], alone.unsqueeze(0))
