"""Answers on disk as they come, so that an interrupted evaluation resumes."""

import json
from dataclasses import asdict
from pathlib import Path

from flamingo_med.inference.backends import Answer
from processing.errors import disk_errors


class PartialAnswers:
    """The answers of one condition in a folder: a file of each process, whose first line says what they belong to.

    Any number of processes may have written them. First all read, then all `open` theirs and `add`, then any may read
    again.

    Args:
        folder: of all conditions.
        condition: name of this one.
        fingerprint: of all that the answers depend on; those of another fingerprint are not taken.

    Attributes:
        answers: number of a row → its answer, as far as they were found.
        outdated: files with another fingerprint.
    """

    def __init__(self, folder: Path, condition: str, fingerprint: str):
        self.folder, self.condition, self.fingerprint = folder, condition, fingerprint
        self.read()

    def read(self) -> None:
        """Find what there is; a line that is not whole, as a process is killed while writing it, is none."""
        self.answers: dict[int, Answer] = {}
        self.outdated: list[Path] = []
        for path in sorted(self.folder.glob(f"{self.condition}-*.jsonl")):
            lines, _ = _whole_lines(path)
            if not lines or lines[0] != self._header():
                self.outdated.append(path)
                continue
            self.answers |= {line.pop("row"): Answer(**line) for line in lines[1:]}

    def open(self, process: int) -> None:
        """Begin to write, behind what this process has written before.

        Raises:
            InputError: the disk is full.
        """
        path = self.folder / f"{self.condition}-{process}.jsonl"
        lines, size = _whole_lines(path) if path.exists() else ([], 0)
        with disk_errors(self.folder):
            if not lines or lines[0] != self._header():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(self._header()) + "\n", encoding="utf-8")
                size = path.stat().st_size
            self.file = path.open("r+b", buffering=0)
            self.file.truncate(size)
            self.file.seek(size)

    def add(self, row: int, answer: Answer) -> None:
        """Write one answer, so that it is there whatever happens to this process.

        Raises:
            InputError: the disk is full; the answers before are kept.
        """
        line = (json.dumps({"row": row, **asdict(answer)}, ensure_ascii=False) + "\n").encode()
        with disk_errors(self.folder):
            while line:  # of which a disk that becomes full takes a part
                line = line[self.file.write(line) :]

    def close(self) -> None:
        """End writing."""
        self.file.close()

    def _header(self) -> dict[str, str]:
        return {"condition": self.condition, "fingerprint": self.fingerprint}


def _whole_lines(path: Path) -> tuple[list[dict], int]:
    """The lines up to the first that is not whole, and how many bytes they take."""
    lines, size = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            return lines[:-1], size
        size += len(line)
    return lines, size
