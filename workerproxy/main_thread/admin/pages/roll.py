"""``POST /roll``: new processes for all workers, one by one, each probed before the next; answered at the end.

workerproxy's own page: for changed Python code without a new main process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response
from workerproxy.main_thread.operations import OperationError

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    try:
        result = await server.operations.roll()
    except OperationError as error:
        return Response(f"{error}\n", 409)
    return Response("".join(f"{line}\n" for line in result.lines), 200 if result.ok else 500)


PAGE: Final = Page("/roll", "replace all worker processes, one by one", _answer, mutates=True)
