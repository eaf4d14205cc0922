"""FlamingoMedNewTokens: rows of the vocabulary that are trained while all others stay frozen."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FlamingoMedNewTokens(nn.Module):
    """The last rows of a decoder's vocabulary, apart from it, so that they alone have gradients and optimizer state.

    Hooks (`FlamingoMedNewTokensHook`) put them in the place of the decoder's own rows, which stay untouched.

    Args:
        inputs: the decoder's token embeddings.
        outputs: its output layer.
        start: id of the first such token.
        tied: both share their weights.
    """

    def __init__(self, inputs: nn.Embedding, outputs: nn.Linear, start: int, tied: bool):
        super().__init__()
        self.start = start
        self.rows = nn.Parameter(torch.empty_like(inputs.weight[start:]))  # (r d)
        self.output_rows = None if tied else nn.Parameter(torch.empty_like(outputs.weight[start:]))
        self.copy_from(inputs, outputs)

    @torch.no_grad()
    def copy_from(self, inputs: nn.Embedding, outputs: nn.Linear) -> None:
        """Copy the values of the decoder's own rows."""
        self.rows.copy_(inputs.weight[self.start :])
        if self.output_rows is not None:
            self.output_rows.copy_(outputs.weight[self.start :])

    def embed(self, inputs: nn.Embedding, args: tuple[Tensor], embedded: Tensor) -> Tensor:
        """Forward hook of the token embeddings: (b t) ids, (b t d) → (b t d)."""
        ids = args[0]
        new = F.embedding((ids - self.start).clamp(min=0), self.rows)
        new = new * getattr(inputs, "embed_scale", 1.0)  # Gemma and BioGPT scale what they embed
        return torch.where((ids >= self.start).unsqueeze(-1), new, embedded)

    def unembed(self, outputs: nn.Linear, args: tuple[Tensor], logits: Tensor) -> Tensor:
        """Forward hook of the output layer: hidden states (b t d), (b t v) → (b t v)."""
        rows = self.rows if self.output_rows is None else self.output_rows
        bias = None if outputs.bias is None else outputs.bias[self.start :]
        return torch.cat([logits[..., : self.start], F.linear(args[0], rows, bias)], dim=-1)


class FlamingoMedNewTokensHook:
    """Forward hook that calls a method of the model's new tokens, looked up at each call: an adapter may replace them.

    Args:
        model: has `new_tokens`.
        method: "embed" or "unembed".
    """

    def __init__(self, model: nn.Module, method: str):
        self.model = model
        self.method = method

    def __call__(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """As the method."""
        return getattr(self.model.new_tokens, self.method)(module, args, output)
