"""``POST /drain_listeners``: stop accepting in all workers; the process and its connections go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import OK, Page, Param, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    await server.operations.drain_listeners(
        graceful="graceful" in request.query,
        stop="skip_exit" not in request.query,
        inbound_only="inboundonly" in request.query,
    )
    return OK


PAGE: Final = Page(
    "/drain_listeners",
    "drain listeners",
    _answer,
    mutates=True,
    params=(
        Param("graceful", "tell clients to close for the drain time (--drain-time-s) before listeners are stopped"),
        Param("skip_exit", "tell clients to close, but never stop the listeners"),
        Param("inboundonly", "only listeners with traffic_direction INBOUND"),
    ),
)
