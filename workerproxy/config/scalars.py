"""One document value -> one protobuf scalar, duration or timestamp, by the rules of protobuf's JSON format.

The rules are those of protobuf's own reader in its lenient mode, which Envoy uses: integers and floats may be strings,
integers may be written ``5.0`` or ``1e1``, booleans may be strings, enum names are of any case. A value that does not
fit raises ``Misfit``, which says what was expected and what may have been meant.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from workerproxy.config.document import BOOL, NUMBER, STRING, Node
from workerproxy.config.suggest import did_you_mean, duration_hint

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DURATION: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]{1,9}))?s")
_TIMESTAMP: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_TRUE: Final = frozenset(("true", "t", "yes", "y", "1"))
_FALSE: Final = frozenset(("false", "f", "no", "n", "0"))
_FLOAT_WORDS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# A whole number written with a point or exponent passes through a double; beyond these, digits would be lost.
_EXACT_INT64: Final = 2**53
_EXACT_UINT64: Final = 2**54
_MAX_DURATION_S: Final = 3652500 * 86400  # protobuf's bound for a duration, about 10,000 years
_MAX_ENVOY_DURATION_S: Final = (2**63 - 1) // 1_000_000_000  # Envoy counts durations in 64-bit nanoseconds

_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: ("a 32-bit integer", -(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: ("an integer from 0 to 4294967295", 0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: ("a 64-bit integer", -(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: ("an integer from 0 to 18446744073709551615", 0, 2**64 - 1),
}


class Misfit(Exception):
    """A value does not fit its field. Never leaves this package."""

    def __init__(self, expected: str, hint: str = "", unknown: bool = False) -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint
        self.unknown = unknown  # a name that does not exist, rather than a value of a wrong type


def read_scalar(node: Node, field: FieldDescriptor) -> Any:
    """The Python value for a scalar or enum field. Raises ``Misfit``."""
    cpp_type = field.cpp_type
    if cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _read_bytes(node) if field.type == FieldDescriptor.TYPE_BYTES else _read_string(node)
    if cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _read_bool(node)
    if cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return _read_enum(node, field.enum_type)
    if cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _read_float(node, cpp_type)
    return _read_integer(node, cpp_type)


def read_map_key(key: str, field: FieldDescriptor) -> Any:
    """A map's key from its text. Raises ``Misfit``."""
    cpp_type = field.cpp_type
    if cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return key
    if cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if key not in ("true", "false"):
            raise Misfit("the key true or false")
        return key == "true"
    expected, low, high = _RANGES[cpp_type]
    if not _INTEGER.fullmatch(key) or not low <= int(key) <= high:
        raise Misfit(f"{expected} as key")
    return int(key)


def read_duration(node: Node) -> tuple[int, int]:
    """(seconds, nanoseconds) from ``0.25s``. Raises ``Misfit``; also for durations that Envoy refuses everywhere."""
    expected = "a duration such as 5s or 0.25s"
    if node.kind == NUMBER:
        raise Misfit(expected, duration_hint(str(node.value)))
    if node.kind != STRING:
        raise Misfit(expected)
    match = _DURATION.fullmatch(node.value)
    if match is None:
        raise Misfit(expected, duration_hint(node.value))
    sign, digits, fraction = match.groups()
    seconds = int(digits)
    nanos = int((fraction or "").ljust(9, "0"))
    if sign and (seconds or nanos):
        raise Misfit("a duration that is not negative")
    check_duration(seconds, nanos)
    return seconds, nanos


def check_duration(seconds: int, nanos: int) -> None:
    """Raise ``Misfit`` for a duration that is negative, too long for Envoy, or whose parts contradict each other."""
    if seconds < 0 or nanos < 0:
        raise Misfit("a duration that is not negative")
    if seconds > min(_MAX_DURATION_S, _MAX_ENVOY_DURATION_S) or nanos > 999_999_999:
        raise Misfit(f"a duration of at most {_MAX_ENVOY_DURATION_S}s")


def read_timestamp(node: Node) -> tuple[int, int]:
    """(seconds since 1970, nanoseconds) from RFC 3339 text. Raises ``Misfit``."""
    expected = "a time such as 2030-01-31T12:00:00Z"
    match = _TIMESTAMP.fullmatch(node.value) if node.kind == STRING else None
    if match is None:
        raise Misfit(expected)
    text, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(text + ("+00:00" if zone == "Z" else zone))
    except ValueError:
        raise Misfit(expected) from None
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds, int((fraction or "").ljust(9, "0"))


def _read_string(node: Node) -> str:
    if node.kind == STRING:
        return str(node.value)
    if node.kind in (NUMBER, BOOL):
        raise Misfit("a string", "put it in quotes")
    raise Misfit("a string")


def _read_bytes(node: Node) -> bytes:
    expected = "bytes in base64"
    if node.kind != STRING or not _BASE64.fullmatch(node.value):
        raise Misfit(expected)
    text = node.value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise Misfit(expected) from None


def _read_bool(node: Node) -> bool:
    if node.kind == BOOL:
        return bool(node.value)
    word = node.value.lower() if node.kind == STRING else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    hint = f"did you mean {'false' if node.value == '0' else 'true'}?" if node.kind == NUMBER else ""
    raise Misfit("true or false", hint)


def _read_enum(node: Node, enum: EnumDescriptor) -> int:
    names = list(enum.values_by_name)
    expected = "one of " + ", ".join(names) if len(names) <= 12 else f"a name of {enum.full_name}"
    if node.kind == NUMBER:
        return _read_integer(node, FieldDescriptor.CPPTYPE_INT32)
    if node.kind != STRING:
        raise Misfit(expected)
    text = node.value
    value = enum.values_by_name.get(text) or enum.values_by_name.get(text.upper())
    if value is None:
        value = next((v for v in enum.values if v.name.lower() == text.lower()), None)
    if value is not None:
        return int(value.number)
    if _INTEGER.fullmatch(text) and -(2**31) <= int(text) < 2**31:
        return int(text)
    raise Misfit(expected, did_you_mean(text, names), unknown=True)


def _read_integer(node: Node, cpp_type: int) -> int:
    expected, low, high = _RANGES[cpp_type]
    if node.kind not in (NUMBER, STRING):
        raise Misfit(expected)
    text = node.value
    if _INTEGER.fullmatch(text):
        value = int(text)
    elif _DECIMAL.fullmatch(text):
        number = float(text)
        bound = _EXACT_UINT64 if cpp_type == FieldDescriptor.CPPTYPE_UINT64 else _EXACT_INT64
        if not math.isfinite(number) or abs(number) > bound or number != int(number):
            raise Misfit(expected)
        value = int(number)
    else:
        raise Misfit(expected)
    if not low <= value <= high:
        raise Misfit(expected)
    return value


def _read_float(node: Node, cpp_type: int) -> float:
    expected = "a number"
    if node.kind not in (NUMBER, STRING):
        raise Misfit(expected)
    text = node.value
    if text in _FLOAT_WORDS:
        return _FLOAT_WORDS[text]
    if not _DECIMAL.fullmatch(text):
        raise Misfit(expected)
    number = float(text)
    if not math.isfinite(number):
        raise Misfit("a number within the range of a double")
    if cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        try:
            struct.pack("f", number)
        except OverflowError:
            raise Misfit("a number within the range of a 32-bit float") from None
    return number
