"""Visits every message of a configuration, also inside ``google.protobuf.Any``, with its marks and path.

What the checks (constraints, deprecations, supported fields) run over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from workerproxy.config import schema
from workerproxy.config.marks import Mark, Path
from workerproxy.config.schema import Field, MessageType, Schema

_UNCHECKED: Final = frozenset(("envoy.config.core.v3.KeyValueAppend.entry",))  # (validate.rules).message.skip


class Visit:
    """One message on the way.

    ``holder`` is the field it is a value of (None for the root); ``packed``: it was in an Any there. A check that has
    said of a field all there is to say adds its name to ``quiet_fields``: messages below are visited with ``quiet``.
    ``unchecked``: Envoy applies no constraints to this message and those in it.
    """

    __slots__ = ("holder", "kind", "mark", "message", "packed", "path", "quiet", "quiet_fields", "unchecked")

    def __init__(self, message: Any, kind: MessageType, mark: Mark, path: Path = None) -> None:
        self.message = message
        self.kind = kind
        self.mark = mark
        self.path = path
        self.holder: Field | None = None
        self.packed = False
        self.quiet = False
        self.unchecked = False
        self.quiet_fields: set[str] = set()


def walk(message: Any, mark: Mark, types: Schema) -> Iterator[Visit]:
    """The message and all messages in it, outer before inner, in the order of the fields' numbers."""
    stack = [Visit(message, types.of_message(message), mark)]
    while stack:
        visit = stack.pop()
        yield visit
        inner: list[Visit] = []
        for descriptor, value in visit.message.ListFields():
            field = visit.kind.by_name[descriptor.name]
            if field.message is not None:
                inner.extend(_below(visit, field, value, types))
        stack.extend(reversed(inner))


def _below(outer: Visit, field: Field, value: Any, types: Schema) -> Iterator[Visit]:
    """The messages in one field of ``outer``."""
    path: Path = (outer.path, field.name)
    type_name = field.type_name
    places: list[tuple[Any, Mark, Path]]
    if field.is_map:
        assert field.message is not None
        value_type = field.message.fields_by_name["value"].message_type
        if value_type is None:
            return
        type_name = value_type.full_name
        places = [(value[key], outer.mark.entry(field.name, str(key)), (path, f"[{key}]")) for key in value]
    elif field.is_repeated:
        places = [(item, outer.mark.item(field.name, i), (path, f"[{i}]")) for i, item in enumerate(value)]
    else:
        places = [(value, outer.mark.child(field.name), path)]
    if type_name in schema.WELL_KNOWN and type_name != schema.ANY:
        return
    for item, mark, where in places:
        packed = type_name == schema.ANY
        message = types.unpack(item) if packed else item
        if message is None:
            continue
        visit = Visit(message, types.of_message(message), mark, where)
        visit.holder = field
        visit.packed = packed
        visit.quiet = outer.quiet or field.name in outer.quiet_fields
        visit.unchecked = outer.unchecked or field.full_name in _UNCHECKED
        yield visit
