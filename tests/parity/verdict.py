"""What came of one case, as lines of text: two proxies agree when their lines are equal.

Normalised here, and nowhere else: the order of header fields with different names; the values of ``date``,
``x-envoy-upstream-service-time`` and of generated UUIDs; the division of a chunked body into chunks; ports; this
machine's address (appended to ``x-forwarded-for`` for loopback peers); in access-log lines also times and durations.
A value that the script itself sent stays as it is.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from typing import Final

import psutil

from tests.support.framing import body_end, dechunk, head_end

_LONGEST_BODY: Final = 400  # bytes shown; longer ones are shown by size and ends
_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_DATE: Final = re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_SERVICE_TIME: Final = re.compile(r"^(x-envoy-upstream-service-time: )\d+$", re.MULTILINE | re.IGNORECASE)


class Normaliser:
    """Replaces what must differ between two runs. ``ports``: port number -> the name shown instead."""

    def __init__(self, sent: bytes, ports: Mapping[int, str]) -> None:
        self._sent = sent.decode("latin-1")
        self._own_address = own_address()
        self._ports = {str(port): name for port, name in ports.items()}

    def __call__(self, text: str) -> str:
        text = _UUID.sub(self._uuid, text)
        text = _DATE.sub(lambda match: match[0] if match[0] in self._sent else "<date>", text)
        text = _TIMESTAMP.sub("<time>", text)
        text = _SERVICE_TIME.sub(r"\1<ms>", text)
        text = text.replace(self._own_address, "<own address>") if self._own_address else text
        return re.sub(r"(?<![\w.])\d{4,5}\b", lambda match: self._ports.get(match[0], match[0]), text)

    def _uuid(self, match: re.Match[str]) -> str:
        return match[0] if match[0] in self._sent else f"<new uuid, version {match[1]}>"


def own_address() -> str:
    """The first IPv4 address of a real interface, as Envoy takes it for its node address; "" without a network."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return str(each.address)
    return ""


def messages(data: bytes) -> list[str]:
    """The HTTP messages in ``data`` as lines, header fields sorted by name; what is not a message stays raw."""
    lines: list[str] = []
    at = 0
    while at < len(data):
        body = head_end(data, at)
        if body < 0:
            lines.append(f"incomplete: {_shown(data[at:])}")
            break
        lines += _head(data[at : body - 4])
        if data[body : body + 7] in (b"HTTP/1.", b""):  # HEAD, 1xx, 204, 304: whatever the fields say
            at = body
            continue
        response = data[at : at + 5] == b"HTTP/"
        end = body_end(data, at, body, until_close=response)
        complete = end >= 0
        end = end if complete else len(data)
        lines += _body(data[at:body], data[body:end], complete or response)
        at = end
    return lines


def log_line(line: str) -> str:
    """An access-log line; durations are recognised by their JSON key, or by their place in Envoy's default format."""
    if line.startswith("{"):
        fields = json.loads(line)
        return json.dumps({key: "<ms>" if "duration" in key else fields[key] for key in fields}, sort_keys=True)
    return re.sub(r'^(\[\S+\] ".*?" \d+ \S+ \d+ \d+ )\d+ (\d+|-) ', _default_log_times, line)


def _default_log_times(match: re.Match[str]) -> str:
    return match[1] + "<ms> " + ("- " if match[2] == "-" else "<ms> ")


def _head(head: bytes) -> list[str]:
    first, *fields = head.split(b"\r\n")
    return [_text(first), *sorted(map(_text, fields), key=lambda text: text.split(":")[0])]


def _body(head: bytes, data: bytes, complete: bool) -> list[str]:
    if not data:
        return []
    if re.search(rb"\ntransfer-encoding:[^\n]*chunked", head, re.IGNORECASE):
        decoded = dechunk(data)
        if decoded is None:
            return [f"unfinished chunked body: {_shown(_chunks_so_far(data))}"]
        content, trailers = decoded
        lines = [f"chunked body: {_shown(content)}"]
        return [*lines, *(f"trailer: {_text(line)}" for line in sorted(trailers.split(b"\r\n")) if line)]
    return [f"{'body' if complete else 'unfinished body'}: {_shown(data)}"]


def _chunks_so_far(data: bytes) -> bytes:
    return re.sub(rb"(^|\r\n)[0-9a-fA-F]+\r\n", b"", data)


def _shown(data: bytes) -> str:
    if len(data) <= _LONGEST_BODY:
        return _text(data)
    return f"{len(data)} bytes, {_text(data[:20])} ... {_text(data[-20:])}"


def _text(data: bytes) -> str:
    text = data.decode("latin-1").encode("unicode_escape").decode()
    return text if len(text) <= 2 * _LONGEST_BODY else f"{text[:60]} ... {text[-60:]} ({len(text)} characters)"
