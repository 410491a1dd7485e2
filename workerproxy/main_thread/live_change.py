"""Which differences between two configurations can be applied to a running process, and what they are called.

Routes, clusters, filter chains and access logs can. Listening sockets and the admin address cannot yet: such a reload
is refused by name, as a whole, so that nothing is ever half applied. A pure function of two bootstraps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from workerproxy.control.names import listener_name

# Of a listener these can change while it runs: they are the connection manager's, not the socket's.
_LIVE_LISTENER_FIELDS: Final = (
    "filter_chains",
    "default_filter_chain",
    "per_connection_buffer_limit_bytes",
    "metadata",
    "listener_filters_timeout",
    "continue_on_listener_filters_timeout",
    "traffic_direction",
)


@dataclass(slots=True)
class Difference:
    """``changes``: one line for each thing that differs. ``refused``: those of them that need a restart."""

    changes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def compare(old: Any, new: Any) -> Difference:
    """What differs between two ``bootstrap.v3.Bootstrap`` messages, listeners and clusters by name."""
    found = Difference()
    if old.admin != new.admin:
        found.refused.append("admin: the admin address or its options changed; restart to apply it")
    _listeners(old.static_resources.listeners, new.static_resources.listeners, found)
    before = {cluster.name: cluster for cluster in old.static_resources.clusters}
    after = {cluster.name: cluster for cluster in new.static_resources.clusters}
    _named("cluster", before, after, found.changes)
    rest_old, rest_new = _rest(old), _rest(new)
    if rest_old != rest_new:
        found.changes.append("bootstrap options changed")
    found.changes += found.refused
    return found


def _listeners(old: Any, new: Any, found: Difference) -> None:
    before = {listener_name(listener): listener for listener in old}
    after = {listener_name(listener): listener for listener in new}
    for name in before.keys() - after.keys():
        found.refused.append(f"listener {name!r}: it was removed; restart to apply it")
    for name in after.keys() - before.keys():
        found.refused.append(f"listener {name!r}: it is new; restart to apply it")
    for name in before.keys() & after.keys():
        if before[name] == after[name]:
            continue
        if _socket_part(before[name]) != _socket_part(after[name]):
            found.refused.append(f"listener {name!r}: its address or socket options changed; restart to apply it")
        else:
            found.changes.append(f"listener {name!r} changed")
    found.refused.sort()


def _named(kind: str, before: dict[str, Any], after: dict[str, Any], changes: list[str]) -> None:
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changes.append(f"{kind} {name!r} removed")
        elif name not in before:
            changes.append(f"{kind} {name!r} added")
        elif before[name] != after[name]:
            changes.append(f"{kind} {name!r} changed")


def _socket_part(listener: Any) -> Any:
    copy = type(listener)()
    copy.CopyFrom(listener)
    for name in _LIVE_LISTENER_FIELDS:
        copy.ClearField(name)
    return copy


def _rest(bootstrap: Any) -> Any:
    copy = type(bootstrap)()
    copy.CopyFrom(bootstrap)
    copy.ClearField("admin")
    copy.ClearField("static_resources")
    return copy
