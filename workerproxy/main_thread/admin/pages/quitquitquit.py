"""``POST /quitquitquit``: exit at once. SIGTERM is the one that drains first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import OK, Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    return Response(OK.body, afterwards=server.operations.stop_at_once)


PAGE: Final = Page("/quitquitquit", "exit the server", _answer, mutates=True)
