"""``POST /reset_counters``: every counter of every process reads 0 from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import OK, Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    await server.current_stats()  # what workers have not published yet must not come back after the reset
    server.store.reset_counters()
    return OK


PAGE: Final = Page("/reset_counters", "reset all counters to zero", _answer, mutates=True)
