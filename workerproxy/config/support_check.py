"""Supported or refused: a field that is set and that nothing reads is an error, never ignored.

``SupportTable`` is what there is (``supported``, ``supported_routes`` and the extensions' own declarations);
``SupportCheck`` compares a configuration with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from workerproxy.config import schema
from workerproxy.config.errors import DEPRECATED, UNSUPPORTED_FIELD, UNSUPPORTED_VALUE, ConfigError
from workerproxy.config.marks import Path, render_path
from workerproxy.config.schema import Field
from workerproxy.config.suggest import nearest
from workerproxy.config.supported import EXTENSION_POINTS, READ, SUPPORTED, Fields, Support, only
from workerproxy.config.supported_routes import SUPPORTED_ROUTES
from workerproxy.config.walk import Visit
from workerproxy.extensions.registry import Registry

_CLUSTER: Final = "envoy.config.cluster.v3.Cluster"
_NOT_YET: Final = "is a valid Envoy {} but workerproxy does not support it yet"


class SupportTable:
    """All that is supported: message -> field -> how."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.messages: dict[str, dict[str, Support]] = {}
        for fields in (SUPPORTED, SUPPORTED_ROUTES):
            for message, supported in fields.items():
                self._add(message, supported)
        for extension in registry.all():
            for message, names in extension.reads.items():
                self._add(message, dict.fromkeys(sorted(names), READ))
        policies = [extension.module.LB_POLICY for extension in registry.of("load_balancers")]
        self.messages[_CLUSTER]["lb_policy"] = only(*policies)

    def allowed_types(self, field: str) -> dict[str, str] | None:
        """Configuration type -> Envoy's name, for a field that takes extensions; None: the field takes any type."""
        point = EXTENSION_POINTS.get(field)
        if point is None:
            return None
        if isinstance(point, str):
            return {extension.config_type: extension.name for extension in self.registry.of(point)}
        return dict.fromkeys(point, "")

    def _add(self, message: str, fields: Fields) -> None:
        known = self.messages.setdefault(message, {})
        for name, support in fields.items():
            if known.get(name, READ) == READ:
                known[name] = support


class SupportCheck:
    """Finds what a configuration sets and nothing reads. ``warnings`` collects uses of deprecated fields."""

    def __init__(self, table: SupportTable) -> None:
        self._table = table
        self._deprecated: dict[str, frozenset[str]] = {}
        self.warnings: list[ConfigError] = []

    def check(self, visit: Visit) -> Iterator[ConfigError]:
        """What is unsupported in the message of ``visit`` itself."""
        if visit.quiet:
            return
        if visit.packed and visit.holder is not None:
            refused = self._check_type(visit, visit.holder)
            if refused is not None:
                visit.quiet_fields.update(visit.kind.by_name)
                yield refused
                return
            if visit.kind.full_name not in self._table.messages:
                visit.quiet_fields.update(visit.kind.by_name)  # data for others, of a type of their own
                return
        yield from self._check_fields(visit)

    def _check_fields(self, visit: Visit) -> Iterator[ConfigError]:
        supported = self._table.messages.get(visit.kind.full_name, {})
        for descriptor, value in visit.message.ListFields():
            field = visit.kind.by_name[descriptor.name]
            support = supported.get(field.name)
            path: Path = (visit.path, field.name)
            if support is None:
                visit.quiet_fields.add(field.name)
                message = f"'{field.name}' " + _NOT_YET.format("field")
                at = visit.mark.child(field.name).key_position
                yield ConfigError(UNSUPPORTED_FIELD, at, render_path(path), message)
                continue
            if support.values is not None and (shown := _unsupported_value(field, value, support.values)):
                expected = ("one of " if len(support.values) > 1 else "") + ", ".join(map(_text, support.values))
                message = f"{shown} " + _NOT_YET.format("value")
                at = visit.mark.child(field.name).position
                yield ConfigError(UNSUPPORTED_VALUE, at, render_path(path), message, expected, hint=support.note)
            if field.name in self._deprecated_in(visit):
                self._warn_deprecated(visit, field, path)

    def _check_type(self, visit: Visit, holder: Field) -> ConfigError | None:
        allowed = self._table.allowed_types(holder.full_name)
        if allowed is None or visit.kind.full_name in allowed:
            return None
        near = nearest(visit.kind.full_name, allowed)
        hint = f"supported here: {', '.join(sorted(allowed))}" if len(allowed) <= 6 else f"the nearest is {near}"
        message = f"{visit.kind.full_name} " + _NOT_YET.format("extension")
        return ConfigError(UNSUPPORTED_VALUE, visit.mark.position, render_path(visit.path), message, hint=hint)

    def _deprecated_in(self, visit: Visit) -> frozenset[str]:
        found = self._deprecated.get(visit.kind.full_name)
        if found is None:
            names = (field.name for field in visit.kind.fields if field.descriptor.GetOptions().deprecated)
            found = self._deprecated[visit.kind.full_name] = frozenset(names)
        return found

    def _warn_deprecated(self, visit: Visit, field: Field, path: Path) -> None:
        at = visit.mark.child(field.name).key_position
        self.warnings.append(ConfigError(DEPRECATED, at, render_path(path), f"'{field.name}' is deprecated in Envoy"))


def _unsupported_value(field: Field, value: Any, values: tuple[str | bool | int, ...]) -> str:
    """The value as a text if it is none of ``values``, else ``""``."""
    if field.type_name in schema.WRAPPERS:
        value = value.value
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        assert field.descriptor.enum_type is not None
        known = field.descriptor.enum_type.values_by_number.get(value)
        if known is None:
            return ""  # no Envoy value either: the constraints say so
        value = known.name
    return "" if value in values else _text(value)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
