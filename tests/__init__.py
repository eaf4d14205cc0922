"""Tests; what holds for all of them and the commands that they start is said here, before anything is imported."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]

os.environ["HF_HUB_OFFLINE"] = "1"  # none asks the Hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two threads each get in each other's way
