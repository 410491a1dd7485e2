"""What a route does to the host and the path of a request on its way to the upstream.

Envoy's names: ``RouteEntryImplBase::finalizeHostHeader``, ``finalizePathHeader``, ``Http::Utility::updateAuthority``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workerproxy.http.headers import RequestHeaders
    from workerproxy.http.regex import Rewrite
    from workerproxy.http.stream_info import StreamInfo

# Give the new host (b"" to leave it) and the new path with its query.
HostRewrite = Callable[["RequestHeaders", "StreamInfo"], bytes]
PathRewrite = Callable[["RequestHeaders", "StreamInfo"], bytes]

_END_OF_PATH: Final = re.compile(rb"[?#]")


def path_length(path: bytes) -> int:
    """How much of a request target comes before its query or fragment."""
    match = _END_OF_PATH.search(path)
    return len(path) if match is None else match.start()


def replace_prefix(matched: bytes | None, replacement: bytes) -> PathRewrite:
    """``prefix_rewrite``: replace what the route matched; None for a regex, which matched all before the query."""
    if matched is None:
        return lambda headers, info: replacement + headers.path[path_length(headers.path) :]
    length = len(matched)
    return lambda headers, info: replacement + headers.path[length:]


def replace_path(rewrite: Rewrite) -> PathRewrite:
    """``regex_rewrite``: rewrite all before the query."""

    def replaced(headers: RequestHeaders, info: StreamInfo) -> bytes:
        path = headers.path
        end = path_length(path)
        return rewrite(path[:end]) + path[end:]

    return replaced


def format_path(format_bytes: Callable[[StreamInfo], bytes]) -> PathRewrite:
    """``path_rewrite``: a format gives all before the query."""
    return lambda headers, info: format_bytes(info) + headers.path[path_length(headers.path) :]


def set_path(headers: RequestHeaders, path: bytes, *, keep_original: bool) -> None:
    """Change the path; ``keep_original``: leave the old one in ``x-envoy-original-path``."""
    if keep_original:
        headers.replace(b"x-envoy-original-path", headers.path)
    headers.path = path


def set_authority(headers: RequestHeaders, host: bytes, *, append_forwarded_host: bool, keep_original: bool) -> None:
    """Change the host. The old one goes to ``x-envoy-original-host`` and, when asked for, ``x-forwarded-host``.

    It is not appended to ``x-forwarded-host`` again when it stands there last. Also for ``auto_host_rewrite``, which
    only knows its host when an endpoint is chosen.
    """
    old = headers.authority
    if old:
        if keep_original:
            headers.replace(b"x-envoy-original-host", old)
        if append_forwarded_host:
            _append_forwarded_host(headers, old)
    headers.authority = host


def _append_forwarded_host(headers: RequestHeaders, host: bytes) -> None:
    present = headers.joined(b"x-forwarded-host")
    if not present:
        headers[b"x-forwarded-host"] = host
        return
    values = [value for value in present.split(b",") if value.strip()]  # Envoy keeps the spaces around a value
    if not values or values[-1] != host:
        headers.replace(b"x-forwarded-host", b"%b,%b" % (present, host))
