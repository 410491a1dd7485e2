"""Request targets that are not a plain path: absolute-form and authority-form (RFC 9112 section 3.2).

What is a valid authority here is what Envoy takes (``Http::Utility::Url``, ``HeaderUtility::authorityIsValid``). Pure
functions; the server codec calls them for the rare requests that need them.
"""

from __future__ import annotations

import re
from socket import AF_INET6, inet_pton
from typing import TYPE_CHECKING, Final, NamedTuple

from workerproxy.worker.http.codec.errors import INVALID_SCHEME, INVALID_URL

if TYPE_CHECKING:
    from workerproxy.http.headers import RequestHeaders
    from workerproxy.worker.http.codec.messages import CodecError

# HeaderUtility::authorityIsValid: HTTP/2's characters and "@".
_AUTHORITY: Final = b"!$%&'()*+,-.0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~"
_HOST_AND_PORT: Final = rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?"
_ABSOLUTE: Final = re.compile(rb"([A-Za-z]+)://(?:[A-Za-z0-9\-_.!~*'()%;:&=+$,]*@)?(" + _HOST_AND_PORT + rb")([/?].*)?")
_CONNECT: Final = re.compile(_HOST_AND_PORT)
_MAX_PORT: Final = 65535
_MAX_KNOWN_HOSTS: Final = 1024
_MAX_KNOWN_HOST_LENGTH: Final = 128  # bytes


def resolve(headers: RequestHeaders, path: bytes, *, absolute_allowed: bool) -> CodecError | None:
    """Set path, authority and scheme from a target that is no plain path (RFC 9112 section 3.2), or say what is wrong.

    ``headers`` has its method. ``absolute_allowed``: ``allow_absolute_url``.
    """
    if headers.method == b"CONNECT":
        if not connect_authority(path):
            return INVALID_URL
        headers.authority = path
        headers.path = b""
        return None
    if path[:1] == b"*":
        headers.path = path
        return None if headers.method == b"OPTIONS" else INVALID_URL
    if not absolute_allowed:
        headers.path = path  # the connection manager refuses it: absolute_path_rejected
        return None
    parts = absolute(path)
    if parts is None:
        return INVALID_URL
    if parts.scheme not in (b"http", b"https"):
        return INVALID_SCHEME
    # RFC 9112 section 3.2.2: the target's authority replaces the Host field.
    headers.scheme, headers.authority, headers.path = parts
    return None


class Target(NamedTuple):
    """The parts of an absolute-form target; ``path`` may begin with ``?``, which the connection manager refuses."""

    scheme: bytes  # lower case
    authority: bytes  # without user information
    path: bytes


def absolute(target: bytes) -> Target | None:
    """The parts of ``scheme://authority[path]``, or None when it is not valid."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return None
    scheme, authority, host, port, path = match.groups()
    if not _host_and_port_valid(host, port):
        return None
    return Target(scheme.lower(), authority, path or b"/")


def connect_authority(target: bytes) -> bool:
    """Whether the target of a CONNECT request is ``host:port`` (RFC 9112 section 3.2.3)."""
    match = _CONNECT.fullmatch(target)
    return match is not None and match[2] is not None and _host_and_port_valid(match[1], match[2])


def authority_valid(authority: bytes, known: set[bytes]) -> bool:
    """Whether every byte of a Host value may stand in one. ``known``: the values found valid; grows up to a bound."""
    if authority.translate(None, _AUTHORITY):
        return False
    if len(known) < _MAX_KNOWN_HOSTS and len(authority) <= _MAX_KNOWN_HOST_LENGTH:
        known.add(authority)
    return True


def _host_and_port_valid(host: bytes, port: bytes | None) -> bool:
    if port is not None and int(port) > _MAX_PORT:
        return False
    if host[:1] != b"[":
        return True
    try:
        inet_pton(AF_INET6, host[1:-1].decode())
    except OSError:
        return False
    return True
