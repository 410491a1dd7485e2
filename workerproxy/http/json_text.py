"""JSON exactly as Envoy writes it: string escapes and the shortest form of numbers.

Envoy's names: ``Json::sanitize``, ``Buffer::Util::serializeDouble`` (``std::to_chars``). Used by the JSON formats and
wherever a structured value is put into a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

_UNSAFE: Final = re.compile(rb'[\x00-\x1f"\\\x7f-\xff]')
_ROUND: Final = 100_000  # from here on a multiple is shorter in scientific notation


def escape(value: bytes) -> bytes:
    """The inside of a JSON string. Text that is no UTF-8 has every byte of it that is not plain ASCII escaped."""
    if _UNSAFE.search(value) is None:
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _UNSAFE.sub(lambda found: b"\\u%04x" % ord(found[0]), value)
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def integer(value: int) -> bytes:
    """A number that Envoy holds as a double: 99999, but 1e+05."""
    if value % _ROUND or not value:
        return b"%d" % value
    return number(float(value))


def number(value: float) -> bytes:
    """The shortest text that reads back as ``value``; plain notation when it is not longer. NaN is ``null``."""
    if value != value:
        return b"null"
    if value in (float("inf"), float("-inf")):
        return b"inf" if value > 0 else b"-inf"
    sign, digits, exponent = _decimal(value)
    point = len(digits) + exponent  # where the decimal point stands, counted from the first digit
    if exponent >= 0:
        plain = f"{abs(int(value))}"
    elif point > 0:
        plain = f"{digits[:point]}.{digits[point:]}"
    else:
        plain = f"0.{'0' * -point}{digits}"
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    power = point - 1
    scientific = f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return (sign + (scientific if len(scientific) < len(plain) else plain)).encode()


def _decimal(value: float) -> tuple[str, str, int]:
    """Sign, significant digits without zeros at the end, and the power of ten of the last of them."""
    text = repr(value)
    sign = "-" if text[0] == "-" else ""
    mantissa, _, power = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or 0) - len(fraction)
    stripped = digits.rstrip("0")
    if not stripped:
        return sign, "0", 0
    return sign, stripped, exponent + len(digits) - len(stripped)


def json_bytes(value: object) -> bytes:
    """Any JSON value; keys of objects in byte order. Bytes are text; anything else is written as its ``str``."""
    if value is None:
        return b"null"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        named = sorted(((str(key).encode(), item) for key, item in value.items()), key=lambda pair: pair[0])
        return b"{%b}" % b",".join([b'"%b":%b' % (escape(key), json_bytes(item)) for key, item in named])
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return b"[%b]" % b",".join([json_bytes(item) for item in value])
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return b'"%b"' % escape(text)
