"""What a training run leaves behind for people: curves.png, and summary.md, a table to paste into a README."""

from pathlib import Path

from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from processing.files import write_whole

LogHistory = list[dict[str, float]]


class RunReport(TrainerCallback):
    """Writes both when training ends, from the history that a resumed run has too."""

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Curves and summary, by the first process."""
        if state.is_world_process_zero:
            plot_curves(state.log_history, Path(args.output_dir, "curves.png"))
            write_whole(Path(args.output_dir, "summary.md"), summary(args, state))


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
    losses.set(title="loss (nats a token)")

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


def summary(args: TrainingArguments, state: TrainerState) -> str:
    """A table in Markdown: how long, how it ended, the best validation score with its interval."""
    history = state.log_history
    rows = {
        "steps, epochs": f"{state.global_step:,}, {state.epoch:.1f}",
        "questions a step": f"{args.train_batch_size * args.gradient_accumulation_steps * args.world_size}",
        "learning rate": f"{args.learning_rate:g}, {args.lr_scheduler_type.value}",
        "seed": f"{args.seed}",
    }
    runtime = curve(history, "train_runtime")[1]
    if runtime:
        device = f"{args.world_size} × {args.device.type}"
        rows["time"] = (
            f"{runtime[-1] / 60:.0f} min on {device}{', since it went on' if args.resume_from_checkpoint else ''}"
        )
    losses = curve(history, "loss")[1]
    if losses:
        rows["training loss, first and last"] = f"{losses[0]:.3f}, {losses[-1]:.3f}"
    evaluations = [entry for entry in history if "eval_exact_match" in entry]
    if evaluations:
        best = next((e for e in evaluations if e["step"] == state.best_global_step), evaluations[-1])
        match = f"{best['eval_exact_match']:.3f}"
        if "eval_exact_match_low" in best:
            match += f" [{best['eval_exact_match_low']:.2f}, {best['eval_exact_match_high']:.2f}]"
        rows["exact match on validation, 95 % interval clustered by image"] = f"{match} at step {best['step']:,}"
        rows["loss on validation"] = f"{best['eval_loss']:.3f}"
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {args.output_dir} | |", "|---|---|", *lines]) + "\n"
