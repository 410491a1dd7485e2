"""``/listeners``: names and the addresses they are really bound to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response
from workerproxy.main_thread.listener_manager import ACTIVE

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_manager import Listener
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    active = [one for one in server.listeners.active.values() if one.binds and one.state == ACTIVE]
    if request.query.get("format") == "json":
        draining = [_draining(listener) for listener in server.listeners.draining]
        more = {"draining_listener_statuses": draining} if draining else {}
        return json_response({"listener_statuses": [_status(listener) for listener in active], **more})
    return Response("".join(f"{one.name}::{address}\n" for one in active for address in one.addresses))


def _status(listener: Listener) -> dict[str, Any]:
    first, *others = [json_address(address) for address in listener.addresses]
    more = {"additional_local_addresses": others} if others else {}
    return {"name": listener.name, "local_address": first, **more}


def _draining(listener: Listener) -> dict[str, Any]:
    """workerproxy's own: listeners that are gone from the configuration, or stopped, and for how long."""
    return {**_status(listener), "draining_for_s": round(time.monotonic() - listener.since, 1)}


def json_address(text: str) -> dict[str, Any]:
    """``1.2.3.4:80``, ``[::1]:80`` or a path as ``core.v3.Address``."""
    if text.startswith(("/", "@")) or ":" not in text:
        return {"pipe": {"path": text}}
    ip, _, port = text.rpartition(":")
    return {"socket_address": {"address": ip.strip("[]"), "port_value": int(port)}}


PAGE: Final = Page(
    "/listeners", "print listener info", _answer, params=(Param("format", "File format to use", ("text", "json")),)
)
