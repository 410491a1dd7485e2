"""``/listeners``: names and the addresses they are really bound to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_sockets import ListenerSockets
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    if request.query.get("format") == "json":
        return json_response({"listener_statuses": [_status(listener) for listener in server.listeners]})
    return Response("".join(f"{listener.name}::{listener.address}\n" for listener in server.listeners))


def _status(listener: ListenerSockets) -> dict[str, Any]:
    return {"name": listener.name, "local_address": json_address(listener.address)}


def json_address(text: str) -> dict[str, Any]:
    """``1.2.3.4:80``, ``[::1]:80`` or a path as ``core.v3.Address``."""
    if text.startswith(("/", "@")) or ":" not in text:
        return {"pipe": {"path": text}}
    ip, _, port = text.rpartition(":")
    return {"socket_address": {"address": ip.strip("[]"), "port_value": int(port)}}


PAGE: Final = Page(
    "/listeners", "print listener info", _answer, params=(Param("format", "File format to use", ("text", "json")),)
)
