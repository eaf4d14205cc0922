"""FlamingoMedClassificationHead: classes from the decoder's state at the end of a question about an image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FlamingoMedClassificationHead(nn.Module):
    """LayerNorm → dropout → linear, of the hidden state at `<EOQ>` and, where wanted, the mean latent of the image.

    Args:
        width: of the decoder's last hidden states.
        image_width: of the image's latents; 0 where the head does not see them.
        num_labels: number of classes.
        dropout: probability.
    """

    def __init__(self, *, width: int, image_width: int, num_labels: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width + image_width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width + image_width, num_labels)

    def reset_parameters(self) -> None:
        """For other classes than before: as `transformers` initialises such layers."""
        self.norm.reset_parameters()
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, question: Tensor, image: Tensor | None = None) -> Tensor:
        """(b d), (b d) → logits (b num_labels), not probabilities."""
        features = question if image is None else torch.cat([question, image], dim=-1)
        return self.out(self.dropout(self.norm(features)))


def question_end(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor | None,
    sequence_ids: Tensor | None,
    eoq_token_id: int | None,
) -> tuple[Tensor, Tensor]:
    """Where the head reads: the last `<EOQ>` before the answer; in a prompt without one, its last token.

    The decoder is causal, so nothing behind that place, the answer above all, is in what the head reads.

    Args:
        input_ids: (b t)
        attention_mask: (b t) 0 on padding.
        labels: (b t) -100 on all but the answer; None where there is none.
        sequence_ids: (1 t) which of s sequences each token belongs to, where they are packed into one row.
        eoq_token_id: id of `<EOQ>`; None where the tokenizer has none.

    Returns:
        Rows (b) and positions (b) in them; of packed sequences (s) and (s).

    Raises:
        ValueError: a row that is all answer, such as one with labels on its prompt.

    >>> input_ids = torch.tensor([[5, 6, 99, 7, 8]])
    >>> question_end(input_ids, None, None, None, eoq_token_id=99)
    (tensor([0]), tensor([2]))
    """
    (b, t), device = input_ids.shape, input_ids.device
    if sequence_ids is None:
        rows = torch.arange(b, device=device)
        is_prompt = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    else:
        s = int(sequence_ids.max()) + 1
        rows = torch.zeros(s, dtype=torch.long, device=device)
        is_prompt = sequence_ids == torch.arange(s, device=device).unsqueeze(1)  # (s t)
    order = torch.arange(1, t + 1, device=device)
    if labels is not None:
        labelled = labels != -100
        begins = labelled & ~F.pad(labelled[:, :-1], (1, 0))
        answer = (is_prompt & begins).mul(order).amax(-1, keepdim=True)  # where the last answer begins; 0 for none
        is_prompt = is_prompt & ((answer == 0) | (order < answer))
        if not torch.compiler.is_compiling() and not is_prompt.any(-1).all():
            raise ValueError("a row has labels from its first token on; the head reads the prompt, which has none")
    is_end = torch.zeros_like(is_prompt) if eoq_token_id is None else input_ids == eoq_token_id
    return rows, (is_prompt * (order + t * is_end)).argmax(-1)


def classification_loss(
    logits: Tensor,
    class_labels: Tensor,
    *,
    multi_label: bool,
    label_smoothing: float = 0.0,
    num_classes_in_batch: Tensor | None = None,
) -> Tensor:
    """Mean loss of the classes that are known.

    Args:
        logits: (b c)
        class_labels: (b) the class of each row; or, multi-label, (b c) 1 where a class holds and 0 where not. Negative
            where unknown.
        multi_label: binary cross entropy of every class, instead of cross entropy.
        label_smoothing: in [0, 1]; of several classes (Szegedy et al. 2016), or of yes and no.
        num_classes_in_batch: how many are known in all the batches whose losses will be added up; by default in this.

    Raises:
        ValueError: labels of another shape.

    >>> classification_loss(torch.zeros(2, 4), torch.tensor([3, -100]), multi_label=False)  # log 4
    tensor(1.3863)
    """
    expected = logits.shape if multi_label else logits.shape[:1]
    if class_labels.shape != expected:
        raise ValueError(f"class_labels must be {tuple(expected)}, got {tuple(class_labels.shape)}")
    known = class_labels >= 0
    if multi_label:
        targets = class_labels.clamp(min=0).to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        losses = F.cross_entropy(logits, class_labels.clamp(min=0), reduction="none", label_smoothing=label_smoothing)
    number = known.sum() if num_classes_in_batch is None else num_classes_in_batch
    return (losses * known).sum() / torch.as_tensor(number).clamp(min=1)
