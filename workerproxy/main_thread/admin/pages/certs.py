"""``/certs``: ``envoy.admin.v3.Certificates``. There is no TLS yet, so no certificate is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response, json_response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    return json_response({"certificates": []})


PAGE: Final = Page("/certs", "print certs on machine", _answer)
