"""Large bodies made and checked on the fly: an origin that sends and receives them, a client, a watch on memory."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import psutil

from tests.support.framing import head_end

BLOCK: Final = 1 << 18
TIMEOUT_S: Final = 60.0
_PATTERN: Final = random.Random(1).randbytes(BLOCK)


def content(size: int) -> Iterator[bytes]:
    """``size`` bytes of which no two blocks are equal."""
    for number, start in enumerate(range(0, size, BLOCK)):
        yield (number.to_bytes(8, "big") + _PATTERN[8:])[: size - start]


def digest(size: int) -> str:
    """The digest of ``content(size)``."""
    sums = hashlib.sha256()
    for block in content(size):
        sums.update(block)
    return sums.hexdigest()


@dataclass
class Transfer:
    """What the origin has done about one request. It goes on only while ``gate`` is set."""

    sent: int = 0  # bytes of the response body given to the socket
    received: int = 0  # bytes of the request body
    sums: hashlib._Hash = field(default_factory=hashlib.sha256)
    gate: threading.Event = field(default_factory=threading.Event)


class BulkOrigin:
    """Answers with ``x-send`` bytes of content, framed as ``x-framing`` says; to a request body with its digest."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._transfers: dict[str, Transfer] = {}
        self._stopped = False
        threading.Thread(target=self._accept, daemon=True).start()

    def plan(self, path: str, *, held: bool = False) -> Transfer:
        """Of the next request for ``path``. ``held``: the origin does nothing about its body until ``gate`` is set."""
        transfer = self._transfers[path] = Transfer()
        if not held:
            transfer.gate.set()
        return transfer

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.settimeout(TIMEOUT_S)
            data = b""
            while True:
                while head_end(data) < 0:
                    more = peer.recv(65536)
                    if not more:
                        return
                    data += more
                head, data = data[: head_end(data)], data[head_end(data) :]
                data = self._answer(peer, head.decode("latin-1"), data)

    def _answer(self, peer: socket.socket, head: str, data: bytes) -> bytes:
        """Returns what came behind the request."""
        lines = head.split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        transfer = self._transfers[lines[0].split()[1]]
        transfer.gate.wait(TIMEOUT_S)
        rest = self._receive(peer, transfer, fields, data)
        if "x-send" in fields:
            self._send(peer, transfer, int(fields["x-send"]), fields["x-framing"], float(fields.get("x-pause", 0)))
        else:
            text = transfer.sums.hexdigest().encode()
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        return rest

    def _receive(self, peer: socket.socket, transfer: Transfer, fields: dict[str, str], data: bytes) -> bytes:
        with io.BufferedReader(
            socket.SocketIO(peer, "r"), BLOCK
        ) as stream:  # nothing is behind a request body: no pipelining here
            source = _Prefixed(data, stream)
            if "content-length" in fields:
                self._take(source, transfer, int(fields["content-length"]))
            elif "transfer-encoding" in fields:
                while size := int(source.readline(), 16):
                    self._take(source, transfer, size)
                    source.readline()
                source.readline()
        return b""

    def _take(self, source: _Prefixed, transfer: Transfer, size: int) -> None:
        while size:
            block = source.read(min(size, BLOCK))
            if not block:
                raise ConnectionError("the request ended too early")
            transfer.sums.update(block)
            transfer.received += len(block)
            size -= len(block)

    def _send(self, peer: socket.socket, transfer: Transfer, size: int, framing: str, pause_s: float) -> None:
        fields = {"length": f"content-length: {size}\r\n", "chunked": "transfer-encoding: chunked\r\n", "close": ""}
        peer.sendall(f"HTTP/1.1 200 OK\r\n{fields[framing]}\r\n".encode())
        for block in content(size):
            if pause_s:
                threading.Event().wait(pause_s)
            peer.sendall(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)
            transfer.sent += len(block)
        if framing == "chunked":
            peer.sendall(b"0\r\n\r\n")
        elif framing == "close":
            peer.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transfer in self._transfers.values():
            transfer.gate.set()


class _Prefixed:
    """A stream of which the first bytes were read already."""

    def __init__(self, data: bytes, stream: io.BufferedIOBase) -> None:
        self._data = data
        self._stream = stream

    def read(self, size: int) -> bytes:
        if self._data:
            taken, self._data = self._data[:size], self._data[size:]
            return taken
        return self._stream.read1(size)

    def readline(self) -> bytes:
        end = self._data.find(b"\n") + 1
        if end:
            line, self._data = self._data[:end], self._data[end:]
            return line
        line, self._data = self._data + self._stream.readline(), b""
        return line


def connect(port: int, receive_buffer: int = 0) -> http.client.HTTPConnection:
    """A client connection; ``receive_buffer`` bytes bound what the kernel takes for a client that does not read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(TIMEOUT_S)
    sock.connect(("127.0.0.1", port))
    connection.sock = sock
    return connection


def read_digest(response: http.client.HTTPResponse) -> tuple[int, str]:
    """Size and digest of what is left of the body; ``http.client.IncompleteRead`` when it is cut short."""
    size, sums = 0, hashlib.sha256()
    while block := response.read(BLOCK):
        size += len(block)
        sums.update(block)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return size, sums.hexdigest()


class MemoryWatch:
    """The most memory (RSS) a process had more than at the start, in bytes, while the context lasted."""

    def __init__(self, process: psutil.Process) -> None:
        self.growth = 0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.growth = max(self.growth, self._process.memory_info().rss - self._before)

    def __enter__(self) -> Self:
        self._before = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
