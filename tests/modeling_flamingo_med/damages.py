"""What disks and interrupted copies do to a file."""

from pathlib import Path

DAMAGES = ("missing", "emptied", "cut", "zeroed", "flipped")


def damage(path: Path, how: str) -> None:
    """Do one of `DAMAGES` to it; what is flipped is the lowest bit of 100 bytes in its last third."""
    if how == "missing":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if how == "emptied":
        content = b""
    elif how == "cut":
        content = content[:-1]
    elif how == "zeroed":
        content = bytes(len(content))
    elif how == "flipped":
        start = 2 * len(content) // 3
        content[start : start + 100] = bytes(byte ^ 1 for byte in content[start : start + 100])
    path.write_bytes(content)
