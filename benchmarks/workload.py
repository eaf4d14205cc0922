"""The questions of the benchmarks: random words about noise, in the shape of VQA-RAD's."""

from io import BytesIO

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from processing.datasets import FEATURES
from processing.datasets.rows import make_row
from processing.processing_flamingo_med import FlamingoMedProcessor

WORDS = 50257  # as many as GPT-2 has tokens; with the special ones, the vocabulary of all models
SIDE = 224
OVERHEAD = 5  # <image> Question: … <EOQ> Answer: … <EOC>


def make_processor() -> FlamingoMedProcessor:
    """CLIP's preprocessing, and a tokenizer to which each word is one token."""
    words = ["Question:", "Answer:", *(f"w{i}" for i in range(WORDS - 2))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="Question:"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024)
    return FlamingoMedProcessor.from_vision_text_pretrained(None, fast, image_size=SIDE)


def make_rows(questions: int, images: int, shared: bool = True) -> Dataset:
    """Questions of which every `images`-th is about the same image, 8 to 40 tokens long with their answers of 1 to 3
    words (log-normal, about 16 in the mean).

    Args:
        questions, images: how many.
        shared: says which questions are about one image; otherwise every question counts as about its own.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randn(questions, generator=generator).mul(0.35).add(2.75).exp().round().long().clamp(8, 40)
    noise = [_png(number) for number in range(images)]
    rows = []
    for number, length in enumerate(lengths.tolist()):
        words = [f"w{i}" for i in torch.randint(0, WORDS - 2, (length - OVERHEAD,), generator=generator).tolist()]
        of_answer = min(int(torch.randint(1, 4, (1,), generator=generator)), len(words) - 1)
        rows.append(
            make_row(
                id=str(number),
                image_id=str(number % images if shared else number),
                image={"path": None, "bytes": noise[number % images]},
                question=" ".join(words[of_answer:]),
                answer=" ".join(words[:of_answer]),
            )
        )
    return Dataset.from_list(rows, features=FEATURES)


def _png(seed: int) -> bytes:
    """Noise, the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()
