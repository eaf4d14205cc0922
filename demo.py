"""The demo page: the same as `flamingo-med demo`."""

from flamingo_med.cli.main import run_command

if __name__ == "__main__":
    run_command("demo")
