"""Writes what a finished run found to the file named by WORKERPROXY_LOAD_REPORT, for ``loadtests.run`` to judge.

Locust's own CSV files lack the last second, and its JSON takes the place of its tables.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from locust import events


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_report(environment: Any, **_: Any) -> None:
    path = os.environ.get("WORKERPROXY_LOAD_REPORT")
    if path is None:
        return
    stats = environment.stats
    failures = [{"name": e.name, "error": str(e.error), "occurrences": e.occurrences} for e in stats.errors.values()]
    Path(path).write_text(json.dumps({"requests": stats.total.num_requests, "failures": failures}))
