"""``/memory``: ``envoy.admin.v3.Memory``, the sum over the main process and its workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Request, Response, json_response
from workerproxy.main_thread.machine import memory_of

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server


async def _answer(server: Server, request: Request) -> Response:
    memory = memory_of([os.getpid(), *(slot.pid for slot in server.supervisor.running())])
    return json_response(
        {
            "allocated": str(memory.allocated),
            "heap_size": str(memory.heap_size),
            "pageheap_unmapped": "0",
            "pageheap_free": "0",
            "total_thread_cache": "0",
            "total_physical_bytes": str(memory.physical),
        }
    )


PAGE: Final = Page("/memory", "print current allocation/heap usage", _answer)
