"""``/hot_restart_version``: Envoy's tools ask for it; there is no hot restart of Envoy's kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    return Response("disabled")


PAGE: Final = Page("/hot_restart_version", "print the hot restart compatibility version", _answer)
