"""Check every file of a folder against the manifest that was written with it.

FOLDER is a finished run, a checkpoint, a saved model or stored image features. Every file is read
in full. The first that is missing, cut or changed is named, and the exit code is 2.

  flamingo-med verify runs/phantom
"""

from dataclasses import dataclass, field
from pathlib import Path

from flamingo_med.cli.parser import CommandParser
from modeling_flamingo_med.manifest_flamingo_med import MANIFEST, check_folder, read_manifest
from processing.errors import InputError

WORDS = {"folder": "folder with a manifest.json"}
# What a folder says of itself beside run.json, if the state of a training is to be in it.
OF_A_TRAINING = ("trainer_state.json", "optimizer.pt", "recipe.yaml")


@dataclass
class VerifyArguments:
    """Which folder."""

    folder: str = field(metadata={"help": WORDS["folder"]})


def main(arguments: list[str]) -> None:
    """Folder → what it is, or the file that is not what it was."""
    (args,) = CommandParser("flamingo-med verify", __doc__, VerifyArguments, words=WORDS).build(arguments)
    print(f"{args.folder}: {verify(args.folder)}")


def verify(folder: str) -> str:
    """What a folder is, once every file is found to be what it was.

    Raises:
        InputError: no manifest, or a file is missing, cut or changed.
    """
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            raise InputError(f"{folder} has no {MANIFEST}; give a finished run, a checkpoint or a saved model")
        of_training = manifest["training_files"]
        left_behind = of_training and not any(Path(folder, name).exists() for name in OF_A_TRAINING)
        check_folder(folder, whole=True, training=not left_behind)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None
    count = len(manifest["files"]) + (0 if left_behind else len(of_training))
    said = [f"all {count} files are what they were"]
    if "step" in manifest:
        end = "the end of its training" if manifest["final"] else "training resumes from here"
        said += [f"step {manifest['step']}, {end}", f"written by {manifest['processes']} process(es)"]
    if left_behind:
        said.append("without the state of its training")
    return "; ".join(said)
