"""A tokenizer for the words of a data set: trained from nothing, or a decoder's own with more words in one piece."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from datasets import Dataset, IterableDataset
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from processing.errors import InputError

MIN_FREQUENCY = 5  # a token met less often than that in training has no chance to learn what it means


def texts_of(rows: Dataset | IterableDataset) -> Iterator[str]:
    """Questions and answers (which may be reports) as they stand in a prompt."""
    for row in rows.select_columns(["question", "answer"]):
        yield f"Question: {row['question']} Answer: {row['answer']}"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE, the kind GPT-2 uses, which can write any text in any alphabet.

    Args:
        texts: what it learns from.
        vocab_size: at most so many tokens; 256 of them are the bytes.

    Returns:
        a tokenizer whose `model_max_length` is GPT-2's; another decoder's context is to be set.
    """
    bpe = ByteLevelBPETokenizer()
    # A leading space as in running text: in a prompt every question and answer follows one.
    bpe.train_from_iterator((f" {text}" for text in texts), vocab_size=vocab_size, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=1024)


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], vocab_size: int
) -> PreTrainedTokenizerBase:
    """Go on learning the merges of a BPE where it stopped, on other texts.

    All its tokens keep their numbers, and all its merges come first, so every text has the same pieces as before or
    pieces that are made of them.

    Args:
        tokenizer: a BPE that splits texts into words first, as those of GPT-2 and of most decoders do; left alone.
        texts: what it learns from.
        vocab_size: at most so many tokens, the old ones included.

    Raises:
        InputError: another kind of tokenizer, or no room for a new token.
    """
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.model, models.BPE) or backend.pre_tokenizer is None:
        raise InputError("only a BPE tokenizer that splits texts into words, such as gpt2's, can be extended")
    if vocab_size <= len(tokenizer):
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens already; give a larger vocab_size")
    spec = json.loads(backend.to_str())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    number = max(tokenizer.get_vocab().values()) + 1
    for pair in _learn_merges(backend, texts, vocab_size - len(tokenizer)):
        merges.append(list(pair))
        if vocab.setdefault("".join(pair), number) == number:
            number += 1
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder)


def _learn_merges(backend: Tokenizer, texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """At most so many merges of the tokens of a BPE, the most frequent first."""
    words: Counter[str] = Counter()
    for text in texts:
        normal = backend.normalizer.normalize_str(f" {text}") if backend.normalizer else f" {text}"
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    # The library learns merges of characters only, so a character stands for each token.
    tokens = {word: [token.value for token in backend.model.tokenize(word)] for word in sorted(words)}
    alphabet = sorted({token for pieces in tokens.values() for token in pieces})
    character = {token: chr(0x10000 + i) for i, token in enumerate(alphabet)}
    token_of = {c: token for token, c in character.items()}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spelled = ("".join(character[token] for token in tokens[word]) for word, n in words.items() for _ in range(n))
    settings = {"vocab_size": len(alphabet) + count, "min_frequency": MIN_FREQUENCY, "show_progress": False}
    learner.train_from_iterator(spelled, trainers.BpeTrainer(**settings))
    pairs = json.loads(learner.to_str())["model"]["merges"]
    return [tuple("".join(token_of[c] for c in side) for side in pair) for pair in pairs]


@torch.no_grad()
def extend_embeddings(model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """Give a model rows for the tokens that `new` has beyond `old`: each the mean of the rows of its old pieces.

    Args:
        model: a causal LM; its input and output embeddings are resized where needed.
        old: the model's tokenizer.
        new: a tokenizer extended from it.

    Raises:
        InputError: `new` is not `old` extended: it gives a token another number.
    """
    numbers = new.get_vocab()
    changed = [token for token, number in old.get_vocab().items() if numbers.get(token) != number]
    if changed:
        raise InputError(
            f"{len(changed)} tokens of the decoder's own tokenizer have another number or none in {new.name_or_path}; "
            "extend the decoder's own, see flamingo-med tokenizer --help"
        )
    if len(new) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(new), mean_resizing=False)
    matrices = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    for token in sorted(numbers.keys() - old.get_vocab().keys()):
        pieces = [piece.id for piece in old.backend_tokenizer.model.tokenize(token)]
        for weight in matrices.values():
            weight[numbers[token]] = weight[pieces].mean(0)


def tokens_per_word(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> float:
    """How many tokens a word has, on average; words are what stands between white space."""
    texts = [f" {text}" for text in texts]
    return sum(len(tokenizer.tokenize(text)) for text in texts) / sum(len(text.split()) for text in texts)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or folder.

    Raises:
        InputError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer at {name}: {str(error).splitlines()[0]}") from None
