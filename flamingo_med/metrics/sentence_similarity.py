"""Cosine of the sentence embeddings of prediction and reference, by an encoder of the user's choice.

    evaluate.load("flamingo_med/metrics/sentence_similarity.py").compute(
        predictions=["left lung"], references=["the left lung"], encoder="FOLDER-OR-HUB-ID"
    )

It is blind to negation: "effusion" and "no effusion" are neighbours to most encoders, and so are left and right. Never
report it alone.

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

from collections.abc import Sequence

import datasets
import evaluate
import torch
from transformers import AutoModel, AutoTokenizer

VERSION = "v1"
ENCODED_AT_ONCE = 64


def signature(encoder: str) -> str:
    """What is printed beside every number of this metric."""
    return f"sentence_similarity|{VERSION}|encoder:{encoder}|pool:mean|references:max|blind-to-negation"


def similarities(predictions: Sequence[str], references: Sequence[str | Sequence[str]], encoder: str) -> list[float]:
    """Cosine of each prediction and its nearest reference, -1 to 1; NaN for a row without references.

    Args:
        predictions: (n)
        references: (n) of each row one text, or several.
        encoder: Hub id or local folder of any model that `AutoModel` and `AutoTokenizer` load.
    """
    listed = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    every = list(dict.fromkeys([*predictions, *(text for texts in listed for text in texts)]))
    vectors = dict(zip(every, embed(every, encoder), strict=True))
    return [
        max((float(vectors[prediction] @ vectors[text]) for text in texts), default=float("nan"))
        for prediction, texts in zip(predictions, listed, strict=True)
    ]


@torch.no_grad()
def embed(texts: Sequence[str], encoder: str) -> torch.Tensor:
    """Mean of the encoder's last hidden states over the tokens of each text, of length 1: (n) → (n d)."""
    tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
    model = AutoModel.from_pretrained(encoder, trust_remote_code=False).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    vectors = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        some = list(texts[start : start + ENCODED_AT_ONCE])
        tokens = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        states = model(**tokens).last_hidden_state.float() * mask
        vectors.append(states.sum(1) / mask.sum(1).clamp(min=1))
    return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)


class SentenceSimilarity(evaluate.Metric):
    """`compute(predictions, references, encoder=…)` → {"sentence_similarity": mean over the rows, -1 to 1}.

    `references` is a list of strings, or a list of lists of accepted answers; not a mixture of both.
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description=(
                "Cosine of sentence embeddings. Blind to negation: 'effusion' and 'no effusion' are neighbours to "
                "most encoders, and so are left and right. Never report it alone."
            ),
            citation="Reimers and Gurevych, Sentence-BERT, EMNLP 2019.",
            inputs_description="predictions: strings; references: strings, or lists of them; encoder: name or folder.",
            features=[
                datasets.Features({"predictions": value, "references": value}),
                datasets.Features({"predictions": value, "references": datasets.List(value)}),
            ],
        )

    def _compute(self, predictions: list[str], references: list, encoder: str) -> dict[str, float]:
        values = similarities(predictions, references, encoder)
        return {"sentence_similarity": sum(values) / len(values)}
