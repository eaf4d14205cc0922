"""What is settled before gradio is imported: the address is free and guarded, files stay in a folder of our own."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from tempfile import TemporaryDirectory

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
