"""The rules of ``validate.rules`` as small functions: each takes a value and says what was expected, or nothing.

Covers every kind of rule that Envoy's v3 API uses (strings, bytes, numbers, enums, durations, Any; lists and maps are
taken apart in ``constraints``). Envoy checks them with protoc-gen-validate's C++ code; the meaning is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import re2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from validate import validate_pb2

from workerproxy.config.suggest import format_duration

Rule: TypeAlias = Callable[[Any], str]
"""Returns what was expected when the value breaks the rule, else ``""``."""

# protoc-gen-validate's known_regex; without "strict" only what would break framing is refused.
_HEADER_NAME: Final = re.compile(r":?[0-9a-zA-Z!#$%&'*+,\-.^_|~`]+")  # the comma: "+-." is a range in theirs
_HEADER_VALUE: Final = re.compile(r"[^\x00-\x08\x0A-\x1F\x7F]*")
_LOOSE_HEADER: Final = re.compile(r"[^\x00\x0A\x0D]*")
_NAME_EXPECTED: Final = "a valid header name"
_VALUE_EXPECTED: Final = "a valid header value, without control characters"

_BOUNDS: Final[tuple[tuple[str, str, Callable[[Any, Any], bool]], ...]] = (
    ("lt", "less than", lambda value, bound: value < bound),
    ("lte", "at most", lambda value, bound: value <= bound),
    ("gt", "greater than", lambda value, bound: value > bound),
    ("gte", "at least", lambda value, bound: value >= bound),
)


def rules_for(rules: Any, field: FieldDescriptor) -> list[Rule]:
    """The checks for one value of ``field`` from a ``validate.FieldRules``."""
    kind = rules.WhichOneof("type")
    if kind is None:
        return []
    if kind in ("string", "bytes"):
        return list(_text_rules(getattr(rules, kind)))
    if kind == "enum":
        assert field.enum_type is not None
        return list(_enum_rules(rules.enum, field.enum_type))
    if kind == "duration":
        return list(_duration_rules(rules.duration))
    if kind == "any":
        return list(_any_rules(rules.any))
    if kind == "bool":
        return [_const(rules.bool.const)] if rules.bool.HasField("const") else []
    if kind in ("repeated", "map", "timestamp"):
        return []
    return list(_number_rules(getattr(rules, kind)))


def is_required(rules: Any) -> bool:
    """Whether a message field must be set."""
    kind = rules.WhichOneof("type")
    typed = getattr(rules, kind) if kind in ("duration", "any", "timestamp") else None
    return bool(rules.message.required or (typed is not None and typed.required))


def ignores_empty(rules: Any) -> bool:
    """Whether an empty value is exempt from its rules."""
    kind = rules.WhichOneof("type")
    return kind is not None and bool(getattr(getattr(rules, kind), "ignore_empty", False))


def duration_ns(value: Any) -> int:
    """A ``google.protobuf.Duration`` in nanoseconds."""
    return int(value.seconds) * 1_000_000_000 + int(value.nanos)


def _number_rules(rules: Any) -> Iterator[Rule]:
    yield from _common(rules)
    yield from _range({name: getattr(rules, name) for name, _, _ in _BOUNDS if rules.HasField(name)}, str)


def _duration_rules(rules: Any) -> Iterator[Rule]:
    bounds = {name: duration_ns(getattr(rules, name)) for name, _, _ in _BOUNDS if rules.HasField(name)}
    for rule in _range(bounds, format_duration):
        yield _on_duration(rule)


def _on_duration(rule: Rule) -> Rule:
    return lambda value: rule(duration_ns(value))


def _range(bounds: dict[str, Any], show: Callable[[Any], str]) -> Iterator[Rule]:
    """One rule for a lower and an upper bound together; where the lower is above the upper, the range is outside."""
    if not bounds:
        return
    texts = [f"{words} {show(bounds[name])}" for name, words, _ in _BOUNDS if name in bounds]
    tests = [(test, bounds[name]) for name, _, test in _BOUNDS if name in bounds]
    low = bounds.get("gt", bounds.get("gte"))
    high = bounds.get("lt", bounds.get("lte"))
    outside = low is not None and high is not None and low > high
    expected = (" or " if outside else " and ").join(reversed(texts))
    holds = any if outside else all
    yield lambda value: "" if holds(test(value, bound) for test, bound in tests) else expected


def _text_rules(rules: Any) -> Iterator[Rule]:
    yield from _common(rules)
    size_of: dict[str, Callable[[Any], int]] = {"len": len, "bytes": lambda value: len(value.encode())}
    if isinstance(rules, validate_pb2.BytesRules):
        size_of = {"len": len}
    for unit, measure in size_of.items():
        name = "bytes" if unit == "bytes" or isinstance(rules, validate_pb2.BytesRules) else "characters"
        if rules.HasField(f"min_{unit}"):
            yield _at_least(getattr(rules, f"min_{unit}"), name, measure)
        if rules.HasField(f"max_{unit}"):
            yield _at_most(getattr(rules, f"max_{unit}"), name, measure)
    if rules.HasField("pattern"):
        yield _pattern(rules.pattern)
    if rules.HasField("prefix"):
        yield lambda value: "" if value.startswith(rules.prefix) else f"a text that begins with {rules.prefix!r}"
    if rules.HasField("suffix"):
        yield lambda value: "" if value.endswith(rules.suffix) else f"a text that ends with {rules.suffix!r}"
    if isinstance(rules, validate_pb2.StringRules) and rules.HasField("well_known_regex"):
        yield _header_rule(rules)


def _header_rule(rules: Any) -> Rule:
    strict = rules.strict
    if rules.well_known_regex == validate_pb2.HTTP_HEADER_NAME:
        return _full_match(_HEADER_NAME if strict else _LOOSE_HEADER, _NAME_EXPECTED)
    return _full_match(_HEADER_VALUE if strict else _LOOSE_HEADER, _VALUE_EXPECTED)


def _full_match(pattern: re.Pattern[str], expected: str) -> Rule:
    return lambda value: "" if pattern.fullmatch(value) else expected


def _pattern(text: str) -> Rule:
    compiled: Any = re2.compile(text)
    return lambda value: "" if compiled.fullmatch(value) else f"a text that matches {text}"


def _at_least(minimum: int, unit: str, measure: Callable[[Any], int]) -> Rule:
    expected = "a text that is not empty" if minimum == 1 else f"at least {minimum} {unit}"
    return lambda value: "" if measure(value) >= minimum else expected


def _at_most(maximum: int, unit: str, measure: Callable[[Any], int]) -> Rule:
    return lambda value: "" if measure(value) <= maximum else f"at most {maximum} {unit}"


def _enum_rules(rules: Any, enum: EnumDescriptor) -> Iterator[Rule]:
    def names(numbers: Any) -> str:
        return ", ".join(enum.values_by_number[n].name for n in numbers if n in enum.values_by_number)

    if rules.defined_only:
        yield lambda value: "" if value in enum.values_by_number else f"one of {names(enum.values_by_number)}"
    if rules.HasField("const"):
        yield lambda value: "" if value == rules.const else names([rules.const])
    if getattr(rules, "in"):
        yield lambda value: "" if value in getattr(rules, "in") else f"one of {names(getattr(rules, 'in'))}"
    if rules.not_in:
        yield lambda value: "" if value not in rules.not_in else f"none of {names(rules.not_in)}"


def _any_rules(rules: Any) -> Iterator[Rule]:
    allowed, refused = list(getattr(rules, "in")), list(rules.not_in)
    if allowed:
        yield lambda value: "" if value.type_url in allowed else "one of " + ", ".join(allowed)
    if refused:
        yield lambda value: "" if value.type_url not in refused else "none of " + ", ".join(refused)


def _common(rules: Any) -> Iterator[Rule]:
    if rules.HasField("const"):
        yield _const(rules.const)
    allowed = list(getattr(rules, "in"))
    if allowed:
        yield lambda value: "" if value in allowed else "one of " + ", ".join(map(_show, allowed))
    refused = list(rules.not_in)
    if refused:
        yield lambda value: "" if value not in refused else "none of " + ", ".join(map(_show, refused))


def _const(expected: Any) -> Rule:
    return lambda value: "" if value == expected else _show(expected)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, str) else str(value)
