"""``POST /reload``: read the configuration files again and apply them, in all workers or in none.

workerproxy's own page: Envoy cannot reload its bootstrap. 200 when the configuration is served, 400 with every error
when it is refused; with ``no_wait`` 202 at once.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response

if TYPE_CHECKING:
    from workerproxy.main_thread.reload import ReloadResult
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    if not server.initialized or server.operations.handed_over:
        return Response("it is starting or stopping\n", 409)
    if "no_wait" in request.query:
        server.operations.reload()
        return Response("reload asked\n", 202)
    result = await server.operations.reload_now(dry_run="dry_run" in request.query)
    status = 200 if result.ok else 400
    if request.query.get("format") == "json":
        return json_response(asdict(result), status)
    return Response(_text(result), status)


def _text(result: ReloadResult) -> str:
    if not result.ok:
        lines = [f"refused, version {result.version} stays active:", *result.errors]
    elif result.dry_run:
        lines = ["dry run: it can be served; nothing was changed", *(result.changes or ["nothing differs"])]
    else:
        lines = [f"version {result.version} is active", *(result.changes or ["nothing changed"])]
    return "".join(f"{line}\n" for line in [*lines, *result.drains])


PAGE: Final = Page(
    "/reload",
    "read the configuration again and apply it",
    _answer,
    mutates=True,
    params=(
        Param("dry_run", "only say whether it can be served, what differs and what would drain"),
        Param("no_wait", "answer at once"),
        Param("format", "File format to use", ("text", "json")),
    ),
)
