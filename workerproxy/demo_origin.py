"""A small origin to try the proxy on: two endpoints in one process, each answer says which of them served.

``python -m workerproxy.demo_origin`` listens on 127.0.0.1:10001 and 127.0.0.1:10002, where the embedded default
configuration expects it; the load-test scenarios use it too. It is a program of its own and no part of the proxy.

==================  ====================================================================================
path                answer
==================  ====================================================================================
``/headers``        the request as JSON: method, target, headers as they arrived at the origin
``/bytes/N``        N bytes, with a content-length (at most 1 GiB)
``/delay/MS``       a line of text after MS milliseconds (at most 60,000)
``/stream``         five lines, 100 ms apart, chunked; ``/stream/N/MS``: N lines (at most 10,000) MS apart
``/status/CODE``    that status, 200 to 599
``/upload``         how many bytes of body the request had, as JSON
anything else       a line of text with the endpoint and the request line
==================  ====================================================================================

Limits: 64 KiB of request headers (then 431). It writes nothing but one line when it is ready, and errors at start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import httptools
import uvloop

DEFAULT_PORTS: Final = (10001, 10002)
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 1 << 30
MAX_DELAY_MS: Final = 60_000
MAX_STREAM_LINES: Final = 10_000
BLOCK: Final = b"0123456789abcde\n" * 4096  # what bodies are cut from, 64 KiB

_TEXT: Final = b"text/plain; charset=utf-8"
_JSON: Final = b"application/json"


@dataclass(slots=True)
class Request:
    """One request as it came, its body only counted."""

    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    head_complete: bool = False
    body_bytes: int = 0
    http_1_0: bool = False
    keep_alive: bool = True


@dataclass(slots=True)
class Reply:
    """``body`` is all of it, or a source of parts; ``length`` is None when only the source knows (chunked)."""

    body: bytes | AsyncIterator[bytes]
    status: int = 200
    content_type: bytes = _TEXT
    length: int | None = None


class BadArgument(ValueError):
    """The path asks for something out of bounds."""


def _number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text[:12]) <= high):
        raise BadArgument(f"expected a number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def _as_json(value: object) -> Reply:
    return Reply(json.dumps(value, indent=2).encode() + b"\n", content_type=_JSON)


def _headers(request: Request, endpoint: str, argument: str) -> Reply:
    headers: dict[str, str] = {}
    for name, value in request.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return _as_json({"endpoint": endpoint, "method": request.method, "target": request.target, "headers": headers})


def _upload(request: Request, endpoint: str, argument: str) -> Reply:
    return _as_json({"endpoint": endpoint, "bytes": request.body_bytes})


def _status(request: Request, endpoint: str, argument: str) -> Reply:
    code = _number(argument, 200, 599)
    return Reply(f"status {code} from endpoint {endpoint}\n".encode(), status=code)


def _bytes(request: Request, endpoint: str, argument: str) -> Reply:
    total = _number(argument, 0, MAX_BODY_BYTES)
    if total <= len(BLOCK):
        return Reply(BLOCK[:total], content_type=b"application/octet-stream")

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(total // len(BLOCK)):
            yield BLOCK
        yield BLOCK[: total % len(BLOCK)]

    return Reply(parts(), content_type=b"application/octet-stream", length=total)


def _delay(request: Request, endpoint: str, argument: str) -> Reply:
    delay_ms = _number(argument, 0, MAX_DELAY_MS)
    text = f"endpoint {endpoint} waited {delay_ms} ms\n".encode()

    async def parts() -> AsyncIterator[bytes]:
        await asyncio.sleep(delay_ms / 1000)
        yield text

    return Reply(parts(), length=len(text))


def _stream(request: Request, endpoint: str, argument: str) -> Reply:
    count_text, _, pause_text = argument.partition("/")
    count = _number(count_text or "5", 0, MAX_STREAM_LINES)
    pause_ms = _number(pause_text or "100", 0, MAX_DELAY_MS)

    async def parts() -> AsyncIterator[bytes]:
        for index in range(count):
            if index:
                await asyncio.sleep(pause_ms / 1000)
            yield f"line {index + 1} of {count} from endpoint {endpoint}\n".encode()

    return Reply(parts())


PATHS: Final[dict[str, Callable[[Request, str, str], Reply]]] = {
    "headers": _headers,
    "bytes": _bytes,
    "delay": _delay,
    "stream": _stream,
    "status": _status,
    "upload": _upload,
}


def answer(request: Request, endpoint: str) -> Reply:
    """What this origin says to a request; no I/O. Never raises."""
    name, _, argument = request.target.split("?", 1)[0].lstrip("/").partition("/")
    handler = PATHS.get(name)
    if handler is None:
        return Reply(f"endpoint {endpoint} answers {request.method} {request.target}\n".encode())
    try:
        return handler(request, endpoint, argument)
    except BadArgument as error:
        return Reply(f"/{name}/: {error}\n".encode(), status=400)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class Connection(asyncio.Protocol):
    """One connection of a client: requests in, answers out, strictly in order and one at a time.

    Reading pauses while an answer is being made from a source, so what a client can send ahead is bounded by one read.
    """

    def __init__(self, endpoint: str, open_connections: set[Connection]) -> None:
        self.endpoint = endpoint
        self.open_connections = open_connections
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.request = Request()
        self.waiting: deque[Request] = deque()
        self.head_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open_connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.open_connections.discard(self)
        self.transport = None
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if not self.request.head_complete:
            self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request itself is complete and has been answered; this origin upgrades to nothing
        except httptools.HttpParserError:
            self._refuse(400)
        else:
            if self.head_bytes > MAX_HEAD_BYTES and not self.request.head_complete:
                self._refuse(431)

    # ---- httptools

    def on_message_begin(self) -> None:
        self.request = Request()

    def on_url(self, url: bytes) -> None:
        self.request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.request.head_complete:  # else: a trailer
            self.request.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        request = self.request
        request.head_complete = True
        request.method = self.parser.get_method().decode("latin-1")
        request.http_1_0 = self.parser.get_http_version() == "1.0"
        self.head_bytes = 0
        expects = any(name == "expect" and value.lower() == "100-continue" for name, value in request.headers)
        if expects and self.transport is not None and self.task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.request.body_bytes += len(body)

    def on_message_complete(self) -> None:
        self.request.keep_alive = self.parser.should_keep_alive() and not self.parser.should_upgrade()
        self.waiting.append(self.request)
        self.request = Request()
        self._serve()

    # ---- answers

    def _serve(self) -> None:
        """Answer what waits, until an answer needs time."""
        while self.waiting and self.task is None and self.transport is not None and not self.transport.is_closing():
            request = self.waiting.popleft()
            reply = answer(request, self.endpoint)
            if isinstance(reply.body, bytes):
                reply.length = len(reply.body)
                body = b"" if self._bodiless(request, reply) else reply.body
                self.transport.write(self._head(request, reply) + body)
                if not request.keep_alive:
                    self.transport.close()
            else:
                self.transport.pause_reading()
                self.task = asyncio.get_running_loop().create_task(self._send(request, reply, reply.body))

    async def _send(self, request: Request, reply: Reply, source: AsyncIterator[bytes]) -> None:
        """Write an answer part by part, no faster than the client takes it."""
        assert self.transport is not None
        transport = self.transport
        chunked = reply.length is None and not request.http_1_0
        head = self._head(request, reply)
        if chunked or reply.length is None or self._bodiless(request, reply):
            transport.write(head)
            head = b""
        if not self._bodiless(request, reply):
            async for part in source:
                transport.write(head + (b"%x\r\n%b\r\n" % (len(part), part) if chunked else part))
                head = b""
                await self.writable.wait()
            if chunked:
                transport.write(b"0\r\n\r\n")
        self.task = None
        if request.keep_alive and not (request.http_1_0 and reply.length is None):
            transport.resume_reading()
            self._serve()
        else:
            transport.close()

    @staticmethod
    def _bodiless(request: Request, reply: Reply) -> bool:
        return request.method == "HEAD" or reply.status in (204, 304)

    def _head(self, request: Request, reply: Reply) -> bytes:
        lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}", f"x-demo-endpoint: {self.endpoint}"]
        if reply.status not in (204, 304):
            lines.append(f"content-type: {reply.content_type.decode()}")
            if reply.length is not None:
                lines.append(f"content-length: {reply.length}")
            elif not request.http_1_0:
                lines.append("transfer-encoding: chunked")
        if not request.keep_alive or (request.http_1_0 and reply.length is None):
            lines.append("connection: close")
        elif request.http_1_0:
            lines.append("connection: keep-alive")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _refuse(self, status: int) -> None:
        if self.transport is not None and self.task is None and not self.transport.is_closing():
            text = f"HTTP/1.1 {status} {_reason(status)}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(text.encode())
        if self.transport is not None:
            self.transport.close()


class DemoOrigin:
    """Listens on one port per endpoint; endpoints are numbered from 1. Port 0 lets the system choose."""

    def __init__(self, ports: Sequence[int] = DEFAULT_PORTS, host: str = "127.0.0.1") -> None:
        self.host = host
        self.wanted_ports = tuple(ports)
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()

    async def start(self) -> None:
        """Begin to listen; raises OSError when a port is taken, and then listens on none."""
        loop = asyncio.get_running_loop()
        try:
            for number, port in enumerate(self.wanted_ports, start=1):
                factory = self._factory(str(number))
                server = await loop.create_server(factory, self.host, port, backlog=1024)
                self._servers.append(server)
                self.ports.append(server.sockets[0].getsockname()[1])
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        for server in self._servers:
            await server.wait_closed()

    def _factory(self, endpoint: str) -> Callable[[], Connection]:
        return lambda: Connection(endpoint, self._connections)


async def _run(ports: Sequence[int], host: str) -> int:
    origin = DemoOrigin(ports, host)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await origin.start()
    except OSError as error:
        print(f"demo origin: {error}", file=sys.stderr)
        return 1
    with contextlib.suppress(BrokenPipeError):
        print("demo origin: ready on " + " ".join(f"http://{host}:{port}" for port in origin.ports), flush=True)
    await stop.wait()
    await origin.stop()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM. Exit status 1 when a port cannot be had."""
    about = "A small origin to proxy to."
    parser = argparse.ArgumentParser(prog="python -m workerproxy.demo_origin", description=about)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        action="append",
        dest="ports",
        help="one endpoint on this port; may be repeated, 0 lets the system choose (default: 10001 and 10002)",
    )
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(options.ports or DEFAULT_PORTS, options.host))


if __name__ == "__main__":
    sys.exit(main())
