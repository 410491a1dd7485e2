"""Checks a configuration against the rules that Envoy's API carries in its descriptors (``validate.rules``).

What Envoy refuses with "Proto constraint validation failed", all of it at once, each at its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from validate import validate_pb2

from workerproxy.config import schema
from workerproxy.config.document import shorten
from workerproxy.config.errors import CONSTRAINT, ConfigError
from workerproxy.config.marks import Mark, Path, render_path
from workerproxy.config.rules import Rule, duration_ns, ignores_empty, is_required, rules_for
from workerproxy.config.schema import Field, MessageType
from workerproxy.config.suggest import format_duration
from workerproxy.config.walk import Visit


@dataclasses.dataclass(slots=True)
class _FieldRules:
    """The rules of one field, compiled."""

    field: Field
    required: bool = False
    ignore_empty: bool = False
    checks: list[Rule] = dataclasses.field(default_factory=list)  # of the value, or of each item or map value
    key_checks: list[Rule] = dataclasses.field(default_factory=list)
    minimum: int = 0  # items or pairs
    maximum: int | None = None
    unique: bool = False


@dataclasses.dataclass(slots=True)
class _TypeRules:
    fields: list[_FieldRules]
    required_oneofs: list[tuple[str, list[str]]]


class Constraints:
    """Compiles each message type's rules once. One per load."""

    def __init__(self) -> None:
        self._compiled: dict[str, _TypeRules] = {}

    def check(self, visit: Visit) -> Iterator[ConfigError]:
        """Everything that the message of ``visit`` itself breaks; messages in it have their own visit."""
        if visit.unchecked or visit.mark.failed:
            return
        rules = self._compiled.get(visit.kind.full_name)
        if rules is None:
            rules = self._compiled[visit.kind.full_name] = _compile(visit.kind)
        for one in rules.fields:
            yield from _check_field(visit, one)
        for name, choices in rules.required_oneofs:
            if visit.message.WhichOneof(name) is None and not any(map(visit.mark.has, choices)):
                what = choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
                yield _error(visit.mark, visit.path, f"'{name}' is not set", what)


def _check_field(visit: Visit, rules: _FieldRules) -> Iterator[ConfigError]:
    own = rules.field
    path: Path = (visit.path, own.name)
    if own.is_map or own.is_repeated:
        yield from _check_container(visit, rules, path)
        return
    message, written = visit.message, visit.mark.has(own.name)
    if own.descriptor.has_presence and not message.HasField(own.name):
        if rules.required and not written and not own.oneof:
            yield _error(visit.mark, path, "missing", _what(own))
        return
    mark = visit.mark.child(own.name)
    if mark.failed:
        return
    value = getattr(message, own.name)
    if own.type_name in schema.WRAPPERS:
        value = value.value
    if rules.ignore_empty and not value:
        return
    if not value and not written and own.message is None:
        yield from (_error(mark, path, "missing", expected) for check in rules.checks if (expected := check(value)))
    else:
        yield from _check_value(rules.checks, value, mark, path, own)


def _check_container(visit: Visit, rules: _FieldRules, path: Path) -> Iterator[ConfigError]:
    own = rules.field
    values = getattr(visit.message, own.name)
    if rules.ignore_empty and not len(values):
        return
    mark = visit.mark.child(own.name)
    if len(values) < rules.minimum:
        yield _error(mark, path, "too few entries" if len(values) else "missing", f"at least {rules.minimum}")
    if rules.maximum is not None and len(values) > rules.maximum:
        yield _error(mark, path, "too many entries", f"at most {rules.maximum}", str(len(values)))
    if own.is_map:
        for key in values:
            here = visit.mark.entry(own.name, str(key))
            where: Path = (path, f"[{key}]")
            yield from _check_value(rules.key_checks, key, here, where, own)
            yield from _check_value(rules.checks, values[key], here, where, own)
        return
    seen: set[Any] = set()
    for index, value in enumerate(values if rules.checks or rules.unique else ()):
        here = visit.mark.item(own.name, index)
        if here.failed:
            continue
        yield from _check_value(rules.checks, value, here, (path, f"[{index}]"), own)
        if rules.unique and value in seen:
            yield _error(here, (path, f"[{index}]"), "comes twice", "no value twice", _found(value, own))
        seen.add(value if rules.unique else index)


def _check_value(checks: list[Rule], value: Any, mark: Mark, path: Path, own: Field) -> Iterator[ConfigError]:
    for check in checks:
        expected = check(value)
        if expected:
            yield _error(mark, path, "value not allowed", expected, _found(value, own))


def _compile(kind: MessageType) -> _TypeRules:
    fields = [
        compiled
        for own in kind.fields
        if own.descriptor.GetOptions().HasExtension(validate_pb2.rules)
        for compiled in (_compile_field(own),)
        if compiled.required or compiled.checks or compiled.key_checks or compiled.unique
        or compiled.minimum or compiled.maximum is not None
    ]  # fmt: skip
    oneofs = [
        (oneof.name, [choice.name for choice in oneof.fields])
        for oneof in kind.descriptor.oneofs
        if oneof.GetOptions().Extensions[validate_pb2.required]
    ]
    return _TypeRules(fields, oneofs)


def _compile_field(own: Field) -> _FieldRules:
    rules: Any = own.descriptor.GetOptions().Extensions[validate_pb2.rules]
    compiled = _FieldRules(own, is_required(rules), ignores_empty(rules), rules_for(rules, own.descriptor))
    if rules.WhichOneof("type") == "repeated":
        lists = rules.repeated
        compiled.checks = rules_for(lists.items, own.descriptor)
        compiled.minimum, compiled.unique = lists.min_items, lists.unique
        compiled.maximum = lists.max_items if lists.HasField("max_items") else None
    elif rules.WhichOneof("type") == "map":
        assert own.message is not None
        by_name = own.message.fields_by_name
        compiled.key_checks = rules_for(rules.map.keys, by_name["key"])
        compiled.checks = rules_for(getattr(rules.map, "values"), by_name["value"])  # noqa: B009 (a dict's method)
        compiled.minimum = rules.map.min_pairs
        compiled.maximum = rules.map.max_pairs if rules.map.HasField("max_pairs") else None
    return compiled


def _what(own: Field) -> str:
    if own.type_name == schema.DURATION:
        return "a duration such as 5s"
    return f"a value of type {own.type_name.rpartition('.')[2]}"


def _found(value: Any, own: Field) -> str:
    if own.type_name == schema.DURATION:
        return format_duration(duration_ns(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if own.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        assert own.descriptor.enum_type is not None
        known = own.descriptor.enum_type.values_by_number.get(value)
        return known.name if known is not None else str(value)
    return shorten(value) if isinstance(value, str) else str(value)


def _error(mark: Mark, path: Path, message: str, expected: str, found: str = "") -> ConfigError:
    return ConfigError(CONSTRAINT, mark.position, render_path(path), message, expected, found)
