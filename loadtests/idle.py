"""Memory per idle keep-alive connection: open many, one request on each, and see what the proxy has grown by."""

from __future__ import annotations

import resource
import socket
from typing import Final

from loadtests.measure import MeasureError, pss_bytes

IDLE_CONNECTIONS: Final = 2000
_REQUEST: Final = b"GET /small HTTP/1.1\r\nhost: compare\r\n\r\n"
_END_OF_BODY: Final = b"xxxx"  # the small body is made of x


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process, and what it starts from now on, open ``wanted`` descriptors. Raises MeasureError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise MeasureError(f"{wanted} descriptors needed, the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def one_request(port: int) -> socket.socket:
    """A connection that has had one answer and stays open."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(_REQUEST)
    received = b""
    while not received.endswith(_END_OF_BODY):
        data = connection.recv(65536)
        if not data:
            connection.close()
            raise MeasureError(f"the proxy closed an idle connection: {received[:200]!r}")
        received += data
    if not received.startswith(b"HTTP/1.1 200"):
        raise MeasureError(f"not answered with 200: {received[:200]!r}")
    return connection


def bytes_per_idle_connection(port: int, pid: int, count: int = IDLE_CONNECTIONS) -> float:
    """PSS growth of the process tree, divided by ``count``. The kernel's socket memory is not in it.

    The proxy should be freshly started: memory it has used before and kept would be used again and not be seen.
    """
    open_connections = []
    try:
        for _ in range(50):  # code paths and caches that the first requests warm up are not memory per connection
            one_request(port).close()
        before = pss_bytes(pid)
        for _ in range(count):
            open_connections.append(one_request(port))  # noqa: PERF401 - what is open must be known when one fails
        return (pss_bytes(pid) - before) / count
    finally:
        for connection in open_connections:
            connection.close()
