"""What the connection manager says of itself and of the client: node, Unix sockets, the scheme upstream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.worker.proxy import OK, Proxy, head_and_body

PIPE = ""  # the address of a client that has connected to a Unix socket


def sent(hcm: dict[str, Any], request: bytes = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", address: Any = PIPE) -> Any:
    """The header fields that the origin gets."""
    proxy = Proxy(hcm=hcm)
    proxy.client(address).send(request)
    return head_and_body(proxy.origin().take())[1]


def test_add_user_agent_names_the_node_of_the_bootstrap() -> None:
    fields = sent({"add_user_agent": True})
    assert fields[b"x-envoy-downstream-service-cluster"] == b"service"
    assert fields[b"x-envoy-downstream-service-node"] == b"node"
    assert fields[b"user-agent"] == b"service"


@pytest.mark.parametrize(
    ("unix_sockets", "forwarded_for", "internal"),
    [(True, b"", True), (True, b"x-forwarded-for: 1.2.3.4\r\n", False), (False, b"", False)],
)
def test_a_client_on_a_unix_socket_is_internal_if_configured(
    unix_sockets: bool, forwarded_for: bytes, internal: bool
) -> None:
    hcm = {"use_remote_address": True, "internal_address_config": {"unix_sockets": unix_sockets}}
    fields = sent(hcm, b"GET / HTTP/1.1\r\nhost: h\r\n" + forwarded_for + b"\r\n")
    assert (b"x-envoy-internal" in fields) is internal


def test_an_ip_client_is_not_internal_because_unix_sockets_are() -> None:
    hcm = {"use_remote_address": True, "internal_address_config": {"unix_sockets": True}}
    assert b"x-envoy-internal" not in sent(hcm, address=("192.0.2.7", 5000))


@pytest.mark.parametrize("forwarded_for", [b"", b"1.2.3.4"])
def test_a_client_without_an_ip_address_is_not_added_to_x_forwarded_for(forwarded_for: bytes) -> None:
    line = b"x-forwarded-for: " + forwarded_for + b"\r\n" if forwarded_for else b""
    fields = sent({"use_remote_address": True}, b"GET / HTTP/1.1\r\nhost: h\r\n" + line + b"\r\n")
    assert fields.get(b"x-forwarded-for", b"") == forwarded_for
    assert (b"x-forwarded-for" in fields) is bool(forwarded_for)
    assert b"x-envoy-external-address" not in fields


@pytest.mark.parametrize(("match_upstream", "scheme"), [(True, b"http"), (False, b"https")])
def test_the_scheme_follows_the_upstream_connection_if_configured(match_upstream: bool, scheme: bytes) -> None:
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "origin"},
        "response_headers_to_add": [{"header": {"key": "s", "value": "%REQ(:SCHEME)%"}}],
    }
    proxy = Proxy(routes=[route], hcm={"scheme_header_transformation": {"match_upstream": match_upstream}})
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-proto: https\r\n\r\n")
    received = head_and_body(proxy.origin().take())[1]
    assert received[b"x-forwarded-proto"] == b"https"
    proxy.origin().send(OK)
    assert head_and_body(client.take())[1][b"s"] == scheme
