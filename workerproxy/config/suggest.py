"""Guesses at what was meant: nearest names, durations in other units, fields that belong a level up or down."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

_UNITS: Final = {
    "ns": -9, "us": -6, "µs": -6, "ms": -3, "msec": -3, "msecs": -3, "millis": -3,
    "s": 0, "sec": 0, "secs": 0, "second": 0, "seconds": 0,
}  # fmt: skip
_LONG_UNITS: Final = {
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400,
}  # fmt: skip
_PART: Final = re.compile(r"\+?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ]*)\s*")


_LIKENESS: Final = 0.6  # of difflib: below it, two names have little to do with each other


def did_you_mean(word: str, names: Iterable[str], at_least: float = _LIKENESS) -> str:
    """``did you mean 'x'?`` for the nearest of ``names``, or nothing. ``at_least``: how like, from 0 to 1."""
    found = nearest(word, names, at_least)
    return f"did you mean {found!r}?" if found else ""


def nearest(word: str, names: Iterable[str], at_least: float = _LIKENESS) -> str:
    """The one of ``names`` that looks most like ``word`` (case and dashes aside), or ``""``."""
    by_form = {_form(name): name for name in names}
    form = _form(word)
    if form in by_form:
        return by_form[form]
    close = difflib.get_close_matches(form, by_form, n=1, cutoff=at_least)
    return by_form[close[0]] if close else ""


def duration_hint(text: str) -> str:
    """``did you mean 0.005s?`` for a duration written in another unit or without one, or nothing."""
    text = text.strip()
    total_ns = 0
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return ""
        amount_ns = _amount_ns(match[1], match[2].lower() or "s")
        if amount_ns is None:
            return ""
        total_ns += amount_ns
        position = match.end()
    return f"did you mean {format_duration(total_ns)}?" if text else ""


def format_duration(nanoseconds: int) -> str:
    """A duration as protobuf's JSON writes it, without needless zeros: ``0.005s``."""
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    fraction = f"{rest:09d}".rstrip("0")
    return f"{sign}{seconds}.{fraction}s" if fraction else f"{sign}{seconds}s"


def _amount_ns(number: str, unit: str) -> int | None:
    whole, _, fraction = number.partition(".")
    digits = (fraction + "0" * 9)[:9]
    in_ns = int(whole or "0") * 1_000_000_000 + int(digits)  # as if the unit were seconds
    if unit in _UNITS:
        return int(in_ns // 10 ** -_UNITS[unit])
    if unit in _LONG_UNITS:
        return in_ns * _LONG_UNITS[unit]
    return None


def _form(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(" ", "_")
