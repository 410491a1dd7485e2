"""``/ready``: 200 when requests are served, 503 otherwise; the body is the server's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response
from workerproxy.main_thread.server_state import ServerState

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    state = server.state
    return Response(f"{state.name}\n", 200 if state == ServerState.LIVE else 503)


PAGE: Final = Page("/ready", "print server state, return 200 if LIVE, otherwise return 503", _answer)
