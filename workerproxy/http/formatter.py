"""Envoy's substitution format strings (``%REQ(X?Y):Z%``), compiled once and evaluated once per line or header.

``compile_format`` parses a text into literals and operators; the operators themselves are in ``format_operators``, the
JSON form in ``json_format``. Access loggers, header mutations and local replies use the result. Envoy's names:
``SubstitutionFormatParser``, ``FormatterImpl``.

A format that no request can change (no operators, or such as ``%HOSTNAME%``) is its ``constant`` and costs nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from workerproxy.http.format_operators import (
    CONSTANT,
    JSON_VALUE,
    NOT_SUPPORTED,
    NUMBER,
    OPERATORS,
    OPTIONAL_NUMBER,
    TEXT,
    Argument,
    ArgumentError,
    Compiled,
    Getter,
)
from workerproxy.http.format_times import WallClock
from workerproxy.http.json_text import json_bytes

if TYPE_CHECKING:
    from workerproxy.http.stream_info import StreamInfo

UNSET: Final = b"-"  # Envoy's DefaultUnspecifiedValueString

# Envoy's default access log line.
DEFAULT_FORMAT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)

_COMMAND: Final = re.compile(r"%([A-Z0-9_]+)(?:\((.*?)\))?(?::([0-9]+))?%")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


class FormatError(ValueError):
    """A format text that cannot be compiled.

    ``position``: where in the text, in characters. ``suggestion``: the nearest valid operator name, or "".
    """

    def __init__(self, problem: str, text: str, position: int, suggestion: str = "") -> None:
        self.problem = problem
        self.text = text
        self.position = position
        self.suggestion = suggestion
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        shown = text if len(text) <= 80 else text[max(0, position - 30) : position + 50]
        super().__init__(f"{problem} at position {position} of {shown!r}{hint}")


class Formatter:
    """A compiled format.

    ``format_bytes(info)`` gives the text for a request; ``constant`` is that text when all requests have the same.
    """

    __slots__ = ("constant", "format_bytes", "unsafe")

    constant: bytes | None
    format_bytes: Callable[[StreamInfo], bytes]
    unsafe: bool  # the text may hold control characters that a client chose

    def __init__(self, parts: list[Compiled], unset: bytes) -> None:
        self.constant = None
        self.unsafe = any(part.unsafe for part in parts)
        if all(part.kind == CONSTANT for part in parts):
            text = b"".join([part.text for part in parts])
            self.constant = text
            self.format_bytes = lambda info: text
        else:
            self.format_bytes = _joined(parts, unset)

    def format(self, info: StreamInfo) -> str:
        """As ``format_bytes``, decoded; bytes that are no UTF-8 become surrogates."""
        return self.format_bytes(info).decode("utf-8", "surrogateescape")


def compile_format(text: str, *, omit_empty_values: bool = False, one_line: bool = False) -> Formatter:
    """Compile a format text. Raises ``FormatError``.

    ``omit_empty_values``: what is unset prints nothing instead of ``-``. ``one_line``: values that may hold control
    characters (a decoded query parameter) have them escaped as ``\\xHH``, so that a client cannot forge lines of a log.
    """
    parts = parse_format(text)
    if one_line:
        parts = [_escaped(part) if part.unsafe else part for part in parts]
    return Formatter(parts, b"" if omit_empty_values else UNSET)


def parse_format(text: str) -> list[Compiled]:
    """The literals (kind CONSTANT) and operators of a format text, in order. Raises ``FormatError``."""
    clock = WallClock()
    parts: list[Compiled] = []
    literal = ""
    position = 0
    while position < len(text):
        percent = text.find("%", position)
        if percent < 0:
            percent = len(text)
        literal += text[position:percent]
        position = percent
        if text.startswith("%%", position):
            literal += "%"
            position += 2
        elif position < len(text):
            if literal:
                parts.append(_literal(literal))
                literal = ""
            match = _COMMAND.match(text, position)
            if match is None:
                raise FormatError("no operator begins here (a plain percent sign is written %%)", text, position)
            parts.append(_operator(match, clock))
            position = match.end()
    if literal or not parts:
        parts.append(_literal(literal))
    return parts


def _literal(text: str) -> Compiled:
    return Compiled(CONSTANT, text=text.encode("utf-8", "surrogateescape"))


def _operator(match: re.Match[str], clock: WallClock) -> Compiled:
    name, argument, length = match[1], match[2] or "", match[3]
    operator = OPERATORS.get(name)
    if name in NOT_SUPPORTED:
        raise FormatError(f"{name} is a valid operator of Envoy's but not supported yet", match.string, match.start())
    if operator is None:
        near = difflib.get_close_matches(name, OPERATORS, n=1)
        raise FormatError(f"unknown operator {name}", match.string, match.start(), near[0] if near else "")
    problem = ""
    if operator.argument is Argument.NONE and (argument or length):
        problem = f"{name} takes no argument and no length"
    elif operator.argument is Argument.REQUIRED and not argument:
        problem = f"{name} needs an argument in parentheses"
    elif length and not operator.takes_length:
        problem = f"{name} takes no length"
    if problem:
        raise FormatError(problem, match.string, match.start())
    try:
        return operator.build(argument, int(length) if length else None, clock)
    except ArgumentError as error:
        raise FormatError(f"{name}: {error}", match.string, match.start()) from None


def _joined(parts: list[Compiled], unset: bytes) -> Callable[[StreamInfo], bytes]:
    template = b""
    getters: list[Getter] = []
    for part in parts:
        if part.kind == CONSTANT:
            template += part.text.replace(b"%", b"%%")
        elif part.kind == NUMBER:
            template += b"%d"
            getters.append(part.get)
        else:
            template += b"%b"
            getters.append(text_getter(part))
    if len(getters) == 1 and template == b"%b":
        only = getters[0]
        return lambda info: unset if (value := only(info)) is None else value
    values = tuple(getters)
    return lambda info: template % tuple([unset if (v := get(info)) is None else v for get in values])


def text_getter(part: Compiled) -> Getter:
    """The part's value as text: ``bytes``, or None when it is unset."""
    get = part.get
    if part.kind == TEXT:
        return get
    if part.kind == CONSTANT:
        text = part.text
        return lambda info: text
    if part.kind in (NUMBER, OPTIONAL_NUMBER):
        return lambda info: None if (value := get(info)) is None else b"%d" % value
    assert part.kind == JSON_VALUE
    limit = part.limit

    def plain(info: StreamInfo) -> bytes | None:
        value = get(info)
        if value is None:
            return None
        return (value.encode() if isinstance(value, str) else json_bytes(value))[:limit]

    return plain


def _escaped(part: Compiled) -> Compiled:
    get = text_getter(part)

    def escaped(info: StreamInfo) -> bytes | None:
        value = get(info)
        return None if value is None else _CONTROL.sub(lambda found: b"\\x%02x" % ord(found[0]), value)

    return Compiled(TEXT, escaped)
