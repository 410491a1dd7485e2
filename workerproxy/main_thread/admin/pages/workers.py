"""``/workers``: one line for each worker process; ``POST /workers?count=N`` has so many.

workerproxy's own page: Envoy's workers are threads. What the system says of a process (CPU time, memory, descriptors,
threads) is read with psutil when it is asked for; ``connections`` and ``lag_ms`` are from the last heartbeat.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import psutil

from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response
from workerproxy.main_thread.operations import OperationError

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server
    from workerproxy.main_thread.worker_slot import WorkerSlot


async def _answer(server: Server, request: Request) -> Response:
    if "count" in request.query:
        return await _scale(server, request)
    supervisor = server.supervisor
    rows = [_row(slot) for slot in supervisor.slots] + [_row(slot, leaving=True) for slot in supervisor.leaving]
    if request.query.get("format") == "json":
        more = {"predecessor_pid": server.predecessor.pid} if server.predecessor and server.predecessor.alive else {}
        return json_response({"main_pid": os.getpid(), **more, "workers": rows})
    lines = (" ".join(f"{key}={value}" for key, value in row.items() if key not in ("worker", "state")) for row in rows)
    return Response("".join(f"{row['worker']}: {row['state']} {line}\n" for row, line in zip(rows, lines, strict=True)))


async def _scale(server: Server, request: Request) -> Response:
    if request.method != "POST":
        return Response(f"Method {request.method} not allowed, POST required.", 405)
    count = request.query["count"]
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        return Response(f"count={count!r} is not a number\n", 400)
    try:
        return Response(f"{await server.operations.scale(int(count))}\n")
    except OperationError as error:
        return Response(f"{error}\n", 400)


def _row(slot: WorkerSlot, *, leaving: bool = False) -> dict[str, Any]:
    return {
        "worker": slot.worker_id,
        "state": "leaving" if leaving else "throttled" if slot.throttled and not slot.pid else slot.state,
        "pid": slot.pid,
        "version": slot.version,
        "connections": max(slot.pulse.active, 0),
        "requests": slot.requests(),
        "lag_ms": round(slot.pulse.lag_ms, 1),
        "restarts": max(slot.started_count - 1, 0),
        "sockets": len(slot.held),
        **_process(slot.pid),
    }


def _process(pid: int) -> dict[str, Any]:
    """What the system says; nothing for a process that has just ended."""
    if not pid:
        return {}
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            return {
                "cpu_s": round(times.user + times.system, 2),
                "rss_bytes": memory.rss,
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
                "cpus": len(process.cpu_affinity()),
            }
    except psutil.Error:
        return {}


PAGE: Final = Page(
    "/workers",
    "print the state of each worker process, or have another number of them",
    _answer,
    params=(
        Param("format", "File format to use", ("text", "json")),
        Param("count", "POST only: how many workers to have; those that are too many finish what they have"),
    ),
)
