"""Serve the page on which one asks about an image, at http://127.0.0.1:7860.

The page contacts no other machine. To let others in, name the user, and give the password in an
environment variable. Needs the extra [demo]. Research software. Not for clinical use.

  flamingo-med demo --model runs/phantom
  FLAMINGO_MED_PASSWORD=… flamingo-med demo --model runs/phantom --host 0.0.0.0 --user reader
"""

from dataclasses import dataclass, field

from flamingo_med.cli.parser import CommandParser
from flamingo_med.demo.guard import check_address, private_folder, served_names
from flamingo_med.evaluation.calibration import load_calibration
from flamingo_med.inference.answering import load_model
from flamingo_med.inference.split_arguments import TRUST_HELP
from processing.errors import InputError, check_path
from processing.processing_flamingo_med import FlamingoMedProcessor


@dataclass
class DemoArguments:
    """Which model, and who may reach it."""

    model: str = field(metadata={"help": "folder or Hub id of the model"})
    host: str = field(default="127.0.0.1", metadata={"help": "address to serve at; other than this needs a user"})
    port: int = field(default=7860, metadata={"help": "port to serve at"})
    user: str | None = field(default=None, metadata={"help": "who must give the password FLAMINGO_MED_PASSWORD"})
    max_upload_mb: int = field(default=64, metadata={"help": "larger files are refused"})
    memory_mb: int = field(default=1024, metadata={"help": "memory for the images of all users, oldest dropped first"})
    queue_size: int = field(default=64, metadata={"help": "questions that may wait; those beyond are refused"})
    host_names: list[str] = field(
        default_factory=list,
        metadata={"help": "further names of the page, behind a reverse proxy: '[vqa.example.org]'"},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": TRUST_HELP})

    def __post_init__(self):
        check_path("--model", self.model)
        for name in ("max_upload_mb", "queue_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, got {getattr(self, name)}")
        least = self.max_upload_mb + 32
        if self.memory_mb < least:
            raise InputError(f"memory_mb is at least {least}, which one user may need, got {self.memory_mb}")
        if not 1 <= self.port <= 65535:
            raise InputError(f"port is from 1 to 65535, got {self.port}")


def main(arguments: list[str]) -> None:
    """Check, load, build, serve."""
    often = ("model", "host", "port", "user", "host_names", "max_upload_mb", "memory_mb", "queue_size")
    (args,) = CommandParser("flamingo-med demo", __doc__, DemoArguments, often=often).build(arguments)
    check_address(args.host, args.port, args.user)
    served_names(args.host, args.host_names)
    with private_folder():
        try:
            from flamingo_med.demo.demo_page import build_page
            from flamingo_med.demo.server import serve
            from flamingo_med.demo.session import Assistant, Memory
        except ModuleNotFoundError as error:
            raise InputError(f'the page needs {error.name}: pip install "gradio>=6.31,<7" captum') from None
        model, processor = load_model(args.model, trust_remote_code=args.trust_remote_code)
        if not isinstance(processor, FlamingoMedProcessor):
            raise InputError(f"{args.model} is not a model of ours; the page can explain no other")
        assistant = Assistant(model, processor, args.model, load_calibration(args.model))
        page, css = build_page(assistant, Memory(args.memory_mb * 2**20))
        serve(
            page,
            css=css,
            host=args.host,
            port=args.port,
            user=args.user,
            max_upload_mb=args.max_upload_mb,
            queue_size=args.queue_size,
            host_names=args.host_names,
        )
