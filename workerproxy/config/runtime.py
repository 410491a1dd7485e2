"""Runtime keys as a bootstrap sets them: its static layers, one on top of the other. Envoy's name: ``SnapshotImpl``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

CONNECTION_LIMIT: Final = "envoy.resource_limits.listener.{}.connection_limit"
GLOBAL_CONNECTION_LIMIT: Final = "overload.global_downstream_max_connections"


def flatten_runtime(struct: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a runtime layer: nested mappings and dotted keys mean the same."""
    for name in struct.fields:
        value = struct.fields[name]
        key = f"{prefix}{name}"
        if not value.HasField("struct_value"):
            yield key, value
        elif {"numerator", "denominator"} & set(value.struct_value.fields):
            yield key, value  # a FractionalPercent
        else:
            yield from flatten_runtime(value.struct_value, f"{key}.")


def whole_number(value: Any) -> int | None:
    """A ``google.protobuf.Value`` as an integer of at least 0; None when it is none. Text counts, as in Envoy."""
    if value.HasField("string_value"):
        text = value.string_value.strip()
        return int(text) if text.isascii() and text.isdigit() else None
    if value.HasField("number_value") and value.number_value >= 0 and value.number_value.is_integer():
        return int(value.number_value)
    return None


class Runtime:
    """The keys of one ``bootstrap.v3.Bootstrap``; of a key in several layers the last one counts."""

    def __init__(self, bootstrap: Any) -> None:
        self._values: dict[str, Any] = {}
        for layer in bootstrap.layered_runtime.layers:
            if layer.HasField("static_layer"):
                self._values.update(flatten_runtime(layer.static_layer))

    def integer(self, key: str) -> int | None:
        """The value of a key; None when it is not set."""
        value = self._values.get(key)
        return None if value is None else whole_number(value)
