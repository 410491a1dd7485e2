"""``/hot_restart_version``: of the hand-over between two programs; ``disabled`` with ``--disable-hot-restart``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.control.hot_restart import HOT_RESTART_VERSION
from workerproxy.main_thread.admin.page import Page, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    return Response("disabled" if server.options.disable_hot_restart else HOT_RESTART_VERSION)


PAGE: Final = Page("/hot_restart_version", "print the hot restart compatibility version", _answer)
