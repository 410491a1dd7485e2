"""For scenarios that need the socket itself: one request on a new connection, written and read at a chosen pace."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
from locust import User

from loadtests.locustfiles import report  # noqa: F401 - every scenario reports what it found

TIMEOUT_S: Final = 30.0
_HEAD_LIMIT: Final = 65536


class WrongAnswer(Exception):
    """The answer is not what the request asked for."""


class RawUser(User):
    """A user who opens a socket for each request. What ``timed`` runs is one entry in Locust's table."""

    abstract = True

    def timed(self, name: str, action: Callable[[], int]) -> None:
        """Run ``action``, which returns how many bytes came; WrongAnswer and OSError become failures with a reason."""
        started = time.perf_counter()
        error: Exception | None = None
        length = 0
        try:
            length = action()
        except (WrongAnswer, OSError) as caught:
            error = caught
        elapsed_ms = (time.perf_counter() - started) * 1000
        event: dict[str, Any] = {"request_type": "RAW", "name": name, "response_time": elapsed_ms}
        self.environment.events.request.fire(**event, response_length=length, exception=error, context={})

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        target = urlsplit(self.host or "")
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(TIMEOUT_S)
        connection.connect((target.hostname or "127.0.0.1", target.port or 80))
        return connection


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: load", *headers, "", ""]).encode()


def send_slowly(connection: socket.socket, data: bytes, pieces: int, pause_s: float) -> None:
    """Send in about ``pieces`` equal parts with a pause between them."""
    step = max(1, len(data) // pieces)
    for start in range(0, len(data), step):
        if start:
            gevent.sleep(pause_s)
        connection.sendall(data[start : start + step])


def read_answer(connection: socket.socket, piece: int = 65536, pause_s: float = 0.0) -> bytes:
    """The body of one 200 answer with a content-length, read ``piece`` bytes at a time. Raises WrongAnswer."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(min(piece, _HEAD_LIMIT))
        if not data or len(received) > _HEAD_LIMIT:
            raise WrongAnswer(f"no complete answer, only {received[:60]!r}")
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise WrongAnswer(head[:60].decode("latin-1"))
    parts = [body]
    missing = int(length[1]) - len(body)
    while missing > 0:
        if pause_s:
            gevent.sleep(pause_s)
        data = connection.recv(min(piece, missing))
        if not data:
            raise WrongAnswer(f"closed {missing} bytes before the end")
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)
