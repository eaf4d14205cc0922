"""Tests; none of them asks the Hub, which is said here, before anything of Hugging Face is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
