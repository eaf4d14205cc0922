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

    def forward(self, question: Tensor, image: Tensor | None = None) -> Tensor:
        """(b d), (b d) → logits (b num_labels), not probabilities."""
        features = question if image is None else torch.cat([question, image], dim=-1)
        return self.out(self.dropout(self.norm(features)))


def question_end(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor | None,
    sequence_ids: Tensor | None,
    eoq_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Where the head reads: the last `<EOQ>` before the answer; in a prompt without one, its last token.

    The decoder is causal, so nothing behind that place, the answer above all, is in what the head reads.

    Args:
        input_ids: (b t)
        attention_mask: (b t) 0 on padding.
        labels: (b t) -100 on all but the answer; None where there is none.
        sequence_ids: (1 t) which of s sequences each token belongs to, where they are packed into one row.
        eoq_token_id: id of `<EOQ>`.

    Returns:
        Rows (b) and positions (b) in them; of packed sequences (s) and (s).
    """
    (b, t), device = input_ids.shape, input_ids.device
    rank = torch.arange(1, t + 1, device=device) + t * (input_ids == eoq_token_id)
    if sequence_ids is not None:
        s = int(sequence_ids.max()) + 1
        rank = rank * (sequence_ids == torch.arange(s, device=device).unsqueeze(1))  # (s t)
        return torch.zeros(s, dtype=torch.long, device=device), (rank * _is_prompt(labels, sequence_ids)).argmax(-1)
    if attention_mask is not None:
        rank = rank * attention_mask
    return torch.arange(b, device=device), (rank * _is_prompt(labels, None)).argmax(-1)


def _is_prompt(labels: Tensor | None, sequence_ids: Tensor | None) -> Tensor | int:
    """(b t) 1 before the answer of each row, or of each packed sequence, and 0 from there on."""
    if labels is None:
        return 1
    answered = (labels != -100).cumsum(-1)
    if sequence_ids is not None:  # only what was answered in the same sequence counts
        first = F.pad(sequence_ids.diff(dim=-1), (1, 0)) != 0
        before = (answered - (labels != -100).long()) * first
        answered = answered - before.cummax(-1).values
    return (answered == 0).long()


def classification_loss(logits: Tensor, class_labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean loss of the classes that are known.

    Args:
        logits: (b c)
        class_labels: (b) the class of each row, for cross entropy; or (b c) 1 where a class holds and 0 where not, for
            binary cross entropy. Negative where unknown.
        label_smoothing: in [0, 1]; of several classes (Szegedy et al. 2016), or of yes and no.

    Raises:
        ValueError: labels of another shape.
    """
    if class_labels.shape not in (logits.shape[:1], logits.shape):
        shapes = f"{tuple(logits.shape[:1])} or {tuple(logits.shape)}"
        raise ValueError(f"class_labels must be {shapes}, got {tuple(class_labels.shape)}")
    known = class_labels >= 0
    if class_labels.ndim == 1:
        losses = F.cross_entropy(logits, class_labels.clamp(min=0), reduction="none", label_smoothing=label_smoothing)
    else:
        targets = class_labels.clamp(min=0).to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
