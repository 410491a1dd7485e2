"""A configuration message -> Envoy YAML that loads unchanged, here and in Envoy. Behind ``--print-config``.

Quoting follows how Envoy reads scalars (``yaml_text``), not YAML 1.1: a string is quoted when it would be read as
something else without quotes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message

from workerproxy.config.yaml_text import is_plain_string

# Safe without quotes for every YAML reader: begins with a letter, digit, slash or dot, and has no indicator inside.
_SAFE: Final = r"[A-Za-z0-9_/.+*$()~@-]"
_PLAIN: Final = re.compile(rf"[A-Za-z0-9_/.]{_SAFE}*(?::{_SAFE}+)*(?: {_SAFE}+)*")
# What YAML 1.1 readers other than Envoy take for a float, a date or a base-60 number.
_LOOKS_NUMERIC: Final = re.compile(r"[0-9.+-][0-9_.:eE+-]*")
# Valid in JSON strings, but no YAML reader takes them unescaped.
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_INDENT: Final = "  "


def to_yaml(message: Message) -> str:
    """The message as a YAML text that ends with a newline. ``{}`` when nothing is set."""
    plain = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if not plain:
        return "{}\n"
    lines: list[str] = []
    _mapping(plain, "", lines)
    return "\n".join(lines) + "\n"


def to_json(message: Message) -> str:
    """The message as indented JSON."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True) + "\n"


def _mapping(value: dict[str, Any], indent: str, lines: list[str]) -> None:
    for key, item in value.items():
        _entry(f"{indent}{_string(key)}:", item, indent, lines)


def _entry(head: str, value: Any, indent: str, lines: list[str]) -> None:
    if isinstance(value, dict) and value:
        lines.append(head)
        _mapping(value, indent + _INDENT, lines)
    elif isinstance(value, list) and value:
        lines.append(head)
        _list(value, indent, lines)
    else:
        lines.append(f"{head} {_scalar(value)}")


def _list(value: list[Any], indent: str, lines: list[str]) -> None:
    for item in value:
        if isinstance(item, dict) and item:
            inner: list[str] = []
            _mapping(item, indent + _INDENT, inner)
            inner[0] = f"{indent}- {inner[0].lstrip()}"
            lines += inner
        elif isinstance(item, list) and item:
            lines.append(f"{indent}-")
            _list(item, indent + _INDENT, lines)
        else:
            lines.append(f"{indent}- {_scalar(item)}")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    return json.dumps(value)  # null, true, false, numbers, {} and []: as in JSON


def _string(text: str) -> str:
    if _PLAIN.fullmatch(text) and is_plain_string(text) and not _LOOKS_NUMERIC.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
