"""``POST /upgrade``: start the program that is installed now; it takes over the listening sockets, and this one leaves.

workerproxy's own page. Answered when the successor serves (200), or with why it does not (500).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    result = await server.operations.upgrade_now()
    if not result.ok:
        return Response(f"upgrade failed, everything goes on as it was: {result.why}\n", 500)
    return Response(f"process {result.pid} serves now\n")


PAGE: Final = Page("/upgrade", "start the installed program anew and hand over to it", _answer, mutates=True)
