"""What is settled before gradio is imported: the address is free and guarded, files stay in a folder of our own."""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from tempfile import TemporaryDirectory

import psutil

from processing.errors import InputError

PASSWORD = "FLAMINGO_MED_PASSWORD"  # an environment variable: arguments are seen by everybody on a machine


def check_address(host: str, port: int, user: str | None) -> None:
    """Before anything is loaded.

    Raises:
        InputError: an address that is not free or not ours; one that others reach without a password.
    """
    if user and not os.environ.get(PASSWORD):
        raise InputError(f"--user {user} needs a password; set it in the environment variable {PASSWORD}")
    try:
        with socket.create_server((host, port)) as probe:
            local = ip_address(probe.getsockname()[0]).is_loopback
    except OSError as error:
        reason = error.strerror.partition(" (")[0]
        raise InputError(f"the page cannot be served at {host}:{port}: {reason}; choose another --port") from None
    if not local and not user:
        raise InputError(f"everybody could reach the page at {host}; set --user NAME, or leave --host at 127.0.0.1")


def served_names(host: str, further: Sequence[str] = ()) -> list[str]:
    """What the page may be called in a request: the address served, and further names, such as a reverse proxy's.

    Another name that leads here is that of a page elsewhere, which wants to read this one through its visitor's
    browser (DNS rebinding).

    Raises:
        InputError: a further name that is none.
    """
    for name in further:
        if not re.fullmatch(r"(\*\.)?[\w.-]+", name):
            raise InputError(f"--host_names are names of hosts, such as '[vqa.example.org]', and {name!r} is none")
    names = {"localhost", "127.0.0.1", "[::1]", _in_address(host), *further}
    if host in ("", "0.0.0.0", "::"):  # all of this machine's
        names |= {socket.gethostname(), socket.getfqdn()}
        for addresses in psutil.net_if_addrs().values():
            names |= {_in_address(one.address) for one in addresses if one.family in (socket.AF_INET, socket.AF_INET6)}
    return sorted(names)


def _in_address(host: str) -> str:
    """As a host is written in the address of a page."""
    host = host.partition("%")[0].strip("[]")
    return f"[{host}]" if ":" in host else host


@contextmanager
def private_folder() -> Iterator[None]:
    """Where gradio puts uploads until they are read; removed at the end, also when the process is told to stop."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with TemporaryDirectory(prefix="flamingo-med-demo-") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            yield
    finally:
        os.environ.pop("GRADIO_TEMP_DIR", None)
        signal.signal(signal.SIGTERM, before)
