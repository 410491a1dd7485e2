"""``/workers``: one line for each worker: its state, process, configuration version, connections, loop lag, restarts.

workerproxy's own page: Envoy's workers are threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server
    from workerproxy.main_thread.worker_slot import WorkerSlot


async def _answer(server: Server, request: Request) -> Response:
    rows = [_row(slot) for slot in server.supervisor.slots]
    if request.query.get("format") == "json":
        return json_response({"workers": rows})
    lines = (" ".join(f"{key}={value}" for key, value in row.items() if key not in ("worker", "state")) for row in rows)
    return Response("".join(f"{row['worker']}: {row['state']} {line}\n" for row, line in zip(rows, lines, strict=True)))


def _row(slot: WorkerSlot) -> dict[str, Any]:
    return {
        "worker": slot.worker_id,
        "state": slot.state,
        "pid": slot.pid,
        "version": slot.version,
        "connections": max(slot.pulse.active, 0),
        "lag_ms": round(slot.pulse.lag_ms, 1),
        "restarts": max(slot.started_count - 1, 0),
    }


PAGE: Final = Page(
    "/workers",
    "print the state of each worker process",
    _answer,
    params=(Param("format", "File format to use", ("text", "json")),),
)
