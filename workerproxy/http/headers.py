"""Header maps: what the codecs fill, the filters edit and the encoders write.

A header map is a ``dict`` from lower-case name to the *first* value, both ``bytes``. A name that occurs more than
once keeps its further values in ``more``, in the order they came. Nearly all messages repeat nothing, so the common
work (look up, set, write out) is plain ``dict`` work in C.

Envoy's name: ``Http::HeaderMap``. Knows nothing of sockets or of HTTP/1 framing. Names are always lower case and values
hold no CR, LF or NUL; the codec and the configuration loader check that, and ``add`` and ``replace`` trust it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Pair = tuple[bytes, bytes]


class HeaderMap(dict[bytes, bytes]):
    """Ordered multi-map of header fields (RFC 9110 section 5).

    ``h[name]`` and ``h.get(name)`` read the first value. Plain item assignment and deletion touch only that first
    value: use them where the name is known to be single, and ``replace``/``remove`` elsewhere.
    """

    more: list[Pair] | None = None

    @classmethod
    def from_pairs(cls, pairs: Iterable[Pair]) -> HeaderMap:
        self = cls()
        for name, value in pairs:
            self.add(name, value)
        return self

    def add(self, name: bytes, value: bytes) -> None:
        """Append a value, keeping those that are there."""
        if name not in self:
            self[name] = value
        elif self.more is None:
            self.more = [(name, value)]
        else:
            self.more.append((name, value))

    def replace(self, name: bytes, value: bytes) -> None:
        """Make ``value`` the only value of ``name``."""
        self[name] = value
        if self.more is not None:
            self._forget(name)

    def remove(self, name: bytes) -> bool:
        """Remove every value of ``name``; says whether there was one."""
        if self.more is not None:
            self._forget(name)
        return self.pop(name, None) is not None

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of ``name``, in order; empty when there is none."""
        first = self.get(name)
        if first is None:
            return []
        if self.more is None:
            return [first]
        return [first, *(value for key, value in self.more if key == name)]

    def joined(self, name: bytes) -> bytes | None:
        """All values as one comma-separated list (RFC 9110 section 5.3), or None."""
        first = self.get(name)
        if first is None or self.more is None:
            return first
        return b",".join(self.get_all(name))

    def lookup(self, name: bytes) -> bytes | None:
        """As ``joined``, and pseudo headers (``:path``) too; for matchers and formatters, which take any name."""
        return self.joined(name)

    def pairs(self) -> Iterator[Pair]:
        """Every field: first values in order of arrival, then the repeated ones in order of arrival."""
        yield from self.items()
        if self.more is not None:
            yield from self.more

    def copy(self) -> HeaderMap:
        other = type(self)(self)
        if self.more is not None:
            other.more = list(self.more)
        return other

    def _forget(self, name: bytes) -> None:
        rest = [pair for pair in self.more or () if pair[0] != name]
        self.more = rest or None


class RequestHeaders(HeaderMap):
    """A request's header map; its pseudo headers (``:method``, ``:path``, ``:authority``, ``:scheme``) are attributes.

    The ``host`` field is not in the map: its value is ``authority``.
    """

    __slots__ = ("authority", "method", "path", "scheme")

    method: bytes
    path: bytes
    authority: bytes
    scheme: bytes

    def lookup(self, name: bytes) -> bytes | None:
        if name[:1] == b":" or name == b"host":
            attribute = _REQUEST_PSEUDO.get(name)
            return getattr(self, attribute, None) or None if attribute else None
        return self.joined(name)

    def copy(self) -> RequestHeaders:
        other = RequestHeaders(self)
        if self.more is not None:
            other.more = list(self.more)
        other.method, other.path, other.authority, other.scheme = self.method, self.path, self.authority, self.scheme
        return other


class ResponseHeaders(HeaderMap):
    """A response's header map with its status code (``:status``, 100 to 999) as an ``int``."""

    __slots__ = ("status",)

    status: int

    def lookup(self, name: bytes) -> bytes | None:
        if name == b":status":
            return b"%d" % self.status
        return self.joined(name)

    def copy(self) -> ResponseHeaders:
        other = ResponseHeaders(self)
        if self.more is not None:
            other.more = list(self.more)
        other.status = self.status
        return other


_REQUEST_PSEUDO = {
    b":method": "method",
    b":path": "path",
    b":authority": "authority",
    b"host": "authority",
    b":scheme": "scheme",
}
