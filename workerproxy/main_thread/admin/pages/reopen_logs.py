"""``POST /reopen_logs``: close and open every log file in all processes, as SIGUSR1 does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import OK, Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    await server.operations.reopen_all_logs()
    return OK


PAGE: Final = Page("/reopen_logs", "reopen access logs", _answer, mutates=True)
