"""The admin listener's socket over the versions of the configuration: the next one is bound before the old one goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from workerproxy.main_thread.admin.server import AdminServer, AdminSocket

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


class AdminSockets:
    """``current`` is what is listened on, None without ``admin.address``. ``open`` first, then ``start``."""

    def __init__(self) -> None:
        self.current: AdminSocket | None = None
        self._next: AdminSocket | None = None
        self._planned = False
        self._server: AdminServer | None = None
        self._config: Any = None  # bootstrap.v3.Admin, of the active version and of the next one
        self._config_next: Any = None
        self._moving: asyncio.Task[None] | None = None

    def open(self, bootstrap: Any, given: AdminSocket | None = None) -> None:
        """Bind what the first configuration says; ``given``: a predecessor's. Raises ``ListenError``."""
        self._config = bootstrap.admin
        if given is not None and bootstrap.HasField("admin") and given.serves(bootstrap.admin):
            self.current = given.with_options_of(bootstrap.admin)
            return
        self.current = AdminSocket.open(bootstrap.admin) if bootstrap.HasField("admin") else None

    @property
    def address(self) -> str:
        return self.current.address if self.current else ""

    async def start(self, server: Server) -> None:
        self._server = AdminServer(server)
        if self.current is not None:
            await self._server.listen(self.current)

    def plan(self, bootstrap: Any) -> None:
        """Bind what a new configuration says, if that differs. Raises ``ListenError``."""
        self._planned = bootstrap.admin != self._config
        if not self._planned:
            return
        self._config_next = bootstrap.admin
        if self.current is not None and self.current.serves(bootstrap.admin):
            self._next = self.current.with_options_of(bootstrap.admin)
        else:
            self._next = AdminSocket.open(bootstrap.admin)

    def discard(self) -> None:
        if (
            self._planned
            and self._next is not None
            and (self.current is None or self._next.sock is not self.current.sock)
        ):
            self._next.close()
        self._next, self._planned = None, False

    def adopt(self) -> None:
        """What was planned is listened on from now on; requests that are being answered are answered."""
        if not self._planned:
            return
        old, self.current, self._next = self.current, self._next, None
        self._config, self._planned = self._config_next, False
        if self._server is not None:
            self._moving = asyncio.ensure_future(self._server.move(old, self.current))

    async def stop_listening(self) -> None:
        """A successor listens on the same socket now; the file of a pipe is its."""
        if self._server is not None:
            await self._server.stop_listening()
        if self.current is not None:
            self.current.pipe_path = ""

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
        self.close_sockets()

    def close_sockets(self) -> None:
        if self.current is not None:
            self.current.close()
            self.current = None
