"""The JSON form of formats (``json_format``): a structure whose strings are format texts, printed as one line.

A string that is exactly one operator keeps its type (numbers stay numbers, unset is ``null``); one with more in it is a
string. Keys are always in byte order, so Envoy's ``sort_properties`` changes nothing. Envoy's name:
``JsonFormatterImpl``. Raises ``FormatError`` when a string cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from workerproxy.http.format_operators import CONSTANT, JSON_VALUE, NUMBER, OPTIONAL_NUMBER, TEXT, Compiled
from workerproxy.http.formatter import UNSET, Formatter, parse_format, text_getter
from workerproxy.http.json_text import escape, integer, json_bytes

if TYPE_CHECKING:
    from workerproxy.http.stream_info import StreamInfo

NULL: Final = b"null"

# A node gives its JSON text, or None for null; constants are bytes.
Node = bytes | Callable[["StreamInfo"], "bytes | None"]


def compile_json_format(structure: Mapping[str, Any], *, omit_empty_values: bool = False) -> Formatter:
    """Compile a ``json_format`` given as plain Python values (dict, list, str, float, bool, None).

    ``omit_empty_values``: members and elements that are null, and objects that become empty, are left out.
    """
    if omit_empty_values:
        return Formatter([Compiled(TEXT, _omitting(structure)), Compiled(CONSTANT, text=b"\n")], UNSET)
    parts: list[Compiled] = []
    for piece in _flat(structure):
        if isinstance(piece, bytes) and parts and parts[-1].kind == CONSTANT:
            parts[-1] = Compiled(CONSTANT, text=parts[-1].text + piece)
        else:
            parts.append(Compiled(CONSTANT, text=piece) if isinstance(piece, bytes) else Compiled(TEXT, piece))
    return Formatter([*parts, Compiled(CONSTANT, text=b"\n")], NULL)


def _flat(value: Any) -> list[Node]:
    """The JSON text of ``value`` as constants and nodes in order."""
    pieces: list[Node] = []
    if isinstance(value, Mapping):
        for name, item in _sorted(value):
            pieces += [b'%b"%b":' % (b"," if pieces else b"{", escape(name)), *_flat(item)]
        return [*pieces, b"}"] if pieces else [b"{}"]
    if isinstance(value, list):
        for item in value:
            pieces += [b"," if pieces else b"[", *_flat(item)]
        return [*pieces, b"]"] if pieces else [b"[]"]
    return [NULL if (node := _leaf(value, UNSET)) is None else node]


def _omitting(structure: Mapping[str, Any]) -> Callable[[StreamInfo], bytes]:
    root = _node(structure)
    if root is None or isinstance(root, bytes):
        text = root or b"{}"
        return lambda info: text
    render = root
    return lambda info: render(info) or b"{}"


def _node(value: Any) -> Node | None:
    """A tree of nodes that leave out what is null; None for what is always left out."""
    if isinstance(value, Mapping):
        members = [
            (b'"%b":' % escape(name), node) for name, item in _sorted(value) if (node := _node(item)) is not None
        ]

        def members_text(info: StreamInfo) -> bytes | None:
            shown = [name + text for name, node in members if (text := _text_of(node, info)) is not None]
            return b"{%b}" % b",".join(shown) if shown else None

        return members_text if members else None
    if isinstance(value, list):
        elements = [node for item in value if (node := _node(item)) is not None]

        def elements_text(info: StreamInfo) -> bytes:
            return b"[%b]" % b",".join([text for node in elements if (text := _text_of(node, info)) is not None])

        return elements_text if elements else b"[]"
    return _leaf(value, b"")


def _text_of(node: Node, info: StreamInfo) -> bytes | None:
    return node if isinstance(node, bytes) else node(info)


def _sorted(value: Mapping[str, Any]) -> list[tuple[bytes, Any]]:
    return sorted(((key.encode(), item) for key, item in value.items()), key=lambda pair: pair[0])


def _leaf(value: Any, unset: bytes) -> Node | None:
    if value is None:
        return None
    if not isinstance(value, str) or "%" not in value:
        return json_bytes(value)
    parts = parse_format(value)
    if len(parts) > 1:
        return _string(parts, unset)
    part = parts[0]
    if part.kind == CONSTANT:
        return json_bytes(part.text)
    return _typed(part)


def _typed(part: Compiled) -> Node:
    get = part.get
    if part.kind in (NUMBER, OPTIONAL_NUMBER):
        return lambda info: None if (value := get(info)) is None else integer(value)
    if part.kind == JSON_VALUE:
        return lambda info: None if (value := get(info)) is None else json_bytes(value)
    return lambda info: None if (value := get(info)) is None else b'"%b"' % escape(value)


def _string(parts: list[Compiled], unset: bytes) -> Node:
    getters = [text_getter(part) for part in parts]

    def text(info: StreamInfo) -> bytes:
        values = [unset if (value := get(info)) is None else escape(value) for get in getters]
        return b'"%b"' % b"".join(values)

    return text
