"""Free TCP ports on the loopback address, for programs that must be told their port beforehand.

The ports lie below the kernel's ephemeral range, so that no outgoing connection takes one between choice and use, and
each test process searches its own part of that range, so that processes running side by side do not collide.
"""

from __future__ import annotations

import os
import socket
from itertools import count
from typing import Final

LOWEST: Final = 10240
HIGHEST: Final = 32767  # Linux hands out 32768 and above to outgoing connections
_STRIDE: Final = 97  # coprime to the size of the range: neighbouring process ids search far apart

_next = count(os.getpid() * _STRIDE * 7)


def free_port() -> int:
    """A port nobody listens on now; never the same twice in one process before the range is used up."""
    for _ in range(HIGHEST - LOWEST):
        port = LOWEST + next(_next) % (HIGHEST - LOWEST)
        if _is_free(port):
            return port
    raise OSError("no free TCP port on 127.0.0.1")


def free_ports(number: int) -> list[int]:
    """``number`` different free ports."""
    return [free_port() for _ in range(number)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
