"""``POST /healthcheck/fail`` and ``/healthcheck/ok``: readiness, and whether all workers tell clients to close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import OK, Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _fail(server: Server, request: Request) -> Response:
    await server.operations.fail_health(True)
    return OK


async def _ok(server: Server, request: Request) -> Response:
    await server.operations.fail_health(False)
    return OK


PAGES: Final = (
    Page("/healthcheck/fail", "cause the server to fail health checks", _fail, mutates=True),
    Page("/healthcheck/ok", "cause the server to pass health checks", _ok, mutates=True),
)
