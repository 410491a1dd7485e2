"""Headers that routes add and remove: ``request_headers_to_add``, ``…_to_remove`` and the same for responses.

The lists of the levels (weighted cluster, route, virtual host, route table) become one callable, or None when no level
has anything to do. Envoy's name: ``HeaderParser``. Called by the routes' ``finalize_*_headers``.

A level first removes, then evaluates all its values against the headers as they are, then overwrites, then adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from workerproxy.http.formatter import FormatError, Formatter, compile_format
from workerproxy.worker.router.errors import RouteConfigError, at

if TYPE_CHECKING:
    from envoy.config.core.v3.base_pb2 import HeaderValueOption

    from workerproxy.http.headers import HeaderMap, Pair
    from workerproxy.http.stream_info import StreamInfo

# Mutates; gives the name of a header whose value would have held CR, LF or NUL (and was left out), else None.
Mutation = Callable[["HeaderMap", "StreamInfo"], "bytes | None"]
Headers = TypeVar("Headers", bound="HeaderMap")

# HeaderValueOption.HeaderAppendAction
APPEND_IF_EXISTS_OR_ADD: Final = 0
ADD_IF_ABSENT: Final = 1
OVERWRITE_IF_EXISTS_OR_ADD: Final = 2
OVERWRITE_IF_EXISTS: Final = 3

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.1
_BREAKING: Final = re.compile(rb"[\r\n\0]")  # what would end the field line


class Level(NamedTuple):
    """One level's lists. ``path`` and ``prefix`` (``request`` or ``response``) say where they stand."""

    to_add: Sequence[HeaderValueOption]
    to_remove: Sequence[str]
    path: str
    prefix: str


class _Entry(NamedTuple):
    name: bytes
    value: Formatter
    action: int
    keep_empty: bool


def compile_mutations(levels: Iterable[Level], joined: frozenset[bytes]) -> Mutation | None:
    """The mutations of all levels in the given order, or None. Raises ``RouteConfigError``."""
    mutations = [mutation for level in levels if (mutation := _compile_level(level, joined)) is not None]
    return in_order(mutations)


def in_order(
    mutations: Sequence[Callable[[Headers, StreamInfo], bytes | None]],
) -> Callable[[Headers, StreamInfo], bytes | None] | None:
    """Several as one; None for none."""
    if len(mutations) < 2:
        return mutations[0] if mutations else None

    def all_of_them(headers: Headers, info: StreamInfo) -> bytes | None:
        invalid = None
        for mutation in mutations:
            invalid = mutation(headers, info) or invalid
        return invalid

    return all_of_them


def _compile_level(level: Level, joined: frozenset[bytes]) -> Mutation | None:
    if not level.to_add and not level.to_remove:
        return None
    removals = tuple(
        _checked_name(name, "removed", at(level.path, f"{level.prefix}_headers_to_remove", index))
        for index, name in enumerate(level.to_remove)
    )
    entries = tuple(
        _entry(option, at(level.path, f"{level.prefix}_headers_to_add", index))
        for index, option in enumerate(level.to_add)
    )
    if all(_is_static(entry) for entry in entries):
        return _static(removals, entries, joined)
    return _dynamic(removals, entries, joined)


def _checked_name(name: str, done: str, path: str) -> bytes:
    if name.startswith(":") or name.lower() == "host":
        raise RouteConfigError(path, f"{name!r}: :-prefixed or host headers may not be {done}")
    if _NAME.fullmatch(name) is None:
        raise RouteConfigError(path, f"{name!r} is not a header name")
    return name.lower().encode()


def _entry(option: HeaderValueOption, path: str) -> _Entry:
    name = _checked_name(option.header.key, "modified", at(path, "header", "key"))
    action = option.append_action
    if option.HasField("append"):
        if action != APPEND_IF_EXISTS_OR_ADD:
            raise RouteConfigError(path, "both append and append_action are set")
        action = APPEND_IF_EXISTS_OR_ADD if option.append.value else OVERWRITE_IF_EXISTS_OR_ADD
    try:
        value = compile_format(option.header.value, omit_empty_values=True)
    except FormatError as error:
        raise RouteConfigError(at(path, "header", "value"), str(error)) from None
    if value.constant is not None and _BREAKING.search(value.constant):
        raise RouteConfigError(at(path, "header", "value"), "a header value holds no CR, LF or NUL")
    return _Entry(name, value, action, option.keep_empty_value)


def _is_static(entry: _Entry) -> bool:
    return entry.value.constant is not None and entry.action in (APPEND_IF_EXISTS_OR_ADD, OVERWRITE_IF_EXISTS_OR_ADD)


def _static(removals: tuple[bytes, ...], entries: tuple[_Entry, ...], joined: frozenset[bytes]) -> Mutation:
    pairs = [(entry, entry.value.constant or b"") for entry in entries if entry.value.constant or entry.keep_empty]
    overwrites = tuple((entry.name, value) for entry, value in pairs if entry.action != APPEND_IF_EXISTS_OR_ADD)
    additions = tuple((entry.name, value) for entry, value in pairs if entry.action == APPEND_IF_EXISTS_OR_ADD)

    def mutate(headers: HeaderMap, info: StreamInfo) -> None:
        for name in removals:
            headers.remove(name)
        _apply(headers, overwrites, additions, joined)

    return mutate


def _dynamic(removals: tuple[bytes, ...], entries: tuple[_Entry, ...], joined: frozenset[bytes]) -> Mutation:
    def mutate(headers: HeaderMap, info: StreamInfo) -> bytes | None:
        invalid = None
        for name in removals:
            headers.remove(name)
        overwrites: list[Pair] = []
        additions: list[Pair] = []
        for name, formatter, action, keep_empty in entries:
            value = formatter.format_bytes(info)
            if not value and not keep_empty:
                continue
            if formatter.unsafe and _BREAKING.search(value):
                invalid = name
            elif action == APPEND_IF_EXISTS_OR_ADD:
                additions.append((name, value))
            elif action == ADD_IF_ABSENT:
                if name not in headers:
                    additions.append((name, value))
            elif action == OVERWRITE_IF_EXISTS_OR_ADD or name in headers:
                overwrites.append((name, value))
        _apply(headers, overwrites, additions, joined)
        return invalid

    return mutate


def _apply(headers: HeaderMap, overwrites: Iterable[Pair], additions: Iterable[Pair], joined: frozenset[bytes]) -> None:
    for name, value in overwrites:
        headers.remove(name)  # so that it comes last, as in Envoy
        headers[name] = value
    for name, value in additions:
        if name not in headers:
            headers[name] = value
        elif name in joined:
            headers.replace(name, b",".join([*headers.get_all(name), value]))
        else:
            headers.add(name, value)
