"""Script: runs left alone, and runs that are killed as a file of a checkpoint or of their end appears, and go on.

    python -m tests.flamingo_med.training.killed_runs FOLDER [middle | ends]

Prints a line for each killed run: where it was killed, its exit codes, its steps, and whether weights, steps and best
step are those of the run left alone. Runs are forked from a process that has imported everything and computed nothing,
so that each takes seconds.
"""

import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flamingo_med.cli import train  # noqa: F401 (so that no run imports it)
from flamingo_med.cli.main import dispatch, run

DATA = ["phantom", "--data.train_images", "30", "--data.validation_images", "8"]
RECIPE = [*DATA, "--max_steps", "5"]
UNEVALUATED = ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
SAVES = [*UNEVALUATED, "--save_strategy", "steps", "--save_steps", "2"]
EVALUATED = ["--save_strategy", "steps", "--save_steps", "4", "--eval_strategy", "steps", "--eval_steps", "4"]
# The loss falls, so that the first evaluation is the best, and two more are waited for.
STOPPED = [*EVALUATED, "--metric_for_best_model", "loss", "--greater_is_better", "true"]
STOPPED += ["--early_stopping_patience", "2", "--max_steps", "24"]

FILES = ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "manifest.json"]
# Kind of run → its arguments, and its last checkpoint: an epoch has 4 steps, and none of the first two ends with one.
ENDS = {
    "10 steps": ([*DATA, *SAVES, "--max_steps", "10"], 10),
    "1.5 epochs": ([*DATA, *EVALUATED, "--save_steps", "2", "--eval_steps", "2", "--num_train_epochs", "1.5"], 6),
    "stopped early, best kept": ([*DATA, *STOPPED, "--load_best_model_at_end", "true"], 12),
    "stopped early, last kept": ([*DATA, *STOPPED, "--load_best_model_at_end", "false"], 12),
}
MOMENTS = ["last checkpoint", "summary.json", "recipe.yaml"]


def start(folder: Path, *arguments: str) -> multiprocessing.Process:
    """The command in a process of its own."""
    words = ["train", *arguments, "--data_dir", str(folder.parent), "--output_dir", str(folder)]
    process = multiprocessing.get_context("fork").Process(target=run, args=(lambda: dispatch(words),))
    process.start()
    return process


def kill(folder: Path, arguments: list[str], when: Callable[[], bool]) -> tuple[int, int]:
    """A run that is killed when something holds, and goes on; both exit codes."""
    process = start(folder, *arguments)
    while process.is_alive() and not when():
        time.sleep(0.0005)  # short beside writing a file, and leaves the core to the run
    process.kill()
    process.join()
    again = start(folder, *arguments, "--resume_from_checkpoint", "true")
    again.join()
    return process.exitcode, again.exitcode


def outcome(folder: Path) -> tuple:
    """Steps, the kept model's step, and the weights."""
    if not (folder / "summary.json").is_file() or not (folder / "model.safetensors").is_file():
        return None, None, None
    summary = json.loads((folder / "summary.json").read_text())
    validation = summary["validation"] or {"step": None}
    return summary["steps"], validation["step"], (folder / "model.safetensors").read_bytes()


def tell(what: str, codes: tuple[int, int], folder: Path, whole: Path) -> None:
    """The line of a killed run."""
    before, after = outcome(whole), outcome(folder)
    same = "same" if before == after else "other"
    print(f"{what}: first {codes[0]}, then {codes[1]}, {before[0]} steps now {after[0]}, {same}", flush=True)


def middle(folder: Path) -> None:
    """Killed while the second checkpoint is written."""
    start(folder / "whole", *RECIPE, *SAVES).join()
    for name in FILES:
        path = folder / name / "checkpoint-4" / name
        codes = kill(folder / name, [*RECIPE, *SAVES], path.exists)
        tell(name, codes, folder / name, folder / "whole")


def ends(folder: Path) -> None:
    """Killed between the last checkpoint and the end; and with a count of evaluations that were no better."""
    for number, (kind, (arguments, last)) in enumerate(ENDS.items()):
        whole = folder / f"whole-{number}"
        start(whole, *arguments).join()
        moments = [*MOMENTS, "checkpoint 8"] if "stopped" in kind else MOMENTS
        for moment in moments:
            target = folder / f"killed-{number}"
            shutil.rmtree(target, ignore_errors=True)
            step = last if moment == "last checkpoint" else 8
            path = target / moment if moment in MOMENTS[1:] else target / f"checkpoint-{step}"
            codes = kill(target, arguments, path.exists if moment in MOMENTS[1:] else lambda path=path: complete(path))
            tell(f"{kind}, {moment}", codes, target, whole)


def complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has its last file: the manifest with the step, in older versions the state."""
    path = checkpoint / "manifest.json"
    if not path.is_file():
        return False
    try:
        return "step" in json.loads(path.read_text())
    except ValueError:
        return False


if __name__ == "__main__":
    for part in sys.argv[2:] or ["middle", "ends"]:
        {"middle": middle, "ends": ends}[part](Path(sys.argv[1]))
