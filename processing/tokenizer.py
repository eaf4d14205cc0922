"""A byte-level BPE tokenizer trained on the words of a data set, for decoders that start from random weights."""

from collections.abc import Iterable

from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 8192, model_max_length: int = 1024
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE, the kind GPT-2 uses, which can write any text in any alphabet.

    Args:
        texts: what it learns from.
        vocab_size: at most so many tokens; 256 of them are the bytes.
        model_max_length: the decoder's context, in tokens.
    """
    bpe = ByteLevelBPETokenizer()
    # A leading space as in running text: in a prompt every question and answer follows one.
    bpe.train_from_iterator((f" {text}" for text in texts), vocab_size=vocab_size, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=model_max_length)
