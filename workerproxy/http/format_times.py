"""Times and durations of the format operators: ``%START_TIME(…)%``, ``%DURATION%``, ``%COMMON_DURATION(…)%`` and kin.

``StreamInfo`` holds monotonic seconds; a ``WallClock`` turns them into wall time. Called by ``format_operators`` when a
format is compiled; what it returns runs once per line. Envoy's names: ``SystemTimeFormatter``, ``DateFormatter``,
``CommonDurationFormatter``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from workerproxy.http.stream_info import StreamInfo

Moment = Callable[["StreamInfo"], int]

NANOSECONDS: Final = 1_000_000_000
_CLOCK_ERROR_S: Final = 5e-11  # of the difference of two readings, as floats, of a clock below 10**5 s
CLOCK_REFRESH_S: Final = 1.0  # how soon a step of the wall clock shows in the lines

# COMMON_DURATION's points and the attributes they are; None is never reached on a plaintext connection.
TIME_POINTS: Final[dict[str, str | None]] = {
    "DS_RX_BEG": "start_time",
    "DS_RX_END": "request_complete_time",
    "US_CX_BEG": "upstream_connect_begin",
    "US_CX_END": "upstream_connect_end",
    "US_HS_END": None,
    "US_TX_BEG": "upstream_first_tx",
    "US_TX_END": "upstream_last_tx",
    "US_RX_BEG": "upstream_first_rx",
    "US_RX_END": "upstream_last_rx",
    "DS_TX_BEG": "downstream_first_tx",
    "DS_TX_END": "end_time",
}
PRECISIONS: Final = {"ms": 1_000, "us": 1_000_000, "ns": NANOSECONDS}  # units in a second

# A subsecond specifier, epoch seconds, the zone, absl::FormatTime's own ones, or a literal percent sign (strftime's).
_SPECIFIER: Final = re.compile(r"%([1-9*]?)f|%E([1-9*])([Sf])|%s|%Z|%E4Y|%E\*?z|%ET|%%")
_NEWLINE: Final = re.compile(r"%[-_0^#]*[1-9]*[EO]?n")


class TimeFormatError(ValueError):
    """The argument of a time operator is wrong; the text says how."""


class WallClock:
    """Monotonic seconds to time since the epoch. One per format, so that all times of a line agree."""

    __slots__ = ("_offset_ns", "_offset_s", "_valid_until")

    def __init__(self) -> None:
        self._offset_ns = 0
        self._offset_s = 0.0
        self._valid_until = 0.0

    def wall_ns(self, monotonic_s: float) -> int:
        if monotonic_s >= self._valid_until:
            self._refresh()
        return int(monotonic_s * 1e9) + self._offset_ns

    def wall_ms(self, monotonic_s: float) -> int:
        if monotonic_s >= self._valid_until:
            self._refresh()
        return int((monotonic_s + self._offset_s) * 1e3)

    def _refresh(self) -> None:
        now_ns = time.monotonic_ns()
        self._offset_ns = time.time_ns() - now_ns
        self._offset_s = self._offset_ns / 1e9
        self._valid_until = now_ns / 1e9 + CLOCK_REFRESH_S


class TimeSource(NamedTuple):
    """A time of the request, in nanoseconds and (cheaper) in milliseconds since the epoch."""

    nanoseconds: Moment
    milliseconds: Moment


def start_time(clock: WallClock) -> TimeSource:
    wall_ns, wall_ms = clock.wall_ns, clock.wall_ms
    return TimeSource(lambda info: wall_ns(info.start_time), lambda info: wall_ms(info.start_time))


def emit_time(clock: WallClock) -> TimeSource:
    return TimeSource(lambda info: time.time_ns(), lambda info: time.time_ns() // 1_000_000)


def default_time(source: TimeSource, *, local: bool) -> Callable[[StreamInfo], bytes]:
    """``2016-04-15T20:17:00.310Z``; with the UTC offset instead of the Z for ``local``.

    Under load many requests share a millisecond, and nearly all a second with the one before: both texts are kept.
    """
    moment = source.milliseconds
    last_ms = last_second = -1
    text = prefix = suffix = b""

    def stamp(info: StreamInfo) -> bytes:
        nonlocal last_ms, last_second, text, prefix, suffix
        now_ms = moment(info)
        if now_ms != last_ms:
            last_ms = now_ms
            second, fraction = divmod(now_ms, 1000)
            if second != last_second:
                last_second = second
                parts = time.localtime(second) if local else time.gmtime(second)
                prefix = time.strftime("%Y-%m-%dT%H:%M:%S", parts).encode()
                suffix = time.strftime("%z", parts).encode() if local else b"Z"
            text = b"%b.%03d%b" % (prefix, fraction, suffix)
        return text

    return stamp


def formatted_time(pattern: str, source: TimeSource, *, local: bool) -> Callable[[StreamInfo], bytes]:
    """A time by a strftime pattern with ``%s``, ``%f``, ``%1f`` … ``%9f``, ``%*f``, ``%E3S`` … and ``%E*S``.

    What does not change within a second is kept for a second. Raises ``TimeFormatError`` for a pattern with a newline.
    """
    if _NEWLINE.search(pattern) or "\n" in pattern or "\r" in pattern or "\0" in pattern:
        raise TimeFormatError("the time format contains a newline")
    pieces = _pieces(pattern)
    moment = source.nanoseconds
    second = -1
    rendered: list[bytes | Subsecond] = []

    def text(info: StreamInfo) -> bytes:
        nonlocal second, rendered
        now, fraction = divmod(moment(info), NANOSECONDS)
        if now != second:
            parts = time.localtime(now) if local else time.gmtime(now)
            zone = parts.tm_zone if local else "UTC"  # which strftime calls GMT
            rendered = [_render(piece, now, parts, zone) if isinstance(piece, str) else piece for piece in pieces]
            second = now
        digits = b"%09d" % fraction
        return b"".join([piece if isinstance(piece, bytes) else piece.text(digits) for piece in rendered])

    return text


class Subsecond:
    """A part of a second: ``width`` digits, 0 for as many as are not zero; ``dot`` for the ``.310`` of ``%E3S``."""

    __slots__ = ("dot", "width")

    def __init__(self, width: int, *, dot: bool) -> None:
        self.width = width
        self.dot = dot

    def text(self, digits: bytes) -> bytes:
        shown = digits[: self.width] if self.width else digits.rstrip(b"0")
        if self.dot:
            return b"." + shown if shown else b""
        return shown or b"0"


def _pieces(pattern: str) -> list[str | Subsecond]:
    """The pattern as strftime texts (with ``%s`` and absl's specifiers still in them) and subseconds."""
    pieces: list[str | Subsecond] = []
    pending = ""
    position = 0
    for match in _SPECIFIER.finditer(pattern):
        pending += pattern[position : match.start()]
        position = match.end()
        width, absl_width, absl_kind = match.groups()
        if match[0].endswith("f") or absl_kind == "S":
            if absl_kind == "S":
                pending += "%S"
            pieces += [pending, Subsecond(_width(width or absl_width or "9"), dot=absl_kind == "S")]
            pending = ""
        else:
            pending += match[0]
    return [*pieces, pending + pattern[position:]]


def _width(text: str) -> int:
    return 0 if text == "*" else int(text)


def _render(piece: str, second: int, parts: time.struct_time, zone: str) -> bytes:
    def own(match: re.Match[str]) -> str:
        specifier = match[0]
        if specifier == "%s":
            return str(second)
        if specifier == "%E4Y":
            return f"{parts.tm_year:04d}"
        if specifier == "%ET":
            return "T"
        if specifier == "%Z":
            return zone
        if specifier in ("%Ez", "%E*z"):
            offset = time.strftime("%z", parts)
            return f"{offset[:3]}:{offset[3:5]}" + (":00" if specifier == "%E*z" else "")
        return specifier

    return time.strftime(_SPECIFIER.sub(own, piece), parts).encode()


def duration_ms(info: StreamInfo) -> int:
    """``%DURATION%``: whole milliseconds from the request's first byte to the stream's end, or until now."""
    return int(((info.end_time or time.monotonic()) - info.start_time) * 1000 + 1e-6)


def duration_since_start(attribute: str) -> Callable[[StreamInfo], int | None]:
    """Whole milliseconds from the request's first byte to the point ``attribute``; None when it was not reached."""

    def milliseconds(info: StreamInfo) -> int | None:
        point: float = getattr(info, attribute)
        return int((point - info.start_time) * 1000 + 1e-6) if point else None

    return milliseconds


def response_tx_duration(info: StreamInfo) -> int | None:
    """``%RESPONSE_TX_DURATION%``: ms from the upstream's first response byte to the last byte sent downstream."""
    if not info.upstream_first_rx or not info.end_time:
        return None
    return int((info.end_time - info.upstream_first_rx) * 1000 + 1e-6)


def common_duration(argument: str) -> Callable[[StreamInfo], int | None]:
    """``%COMMON_DURATION(START:END:PRECISION)%``; unset when a point was not reached or they are in the wrong order.

    Raises ``TimeFormatError`` for a wrong number of parts and for unknown points and precisions.
    """
    names = argument.split(":")
    if len(names) not in (2, 3):
        raise TimeFormatError(f'"{argument}" is not START:END or START:END:PRECISION')
    for name in names[:2]:
        if name not in TIME_POINTS:
            raise TimeFormatError(f'"{name}" is not a point in time; there are {", ".join(TIME_POINTS)}')
    precision = names[2] if len(names) == 3 else "ms"
    if precision not in PRECISIONS:
        raise TimeFormatError(f'"{precision}" is not a precision; there are ms, us and ns')
    begin_name, end_name, units = TIME_POINTS[names[0]], TIME_POINTS[names[1]], PRECISIONS[precision]
    if begin_name is None or end_name is None:
        return lambda info: None
    begin_attribute, end_attribute = begin_name, end_name

    def count(info: StreamInfo) -> int | None:
        begin: float = getattr(info, begin_attribute)
        end: float = getattr(info, end_attribute)
        if not begin or not end or end < begin:
            return None
        return int((end - begin) * units + units * _CLOCK_ERROR_S)

    return count
