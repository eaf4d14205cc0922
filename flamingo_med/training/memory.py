"""How much memory a device needs for a training step, computed from shapes: nothing is loaded, nothing allocated.

The step is really taken, with tensors that have a shape and no content (`FakeTensorMode`), and what lives is added up.
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from flamingo_med.training.trainer import FlamingoMedTrainingArguments
from modeling_flamingo_med.modeling_flamingo_med import FlamingoMedForConditionalGeneration

GB = 2**30
SHARDED_OVER = (2, 8, 16)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most that ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakKeyDictionary()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; views share one."""
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, size)

    def free(self, size: int) -> None:
        """A storage of this size is gone."""
        self.now -= size

    def __torch_dispatch__(self, operation: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return result


def estimate_memory(
    vision: PretrainedConfig,
    text: PretrainedConfig,
    args: FlamingoMedTrainingArguments,
    *,
    tokens: int,
    vocab_size: int,
    image_size: int,
    **config,
) -> dict[str, float]:
    """Bytes for a step of `per_device_train_batch_size` questions, each about an image of its own.

    Args:
        vision, text: configurations of image encoder and decoder.
        args: batch size, precision, gradient checkpointing, stored features; AdamW is assumed.
        tokens: of a question with its answer, of which `max_new_tokens`, at most half, are the answer's.
        vocab_size: number of tokens without the special ones.
        image_size: side of the images in pixels.
        config: of `FlamingoMedConfig`.

    Returns:
        weights, gradients, optimizer, activations (the most that is alive beside those) and unit (the largest part of
        the weights that FSDP gathers at once).
    """
    names = ("image_token_id", "eoq_token_id", "eos_token_id", "pad_token_id")
    ids = {name: vocab_size + i for i, name in enumerate(names)}
    answer = tokens - 1 if args.train_on_questions else min(args.max_new_tokens, tokens // 2)
    autocast = torch.autocast("cpu", torch.bfloat16) if args.bf16 else nullcontext()
    with FakeTensorMode(), no_init_weights(), LiveBytes() as live:
        model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocab_size=vocab_size + len(ids), **ids, **config
        ).train()
        model.tie_weights()
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        weights = live.now
        trainable = [p for p in model.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in trainable)
        optimizer = torch.optim.AdamW(trainable, foreach=False)
        batch = example(model, args, tokens, image_size)
        before = live.now
        for _ in range(2):  # after the first, the optimizer has its state
            live.peak = live.now
            with autocast:
                loss_of(model, batch, args.per_device_train_batch_size, answer).backward()
            optimizer.step()
            optimizer.zero_grad()
        state = live.now - before
        units = [m for m in model.modules() if type(m).__name__ in model._no_split_modules]
        unit = max(sum(p.numel() * p.element_size() for p in m.parameters()) for m in units)
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": state,
        "activations": live.peak - weights - gradients - state,
        "unit": unit,
    }


def example(
    model: FlamingoMedForConditionalGeneration, args: FlamingoMedTrainingArguments, tokens: int, image_size: int
) -> dict:
    """A batch of the shape that the trainer's collator makes."""
    b, config = args.per_device_train_batch_size, model.config
    images = torch.zeros(b, 3, image_size, image_size)
    if args.store_features and config.freeze_vision and not args.augmentation:
        with torch.no_grad():
            name, images = "image_features", model.image_features(images).unsqueeze(1)
    else:
        name = "pixel_values"
    shape = (1, b * tokens) if args.packing else (b, tokens)
    whole = torch.zeros(shape, dtype=torch.long)
    batch = {"input_ids": whole, "latest_image": torch.ones_like(whole)}
    if args.packing:
        batch |= {"position_ids": whole, "sequence_ids": whole, name: images.unsqueeze(0)}
    else:
        batch |= {"attention_mask": torch.ones_like(whole), name: images.unsqueeze(1)}
    return batch


def loss_of(model: FlamingoMedForConditionalGeneration, batch: dict, questions: int, answer: int) -> Tensor:
    """The loss at the positions of the answers. (Which those are depends on labels, which have no content here.)"""
    positions = torch.arange(questions * answer if "sequence_ids" in batch else answer)
    logits = model(**batch, logits_to_keep=positions, use_cache=False).logits
    labels = torch.zeros(logits.shape[:2], dtype=torch.long)
    return model.loss_function(logits, labels=None, shift_labels=labels, vocab_size=logits.shape[-1])


def format_memory(estimate: dict[str, float], args: FlamingoMedTrainingArguments, tokens: int) -> str:
    """A table in GB per device: alone, with the gradients' second copy of DDP, and with all split by FSDP."""
    held = ("weights", "gradients", "optimizer")
    columns = {"1 device": dict(estimate, unit=0.0)}
    columns["DDP"] = {**columns["1 device"], "gradients": 2 * estimate["gradients"]}
    for n in SHARDED_OVER:
        # Of the weights, one unit is gathered while the next is on its way.
        columns[f"FSDP, {n}"] = {
            **{name: estimate[name] / n for name in held},
            "activations": estimate["activations"],
            "unit": 2 * estimate["unit"],
        }
    names = {**dict(zip(held, held, strict=True)), "activations": "activations", "unit": "gathered weights"}
    precision = "bf16 autocast" if args.bf16 else "float32"
    lines = [
        f"GB per device, computed from shapes: {args.per_device_train_batch_size} questions of {tokens} tokens, "
        f"{precision}, AdamW{', gradient checkpointing' if args.gradient_checkpointing else ''}",
        f"{'':<18}" + "".join(f"{name:>12}" for name in columns),
    ]
    for key, name in names.items():
        lines.append(f"{name:<18}" + "".join(f"{column[key] / GB:>12.2f}" for column in columns.values()))
    lines.append(f"{'sum':<18}" + "".join(f"{sum(column.values()) / GB:>12.2f}" for column in columns.values()))
    return "\n".join(lines)
