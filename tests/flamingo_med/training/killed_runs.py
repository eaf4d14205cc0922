"""Script: a run left alone, and for each file of a checkpoint one that is killed as that file appears, and goes on.

    python -m tests.flamingo_med.training.killed_runs FOLDER

Runs are forked from a process that has imported everything and computed nothing, so that each takes seconds.
"""

import multiprocessing
import sys
from pathlib import Path

from flamingo_med.cli import train  # noqa: F401 (so that no run imports it)
from flamingo_med.cli.main import dispatch, run

FILES = ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"]
RECIPE = ["phantom", "--data.train_images", "30", "--data.validation_images", "8", "--max_steps", "5"]
SAVES = ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "steps", "--save_steps", "2"]


def start(folder: Path, *arguments: str) -> multiprocessing.Process:
    """The command in a process of its own."""
    words = ["train", *RECIPE, *SAVES, "--data_dir", str(folder.parent), "--output_dir", str(folder), *arguments]
    process = multiprocessing.get_context("fork").Process(target=run, args=(lambda: dispatch(words),))
    process.start()
    return process


def main(folder: Path) -> None:
    """All runs, each in a folder that is named after the file that it was killed at, or "whole"."""
    start(folder / "whole").join()
    for name in FILES:
        process = start(folder / name)
        path = folder / name / "checkpoint-4" / name
        while process.is_alive() and not path.exists():
            pass
        process.kill()
        process.join()
        again = start(folder / name, "--resume_from_checkpoint", "true")
        again.join()
        print(f"{name}: first {process.exitcode}, then {again.exitcode}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
