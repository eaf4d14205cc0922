"""What a training run leaves behind: curves.png, summary.json, and summary.md, the same as a table for a README."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from flamingo_med.evaluation.tables import format_score

if TYPE_CHECKING:  # evaluations show the facts of a run too, and need no Trainer, which brings peft and bitsandbytes
    from transformers import TrainerState, TrainingArguments

LogHistory = list[dict[str, float]]


def curve(history: LogHistory, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of what was logged under a name.

    >>> curve([{"step": 10, "loss": 2.0}, {"step": 10, "eval_loss": 3.0}, {"step": 20, "loss": 1.0}], "loss")
    ([10, 20], [2.0, 1.0])
    """
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    return [step for step, _ in points], [value for _, value in points]


def plot_curves(history: LogHistory, path: Path) -> None:
    """Loss, exact match of validation with its 95 % interval, and how far the gates are open."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, matches, gates = figure.subplots(1, 3)

    losses.plot(*curve(history, "loss"), label="training")
    losses.plot(*curve(history, "eval_loss"), marker=".", label="validation")
    losses.set(title="loss (nats per token)")

    for subset in ("", "_closed", "_open"):
        steps, values = curve(history, f"eval_exact_match{subset}")
        if steps:
            matches.plot(steps, values, marker=".", label=subset.strip("_") or "all, 95 % interval")
    low, high = (curve(history, f"eval_exact_match_{end}") for end in ("low", "high"))
    matches.fill_between(low[0], low[1], high[1], alpha=0.2)
    matches.set(title="exact match on validation", ylim=(0, 1))

    names = sorted({name for entry in history for name in entry if name.startswith("gate_")})
    for name in names:
        kind, layer = name.removeprefix("gate_").split("_")
        style = {"color": f"C{0 if kind == 'attn' else 1}", "alpha": 0.7}
        gates.plot(*curve(history, name), **style, label=f"{kind}, {len(names) // 2} layers" if layer == "0" else None)
    gates.set(title="gates, tanh α")

    for axes in (losses, matches, gates):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=120)


def summary(args: "TrainingArguments", state: "TrainerState", resumed: bool, seconds_of_features: float = 0.0) -> dict:
    """How long, on what, how it ended, and the scores of the model that is kept on validation.

    Args:
        args, state: of the training.
        resumed: it went on from a checkpoint.
        seconds_of_features: how long the images were encoded before it.

    Returns:
        steps, epochs, questions_per_step, learning_rate, lr_scheduler, seed; seconds of training, None where they were
        not measured, seconds_of_features, and resumed, whether those before a checkpoint are not among them; hardware:
        processes, device and, of CPUs, the cores that a process uses; loss: that of training, first and last;
        validation: None or step, loss, exact_match, low and high (95 % interval clustered by image, None for one
        image).
    """
    history = state.log_history
    runtime, losses = curve(history, "train_runtime")[1], curve(history, "loss")[1]
    evaluations = [entry for entry in history if "eval_exact_match" in entry]
    validation = None
    if evaluations:
        kept = state.best_global_step if args.load_best_model_at_end else state.global_step
        best = next((e for e in evaluations if e["step"] == kept), evaluations[-1])
        validation = {
            "step": best["step"],
            "loss": best["eval_loss"],
            "exact_match": best["eval_exact_match"],
            "low": best.get("eval_exact_match_low"),
            "high": best.get("eval_exact_match_high"),
        }
    on_gpu = args.device.type == "cuda"
    return {
        "steps": state.global_step,
        "epochs": state.epoch,
        "questions_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        "lr_scheduler": str(args.lr_scheduler_type.value),
        "seed": args.seed,
        "seconds": runtime[-1] if runtime else None,
        "seconds_of_features": round(seconds_of_features, 4),
        "resumed": resumed,
        "hardware": {
            "processes": args.world_size,
            "device": torch.cuda.get_device_name(args.device) if on_gpu else args.device.type,
            "cores": torch.get_num_threads() if args.device.type == "cpu" else None,
        },
        "loss": {"first": losses[0], "last": losses[-1]} if losses else None,
        "validation": validation,
    }


def seconds_of(facts: dict) -> float | None:
    """How long a run took, of `summary`: the encoding of its images and the training; None where not measured."""
    if facts["seconds"] is None:
        return None
    return facts["seconds"] + facts.get("seconds_of_features", 0.0)  # which older runs have not measured


def format_facts(facts: dict) -> dict[str, str]:
    """`summary` in words."""
    rows = {
        "steps, epochs": f"{facts['steps']:,}, {facts['epochs']:.1f}",
        "questions a step": f"{facts['questions_per_step']}",
        "learning rate": f"{facts['learning_rate']:g}, {facts['lr_scheduler']}",
        "seed": f"{facts['seed']}",
    }
    if (seconds := seconds_of(facts)) is not None:
        hardware = facts["hardware"]
        since = ", since it went on" if facts["resumed"] else ""
        rows["time"] = f"{seconds / 60:.0f} min on {hardware['processes']} × {hardware['device']}{since}"
    if losses := facts["loss"]:
        rows["training loss, first and last"] = f"{losses['first']:.3f}, {losses['last']:.3f}"
    if best := facts["validation"]:
        match = format_score({**best, "value": best["exact_match"]})
        rows["exact match on validation, 95 % interval clustered by image"] = f"{match} at step {best['step']:,}"
        rows["loss on validation"] = f"{best['loss']:.3f}"
    return rows


def format_summary(facts: dict, title: str) -> str:
    """`summary` as a table in Markdown."""
    lines = [f"| {name} | {value} |" for name, value in format_facts(facts).items()]
    return "\n".join([f"| {title} | |", "|---|---|", *lines]) + "\n"
