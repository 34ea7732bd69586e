"""How a process is asked of `tests.fork_server`: `python -S fork_client.py ADDRESS ARGUMENT…` is `python ARGUMENT…`."""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence

#: Length of the header that the standard streams come with: how long the rest is.
HEADER = 4


def ask(
    connection: socket.socket, arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int]
) -> None:
    """Asks for a process with these standard streams, in this directory."""
    asked = json.dumps([arguments, dict(environment), os.getcwd()]).encode()
    socket.send_fds(connection, [len(asked).to_bytes(HEADER, "big")], streams)
    connection.sendall(asked)


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(sys.argv[1])
        ask(connected, sys.argv[2:], os.environ, (0, 1, 2))
        with connected.makefile() as answers:
            # Its pid, and then its exit code.
            sys.exit(int(answers.read().split()[-1]) % 256)
