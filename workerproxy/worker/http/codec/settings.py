"""What a codec is told once: limits and options of one listener's connection manager or of one cluster.

Envoy's names: ``Http1Settings`` and the codec's part of ``HttpConnectionManager`` / ``Http1ProtocolOptions`` /
``HttpProtocolOptions``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from workerproxy.worker.http.codec.field_lines import FieldLines
from workerproxy.worker.http.codec.field_names import known_names
from workerproxy.worker.http.codec.status_lines import known_status_lines

# HttpProtocolOptions.HeadersWithUnderscoresAction
ALLOW: Final = 0
REJECT: Final = 1
DROP: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class CodecSettings:
    """Shared by all connections of a listener or cluster; the tables grow, up to their bounds, as traffic comes."""

    max_headers_kb: int = 60  # KiB of a whole head, and of a trailer section (max_request_headers_kb)
    max_headers_count: int = 100  # fields of a head, and of a trailer section
    allow_absolute_url: bool = True
    accept_http_10: bool = False  # HTTP/1.0 is parsed either way; the connection manager answers 426
    default_host_for_http_10: bytes = b""
    enable_trailers: bool = False
    allow_chunked_length: bool = False
    headers_with_underscores_action: int = ALLOW  # for requests only, as in Envoy
    bulk: bool = True  # read whole heads at once where possible; False: always by callbacks, for tests
    names: dict[bytes, bytes] = field(default_factory=known_names, init=False, repr=False)  # spelling -> lower case
    hosts: set[bytes] = field(default_factory=set, init=False, repr=False)  # authorities found valid
    statuses: dict[bytes, int] = field(default_factory=known_status_lines, init=False, repr=False)
    lines: FieldLines = field(init=False, repr=False)

    def __post_init__(self) -> None:
        underscores = self.headers_with_underscores_action == ALLOW
        object.__setattr__(self, "lines", FieldLines(underscores=underscores))
