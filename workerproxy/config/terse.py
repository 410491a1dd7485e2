"""The terse form: ``--listen :8080 --to http://127.0.0.1:3000`` expands to a whole configuration.

The result is Envoy's configuration like any other: ``--print-config`` shows it, and it loads in Envoy too. Several
``--to`` are several endpoints of one cluster; host names make it a STRICT_DNS cluster.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from workerproxy.config.document import Document
from workerproxy.config.errors import TYPE, ConfigError, Position
from workerproxy.config.json_text import read_json

TERSE_SOURCE: Final = "the command line"
CLUSTER: Final = "upstream"
_TYPE: Final = "type.googleapis.com/envoy.extensions"
_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_LISTEN_FORMS: Final = "':8080', '127.0.0.1:8080' or '[::1]:8080'"
_TO_FORMS: Final = "'http://host:port' or 'http://host:port/prefix'"


class _Bad(Exception):
    """An argument that cannot be used. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    prefix: str


def expand(listen: str, to: Sequence[str]) -> Document:
    """The document for ``--listen`` and ``--to``; its errors name the argument that is wrong."""
    errors: list[ConfigError] = []

    def attempt(option: str, text: str, read: Any) -> Any:
        try:
            return read(text)
        except _Bad as bad:
            errors.append(ConfigError(TYPE, Position(TERSE_SOURCE), option, str(bad), found=repr(text)))
            return None

    address = attempt("--listen", listen, parse_listen)
    targets = [attempt("--to", text, _parse_target) for text in to]
    if not errors and len({target.prefix for target in targets}) > 1:
        message = "several --to must have the same prefix, as they are endpoints of one cluster"
        errors.append(ConfigError(TYPE, Position(TERSE_SOURCE), "--to", message, found=", ".join(to)))
    if errors:
        return Document(TERSE_SOURCE, errors=errors)
    return read_json(TERSE_SOURCE, json.dumps(_bootstrap(address, targets)))


def parse_listen(text: str) -> tuple[str, int]:
    """(IP address, port) from ``:8080``, ``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080`` or ``8080``."""
    host, colon, port = text.rpartition(":") if ":" in text else ("", ":", text)
    number = _port(port) if colon else None
    if number is None:
        raise _Bad(f"not an address to listen on; expected {_LISTEN_FORMS}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _Bad(f"not an address to listen on; expected {_LISTEN_FORMS}")
    host = {"": "0.0.0.0", "*": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise _Bad(f"not an address to listen on; expected {_LISTEN_FORMS}") from None
    return host, number


def _parse_target(text: str) -> _Target:
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _Bad(f"not a URL to proxy to; expected {_TO_FORMS}") from None
    if parts.scheme == "https":
        raise _Bad("TLS to upstreams is not supported yet; expected http://")
    if parts.scheme != "http" or parts.query or parts.fragment or parts.username is not None:
        raise _Bad(f"not a URL to proxy to; expected {_TO_FORMS}")
    host = parts.hostname or ""
    if not _is_ip(host) and not _HOST_NAME.fullmatch(host):
        raise _Bad(f"not a URL to proxy to; expected {_TO_FORMS}")
    return _Target(host, 80 if port is None else port, parts.path.rstrip("/"))


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) <= 65535 else None


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _socket_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _bootstrap(address: tuple[str, int], targets: Sequence[_Target]) -> dict[str, Any]:
    return {"static_resources": {"listeners": [_listener(address, targets[0].prefix)], "clusters": [_cluster(targets)]}}


def _listener(address: tuple[str, int], prefix: str) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": CLUSTER}
    if prefix:
        # "/x" -> "/prefix/x"; the slash stays single for "/" itself.
        action["prefix_rewrite"] = f"{prefix}/"
    route = {"match": {"prefix": "/"}, "route": action}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress_http",
        "use_remote_address": True,
        "route_config": {"name": "terse", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
        ],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": "terse", "address": _socket_address(*address), "filter_chains": [{"filters": [network_filter]}]}


def _cluster(targets: Sequence[_Target]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _socket_address(target.host, target.port)}} for target in targets]
    return {
        "name": CLUSTER,
        "type": "STATIC" if all(_is_ip(target.host) for target in targets) else "STRICT_DNS",
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]},
    }
