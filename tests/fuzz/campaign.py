"""Tries odd inputs, the same for the same seed, and counts how they end.

  python -m tests.fuzz.campaign --seed 0 --inputs 10000
  python -m tests.fuzz.campaign --seed 0 --only "tables 17"     # one of them, with its traceback

Right endings are two: it works, or one sentence says what is wrong. A library call may say it by a ValueError of ours.
"""

import argparse
import linecache
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from random import Random

import datasets
import torch

from processing.errors import InputError
from tests import ROOT
from tests.fuzz.generators import GENERATORS, Workshop

ENDINGS = ("clean", "one sentence", "traceback", "hang", "other answer")
SECONDS = 20.0  # longer is a hang
MEMORY = 4 * 2**30  # bytes beyond those in use at the start; what asks for more fails
LOGGERS = ("transformers", "flamingo_med", "processing", "modeling_flamingo_med")


class Hang(BaseException):
    """The time is up."""


class Heard(logging.Handler):
    """Counts what was said of warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One more."""
        self.count += 1


class Campaign:
    """How inputs end.

    Args:
        folder: for the files of the inputs.
        seed: of the inputs.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.workshop, self.seed = Workshop(folder), seed
        self.endings: dict[str, Counter] = {kind: Counter() for kind in GENERATORS}
        self.seconds: Counter = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)  # what is wrong → the inputs

    def run(self, inputs: int) -> None:
        """Try so many, of each kind its share."""
        with limits():
            for kind, (_, share) in GENERATORS.items():
                for number in range(max(1, inputs * share // 100)):
                    self.try_one(kind, number)

    def try_one(self, kind: str, number: int) -> BaseException | None:
        """Try an input; what it raised, if anything."""
        began = time.process_time()
        ending, error, why = self._end(kind, number)
        self.seconds[kind] += time.process_time() - began
        self.endings[kind][ending] += 1
        if ending not in ("clean", "one sentence"):
            self.examples[f"{ending}: {why}"].append(f"{kind} {number}")
        return error

    def _end(self, kind: str, number: int) -> tuple[str, BaseException | None, str]:
        random, heard = Random(f"{self.seed}/{kind}/{number}"), Heard()
        environment, place = dict(os.environ), Path.cwd()
        # What is tried may change its surroundings, which the next one is to find as they were.
        terminal = TextIOWrapper(BytesIO(), encoding="utf-8")
        with redirect_stdout(terminal), redirect_stderr(StringIO()), warnings.catch_warnings(), listening(heard):
            warnings.simplefilter("ignore")
            try:
                self.workshop.begin()
                call = GENERATORS[kind][0](random, self.workshop)
                signal.setitimer(signal.ITIMER_REAL, SECONDS)
                found = call()
                signal.setitimer(signal.ITIMER_REAL, 0)
                if kind == "checkpoints" and found != self.workshop.answer and not heard.count:
                    return "other answer", None, "nothing was said"
                return "clean", None, ""
            except (Exception, Hang, SystemExit) as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                ending = (
                    "hang" if isinstance(error, Hang) else "one sentence" if is_sentence(error, kind) else "traceback"
                )
                return ending, error, where(error)
            finally:
                os.chdir(place)
                os.environ.clear()
                os.environ.update(environment)

    def table(self) -> str:
        """A line for each kind, and one for all."""
        lines = ["".join([f"{'kind':<18}{'tried':>8}", *(f"{ending:>15}" for ending in ENDINGS), f"{'CPU s':>9}"])]
        rows = [(kind, counts, self.seconds[kind]) for kind, counts in self.endings.items()]
        rows.append(("all", sum(self.endings.values(), Counter()), self.seconds.total()))
        for kind, counts, seconds in rows:
            cells = [f"{counts[ending]:>15,}" for ending in ENDINGS]
            lines.append("".join([f"{kind:<18}{counts.total():>8,}", *cells, f"{seconds:>9.0f}"]))
        return "\n".join(lines)

    def faults(self) -> str:
        """What ended wrongly, the most frequent first, with some of the inputs."""
        found = sorted(self.examples.items(), key=lambda item: -len(item[1]))
        return "\n".join(f"{len(inputs):>5}  {what}  [{', '.join(inputs[:3])}]" for what, inputs in found)

    def count(self, *endings: str) -> int:
        """How many ended so."""
        return sum(counts[ending] for counts in self.endings.values() for ending in endings)


def is_sentence(error: BaseException, kind: str) -> bool:
    """Whether it says what is wrong: an InputError in a line (bad rows are listed below it); of the processor's calls
    a ValueError too, which our own code raises."""
    text = str(error)
    if isinstance(error, InputError):
        return bool(text.strip()) and ("\n" not in text or kind == "tables")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(ROOT) and linecache.getline(frame.filename, frame.lineno).strip()
    says = isinstance(error, ValueError) and "\n" not in text
    return kind == "processor calls" and says and bool(ours) and ours.startswith("raise ")


def where(error: BaseException) -> str:
    """Kind of an error, the last line of ours it went through, and how it begins."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
    frames = [f for f in frames if "/tests/" not in f.filename] or frames
    place = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "?"
    text = re.sub(r"\s+", " ", str(error))[:90].encode("ascii", "backslashreplace").decode()
    return f"{type(error).__name__} at {place}: {text}"


@contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """What the libraries say goes to the handler alone."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def limits() -> Iterator[None]:
    """Of memory for all inputs, and of time for each; no progress bars, no cache of the user's."""

    def up(*_) -> None:
        raise Hang

    before, alarm = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, up)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, before[1]))
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        signal.signal(signal.SIGALRM, alarm)
        resource.setrlimit(resource.RLIMIT_AS, before)


def main() -> None:
    """Run a campaign, print its table and what ended wrongly; exit code 1 where anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (0)")
    parser.add_argument("--inputs", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--only", help="one input, such as 'tables 17'; its files are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    campaign = Campaign(folder, args.seed)
    if args.only:
        kind, _, number = args.only.rpartition(" ")
        with limits():
            error = campaign.try_one(kind, int(number))
        if error:
            traceback.print_exception(error)
        print(f"{campaign.table()}\nfiles: {campaign.workshop.folder}")
        return
    campaign.run(args.inputs)
    shutil.rmtree(folder)
    print(campaign.table())
    print(campaign.faults())
    sys.exit(campaign.count("traceback", "hang") > 0)


if __name__ == "__main__":
    main()
