"""A peer's special tokens in a tokenizer, and the decoder's rows for them."""

import torch
from torch import nn
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from flamingo_med.conversion.peer import Peer, Tokens
from flamingo_med.conversion.source import Source
from flamingo_med.conversion.weights import Renamed
from processing.errors import InputError
from processing.processing_flamingo_med import END_OF_QUESTION
from processing.tokenization import load_tokenizer


def tokenizer_with(tokens: Tokens, name: str) -> PreTrainedTokenizerBase:
    """A tokenizer with the special tokens of a peer, numbered as the peer numbers them.

    Raises:
        InputError: no tokenizer there.
    """
    tokenizer = load_tokenizer(name)
    own_end = tokenizer.eos_token
    # The processor writes a space before the end of an answer, which the tokenizer is to swallow.
    end = AddedToken(tokens.end_of_chunk or own_end, lstrip=True, special=True)
    others = [AddedToken(token, lstrip=token == END_OF_QUESTION, special=True) for token in tokens.others]
    tokenizer.add_special_tokens(
        {"eos_token": end, "extra_special_tokens": others}, replace_extra_special_tokens=False
    )
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": tokens.pad or own_end})
    return tokenizer


@torch.no_grad()
def fit_vocabulary(
    language_model: PreTrainedModel,
    renamed: Renamed,
    tokenizer: PreTrainedTokenizerBase,
    peer: Peer,
    source: Source,
) -> list[str]:
    """Give the decoder as many rows as the source has; new ones begin as the mean of the others.

    Returns:
        names of the matrices whose new rows stay so, as the source does not hold them.

    Raises:
        InputError: the source has no embeddings, or another number of them than the tokenizer has tokens.
    """
    before = language_model.get_input_embeddings().num_embeddings
    names = _names_of(language_model, language_model.get_input_embeddings())
    held = [len(renamed.weights[name]) for name in names if name in renamed.weights]
    if peer.tokens.resized and not held:
        raise InputError(f"{source.path} lacks the weights of {names[0]}, in which are those of added tokens")
    rows = held[0] if held else max(before, len(tokenizer))
    if rows < len(tokenizer) or (peer.tokens.resized and rows != len(tokenizer)):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path} has {len(tokenizer)} tokens with those of {peer.name}, but "
            f"{source.path} has {rows} rows for them; --text names another decoder than it was trained with"
        )
    language_model.resize_token_embeddings(rows, mean_resizing=False)
    kept = []
    for layer in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
        layer.weight[before:] = layer.weight[:before].mean(0)
        names = _names_of(language_model, layer)
        if rows > before and renamed.weights.keys().isdisjoint(names) and names[0] not in kept:
            kept.append(names[0])
    return kept


def _names_of(language_model: PreTrainedModel, layer: nn.Module) -> list[str]:
    """The names in our model of a layer's weight: two where it is tied."""
    parameters = language_model.named_parameters(remove_duplicate=False)
    return [f"language_model.{name}" for name, p in parameters if p is layer.weight]
