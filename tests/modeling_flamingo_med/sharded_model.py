"""Script: FSDP2 in two processes: loss, gradients and answers of a model are its own when its weights are split.

    torchrun --nproc_per_node 2 -m tests.modeling_flamingo_med.sharded_model

What accelerate does with recipes/accelerate/fsdp2.yaml on GPUs, which it refuses to do on CPUs.
"""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import set_seed

from flamingo_med.training.trainer import opening
from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from tests.conftest import SMALL, TEXT, VISION

IDS = {"vocab_size": 96, "image_token_id": 90, "eoq_token_id": 91, "eos_token_id": 92, "pad_token_id": 93}


def build() -> FlamingoMedForConditionalGeneration:
    """The same model in each process."""
    set_seed(0)
    return FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        VISION["clip"], TEXT["llama"], **IDS, **SMALL, cross_attn_gate_init=0.5
    ).eval()


def main() -> None:
    """Each process takes a batch of its own."""
    dist.init_process_group("gloo")
    set_seed(1 + dist.get_rank())
    ids = torch.randint(0, 80, (2, 9))
    ids[:, 0] = IDS["image_token_id"]
    batch = {"input_ids": ids, "pixel_values": torch.randn(2, 1, 3, 32, 32)}

    whole, sharded = build(), build()
    names = set(sharded._no_split_modules)
    for module in list(sharded.modules())[::-1]:  # the innermost first
        if type(module).__name__ in names:
            fully_shard(module)
    fully_shard(sharded)
    assert any(isinstance(p, DTensor) for p in sharded.cross_attn.parameters())

    for model in (whole, sharded):
        model(**batch, labels=ids).loss.backward()
    compared = 0
    for (name, p), q in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        if p.grad is not None:
            dist.all_reduce(p.grad)
            torch.testing.assert_close(q.grad.full_tensor(), p.grad / 2, atol=1e-5, rtol=1e-4, msg=name)
            compared += 1
    # The processes need a different number of tokens, and yet have to take their steps together.
    lengths = {"max_new_tokens": 3 + 3 * dist.get_rank(), "do_sample": False}
    assert torch.equal(sharded.generate(**batch, **lengths), whole.generate(**batch, **lengths))
    assert opening(sharded.cross_attn[0].attn_gate) == opening(whole.cross_attn[0].attn_gate)
    print(f"process {dist.get_rank()}: {compared} gradients and the answers agree; split: {sorted(names)}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
