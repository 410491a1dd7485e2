"""``/help``: the list of pages as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response, find_pages, help_text

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    return Response(help_text(find_pages()))


PAGE: Final = Page("/help", "print out list of admin commands", _answer)
