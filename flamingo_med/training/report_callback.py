"""Writes the report of a run when its training ends."""

from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from flamingo_med.reporting.run_report import format_summary, plot_curves, summary
from processing.files import write_json, write_whole


class RunReport(TrainerCallback):
    """Writes curves and summary from the history that a resumed run has too."""

    resumed = False
    seconds_of_features = 0.0  # before the training

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Note whether the training resumes from a checkpoint: then its time is not that of the whole."""
        self.resumed = state.global_step > 0

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Curves and summary, by the first process."""
        if state.is_world_process_zero:
            plot_curves(state.log_history, Path(args.output_dir, "curves.png"))
            facts = summary(args, state, self.resumed, self.seconds_of_features)
            write_json(Path(args.output_dir, "summary.json"), facts)
            write_whole(Path(args.output_dir, "summary.md"), format_summary(facts, args.output_dir))
