"""What `accelerate launch` is given to score a model: the same as `flamingo-med evaluate`."""

from flamingo_med.cli.main import run_command

if __name__ == "__main__":
    run_command("evaluate")
