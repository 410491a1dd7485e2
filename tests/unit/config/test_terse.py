"""``--listen`` and ``--to``: every form, and what they expand to."""

from __future__ import annotations

from typing import Any

import pytest

from workerproxy.config.errors import ConfigErrors
from workerproxy.config.load import load
from workerproxy.config.options import Options


def expanded(listen: str, *to: str) -> Any:
    return load(Options(listen=listen, to=to)).bootstrap.static_resources


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        (":8080", "0.0.0.0", 8080),
        ("8080", "0.0.0.0", 8080),
        ("*:8080", "0.0.0.0", 8080),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:8080", "::1", 8080),
        ("[::]:80", "::", 80),
        ("localhost:80", "127.0.0.1", 80),
    ],
)
def test_listen_addresses(text: str, address: str, port: int) -> None:
    (listener,) = expanded(text, "http://127.0.0.1:1").listeners
    assert (listener.address.socket_address.address, listener.address.socket_address.port_value) == (address, port)


@pytest.mark.parametrize("text", ["a", ":", ":x", ":70000", "host.name:80", "::1:80", "[::1]", "127.0.0.1:-1", ":٣"])
def test_what_cannot_be_listened_on(text: str) -> None:
    with pytest.raises(ConfigErrors) as refused:
        expanded(text, "http://127.0.0.1:1")
    assert str(refused.value) == (
        "the command line: --listen: not an address to listen on; "
        f"expected ':8080', '127.0.0.1:8080' or '[::1]:8080'; found {text!r}"
    )


@pytest.mark.parametrize(
    ("url", "host", "port", "kind", "rewrite"),
    [
        ("http://127.0.0.1:3000", "127.0.0.1", 3000, 0, ""),
        ("http://127.0.0.1:3000/", "127.0.0.1", 3000, 0, ""),
        ("127.0.0.1:3000", "127.0.0.1", 3000, 0, ""),
        ("http://[::1]:3000", "::1", 3000, 0, ""),
        ("http://example.com", "example.com", 80, 1, ""),
        ("localhost:81", "localhost", 81, 1, ""),
        ("http://app:80/base/v1/", "app", 80, 1, "/base/v1/"),
    ],
)
def test_targets(url: str, host: str, port: int, kind: int, rewrite: str) -> None:
    resources = expanded(":80", url)
    (cluster,) = resources.clusters
    address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert (address.address, address.port_value, cluster.type) == (host, port, kind)
    assert f'"{rewrite}"'.strip('"').encode() in resources.listeners[0].SerializeToString()


def test_several_targets_are_endpoints_of_one_cluster() -> None:
    (cluster,) = expanded(":80", "http://127.0.0.1:1", "http://127.0.0.1:2", "http://a:3").clusters
    assert [
        e.endpoint.address.socket_address.port_value for e in cluster.load_assignment.endpoints[0].lb_endpoints
    ] == [1, 2, 3]
    assert cluster.type == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://a", "TLS to upstreams is not supported yet; expected http://"),
        ("ftp://a", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
        ("http://", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
        ("http://a:x", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
        ("http://a/?q=1", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
        ("http://u@a", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
        ("http://a b", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
        ("http://[x]", "not a URL to proxy to; expected 'http://host:port' or 'http://host:port/prefix'"),
    ],
)
def test_what_cannot_be_proxied_to(url: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as refused:
        expanded(":80", url)
    assert str(refused.value) == f"the command line: --to: {message}; found {url!r}"


def test_different_prefixes_are_refused_and_all_errors_come_at_once() -> None:
    with pytest.raises(ConfigErrors, match="must have the same prefix"):
        expanded(":80", "http://a/x", "http://b/y")
    with pytest.raises(ConfigErrors) as refused:
        expanded("x", "ftp://a", "https://b")
    assert len(refused.value.errors) == 3
