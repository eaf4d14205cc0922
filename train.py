"""What `accelerate launch` is given to train: the same as `flamingo-med train`."""

from flamingo_med.cli.main import run_command

if __name__ == "__main__":
    run_command("train")
