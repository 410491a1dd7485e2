"""The admin listener: HTTP/1.1 with h11, bounded in everything, since it shares the main process's event loop.

Bodies are read and thrown away: admin takes its arguments from the query. Limits: 200 connections, 16 KiB of headers,
64 KiB of body, 10 s for a request to arrive, 60 s between requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import h11

from workerproxy.http.matchers import MatcherError, TextTest, string_test
from workerproxy.main_thread.admin.page import Page, Request, Response, find_pages, help_text
from workerproxy.main_thread.listener_sockets import ListenError, listening_address, open_admin_socket

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server

_log = logging.getLogger("workerproxy.admin")

MAX_CONNECTIONS: Final = 200
MAX_HEADER_BYTES: Final = 16 << 10
MAX_BODY_BYTES: Final = 64 << 10
REQUEST_TIMEOUT_S: Final = 10.0
IDLE_TIMEOUT_S: Final = 60.0
WRITE_TIMEOUT_S: Final = 30.0
CLOSE_TIMEOUT_S: Final = 2.0
_READ: Final = 1 << 16


@dataclass(slots=True)
class AdminSocket:
    """The listening socket of ``bootstrap.v3.Admin.address`` and who may see what (``allow_paths``)."""

    sock: socket.socket
    address: str  # as it was bound
    allowed: list[TextTest]  # empty: every path
    configured: bytes  # the address as the configuration has it, serialized
    pipe_path: str = ""

    @classmethod
    def open(cls, admin: Any) -> AdminSocket | None:
        """Bind and listen; None when no address is configured. Raises ``ListenError``."""
        if not admin.HasField("address"):
            return None
        allowed = _allowed(admin)
        sock, pipe_path = open_admin_socket(admin.address)
        return cls(sock, listening_address(sock), allowed, _address_of(admin), pipe_path)

    @classmethod
    def given(cls, sock: socket.socket, configured: bytes, pipe_path: str) -> AdminSocket:
        """A predecessor's."""
        return cls(sock, listening_address(sock), [], configured, pipe_path)

    def serves(self, admin: Any) -> bool:
        """Whether this is the socket that this configuration asks for."""
        return bool(admin.HasField("address")) and _address_of(admin) == self.configured

    def with_options_of(self, admin: Any) -> AdminSocket:
        """The same socket with other options. Raises ``ListenError``."""
        return AdminSocket(self.sock, self.address, _allowed(admin), self.configured, self.pipe_path)

    def close(self) -> None:
        self.sock.close()
        if self.pipe_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pipe_path)
            self.pipe_path = ""

    def allows(self, target: str) -> bool:
        """``target`` is the path with its query, as Envoy matches it."""
        return not self.allowed or any(test(target.encode()) for test in self.allowed)


def _allowed(admin: Any) -> list[TextTest]:
    try:
        return [string_test(matcher) for matcher in admin.allow_paths]
    except MatcherError as error:
        raise ListenError(f"admin.allow_paths: {error}") from None


def _address_of(admin: Any) -> bytes:
    return bytes(admin.address.SerializeToString(deterministic=True))


class AdminServer:
    """Serves the pages of one ``Server``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pages = find_pages()
        self._socket: AdminSocket | None = None
        self._listening: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Future[None]] = set()

    async def listen(self, admin_socket: AdminSocket) -> None:
        """Serve this socket; the caller keeps it, and closes it in the end."""
        self._socket = admin_socket
        start = asyncio.start_unix_server if admin_socket.sock.family == socket.AF_UNIX else asyncio.start_server
        self._listening = await start(self._connected, sock=admin_socket.sock.dup(), limit=_READ)
        _log.info("admin address: %s", admin_socket.address)

    async def move(self, old: AdminSocket | None, new: AdminSocket | None) -> None:
        """Listen on another socket, or with other options; requests under way are answered."""
        if old is not None and new is not None and old.sock is new.sock:
            self._socket = new
            return
        await self.stop_listening()
        self._socket = new or self._socket  # what is still connected may see what it was allowed to see
        if new is not None:
            await self.listen(new)
        if old is not None:
            old.close()

    async def stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """What is being answered is answered, within ``CLOSE_TIMEOUT_S``; idle connections are closed."""
        await self.stop_listening()
        if self._answering:
            await asyncio.wait(set(self._answering), timeout=CLOSE_TIMEOUT_S)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await _Connection(self, reader, writer).serve()
        except (ConnectionError, TimeoutError):
            _log.debug("an admin connection ended early")
        except asyncio.CancelledError:
            _log.debug("an admin connection was cut off")
        finally:
            self._connections.discard(task)
            writer.close()

    def begin_answer(self) -> asyncio.Future[None]:
        """A request has come; the caller resolves the future when its answer is written, or never will be."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answering.add(answered)
        answered.add_done_callback(self._answering.discard)
        return answered

    async def answer(self, method: str, target: str) -> Response:
        """The response to one request. Never raises: a page that fails is a 500."""
        request = Request.of(method, target)
        if self._socket is None or not self._socket.allows(target):
            _log.info("Request to admin interface path %s is not allowed", target)
            return Response(f"request to path {request.path} not allowed", 403)
        page = self._pages.get(request.path)
        if page is None:
            return Response(f"invalid path. {help_text(self._pages)}", 404)
        if page.mutates and method != "POST":
            _log.error('admin path "%s" mutates state, method=%s rather than POST', request.path, method)
            return Response(f"Method {method} not allowed, POST required.", 405)
        return await self._call(page, request)

    async def _call(self, page: Page, request: Request) -> Response:
        try:
            return await page.answer(self._server, request)
        except Exception as error:
            _log.exception("admin page %s failed", page.path)
            return Response(f"internal error: {type(error).__name__}: {error}\n", 500)


class _Connection:
    """One client: its requests one after the other."""

    def __init__(self, admin: AdminServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._admin = admin
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def serve(self) -> None:
        timeout = REQUEST_TIMEOUT_S
        while True:
            try:
                request = await asyncio.wait_for(self._read_request(), timeout)
                if request is None:
                    return
                answered = self._admin.begin_answer()
                try:
                    response = await self._admin.answer(request.method.decode(), request.target.decode())
                    await self._write(response, head=request.method == b"HEAD")
                finally:
                    answered.set_result(None)
            except h11.RemoteProtocolError as error:
                await self._refuse(error)
                return
            if response.afterwards is not None:
                response.afterwards()
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            timeout = IDLE_TIMEOUT_S

    async def _read_request(self) -> h11.Request | None:
        """A request and the end of its body; None when the client closed."""
        request: h11.Request | None = None
        body = 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    self._writer.write(self._http.send(go_on) or b"")
                self._http.receive_data(await self._reader.read(_READ))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += len(event.data)
                if body > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None

    async def _write(self, response: Response, *, head: bool) -> None:
        body = response.body.encode()
        headers = [
            ("content-type", response.content_type),
            ("cache-control", "no-cache, max-age=0"),
            ("x-content-type-options", "nosniff"),
            ("date", formatdate(time.time(), usegmt=True)),
            ("server", "workerproxy"),
            ("content-length", str(len(body))),
        ]
        reason = HTTPStatus(response.status).phrase.encode()
        out = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        if not head:
            out += self._http.send(h11.Data(data=body)) or b""
        out += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(out)
        await asyncio.wait_for(self._writer.drain(), WRITE_TIMEOUT_S)

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._write(Response("Bad Request\n", error.error_status_hint), head=False)
