"""What differs between two configurations, and how each difference is called. A pure function of two bootstraps.

Everything can change in a running process: what cannot is found out when it is tried (an address that is taken, say),
and refuses the reload as a whole. This is the text for whoever asked.
"""

from __future__ import annotations

from typing import Any, Final

from workerproxy.control.names import address_text, listener_name

# Parts of the bootstrap outside static_resources, as they are called.
_OPTIONS: Final = ("admin", "node", "layered_runtime", "watchdogs", "watchdog")


def compare(old: Any, new: Any) -> list[str]:
    """One line for each difference of two ``bootstrap.v3.Bootstrap``, listeners and clusters by name."""
    before, after = old.static_resources, new.static_resources
    changes = _named(
        "listener",
        {listener_name(one): one for one in before.listeners},
        {listener_name(one): one for one in after.listeners},
    )
    changes += _named("cluster", {one.name: one for one in before.clusters}, {one.name: one for one in after.clusters})
    changes += [f"{name} changed" for name in _OPTIONS if getattr(old, name) != getattr(new, name)]
    if _rest(old) != _rest(new):
        changes.append("bootstrap options changed")
    return changes


def _named(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    changes: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changes.append(f"{kind} {name!r} removed")
        elif name not in before:
            changes.append(f"{kind} {name!r} added")
        elif kind == "listener" and address_text(before[name].address) != address_text(after[name].address):
            changes.append(
                f"listener {name!r} moved from {address_text(before[name].address)} "
                f"to {address_text(after[name].address)}"
            )
        elif before[name] != after[name]:
            changes.append(f"{kind} {name!r} changed")
    return changes


def _rest(bootstrap: Any) -> Any:
    copy = type(bootstrap)()
    copy.CopyFrom(bootstrap)
    for name in (*_OPTIONS, "static_resources"):
        copy.ClearField(name)
    return copy
