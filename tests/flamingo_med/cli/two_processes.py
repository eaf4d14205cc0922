"""Script: commands that two processes share, as `accelerate launch` or `torchrun` would start them.

    python -m tests.flamingo_med.cli.two_processes '[["evaluate", "--model", "…"], …]'

They are forked from a process that has imported everything and computed nothing, so that each takes seconds.
"""

import json
import multiprocessing
import os
import socket
import sys

from flamingo_med.cli import evaluate, train  # noqa: F401 (so that no process imports them)
from flamingo_med.cli.main import dispatch, run


def start(rank: int, port: int, arguments: list[str]) -> None:
    """One of the two."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run(lambda: dispatch(arguments))


def main(commands: list[list[str]]) -> None:
    """One command after the other; ends with the first that fails."""
    for arguments in commands:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=start, args=(rank, port, arguments)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
