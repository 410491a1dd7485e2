"""What the connection manager does to request headers, compared with what Envoy did (``envoy_headers.txt``)."""

from __future__ import annotations

import itertools
import re
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.proxy import OK, TO_ORIGIN, Proxy, head_and_body
from workerproxy.worker.http.header_rules import _is_reference
from workerproxy.worker.http.request_id import RequestIds

HERE = Path(__file__).parent
EDGE: dict[str, Any] = {"use_remote_address": True}
INTERNAL: dict[str, Any] = {
    "internal_address_config": {
        "cidr_ranges": [
            {"address_prefix": "127.0.0.0", "prefix_len": 8},
            {"address_prefix": "10.0.0.0", "prefix_len": 8},
            {"address_prefix": "2001:db8::", "prefix_len": 32},
        ]
    }
}
OWN_HEADERS: dict[str, Any] = {
    "route_config": {
        "virtual_hosts": [{"name": "vh", "domains": ["*"], "routes": TO_ORIGIN}],
        "internal_only_headers": ["x-mine"],
    }
}
SCHEME: dict[str, Any] = {"scheme_header_transformation": {"scheme_to_overwrite": "https"}}
# The names in envoy_headers.txt.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "edge": EDGE,
    "edge hops 1": {**EDGE, "xff_num_trusted_hops": 1},
    "edge hops 2": {**EDGE, "xff_num_trusted_hops": 2},
    "hops 1": {"xff_num_trusted_hops": 1},
    "edge internal": {**EDGE, **INTERNAL},
    "internal": INTERNAL,
    "internal hops 1": {**INTERNAL, "xff_num_trusted_hops": 1},
    "edge skip append": {**EDGE, "skip_xff_append": True},
    "edge port": {**EDGE, "append_x_forwarded_port": True},
    "port": {"append_x_forwarded_port": True},
    "edge hops 1 port": {**EDGE, "append_x_forwarded_port": True, "xff_num_trusted_hops": 1},
    "via": {"via": "me"},
    "edge keep id": {**EDGE, "preserve_external_request_id": True},
    "no id": {"generate_request_id": False},
    "scheme": SCHEME,
    "edge scheme": {**EDGE, **SCHEME},
    "edge user agent": {**EDGE, "add_user_agent": True},
    "user agent": {"add_user_agent": True},
    "edge own headers": {**EDGE, **OWN_HEADERS},
    "edge internal own headers": {**EDGE, **INTERNAL, **OWN_HEADERS},
}
Field = tuple[str, str]
Case = tuple[tuple[Field, ...], list[str]]  # what is sent, what the origin gets


def recorded() -> dict[str, list[Case]]:
    """The cases of each configuration."""
    cases: dict[str, list[Case]] = defaultdict(list)
    for block in (HERE / "envoy_headers.txt").read_text().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        sent = tuple(_field(line[2:]) for line in lines if line.startswith(">") and len(line) > 2)
        for outcome, names in itertools.pairwise(lines):
            if outcome.startswith("= "):
                for name in names.strip().split("; "):
                    cases[name].append((sent, outcome[2:].split(" | ")))
    return cases


def _field(text: str) -> Field:
    name, _, value = text.partition(":")
    return name, value.strip()


RECORDED = recorded()


def shown(field: Field, sent: tuple[Field, ...]) -> str:
    """A field as the file writes it."""
    name, value = field
    ids = [value for name, value in sent if name == "x-request-id"]
    if name == "x-request-id" and value not in ids:
        kept = any(len(one) == 36 and value[:14] + value[15:] == one[:14] + one[15:] for one in ids)
        value = f"<{value[14]}>" if kept else "<new>"
    if name == "x-forwarded-port" and value == "80":
        value = "<port>"
    return f"{name}: {value.replace('10.0.0.1', '<own>')}"


def test_every_recorded_configuration_is_played() -> None:
    assert set(RECORDED) == set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_origin_gets_what_it_got_from_envoy(name: str) -> None:
    proxy = Proxy(hcm=CONFIGURATIONS[name])
    wrong = []
    for sent, expected in RECORDED[name]:
        client = proxy.client(("127.0.0.1", 5000))
        client.send(b"GET / HTTP/1.1\r\nhost: h\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in sent) + b"\r\n")
        lines = proxy.origin().take().decode().split("\r\n\r\n")[0].split("\r\n")[1:]
        proxy.origin().send(OK)
        client.fin()
        fields = [_field(line) for line in lines if not line.startswith(("host:", "x-envoy-expected-rq-timeout-ms:"))]
        got = sorted(shown(field, sent) for field in fields)
        if got != sorted(expected):
            wrong.append((sent, got, expected))
    assert not wrong
    assert len(RECORDED[name]) > 80


def test_referers_pass_as_they_do_in_envoy() -> None:
    lines = (HERE / "envoy_referers.txt").read_text().splitlines()[1:]
    assert len(lines) > 700
    wrong = []
    for line in lines:
        value = line[2:].encode().decode("unicode_escape").encode("latin-1")
        if _is_reference(value) is not line.startswith("+"):
            wrong.append(line)
    assert not wrong


def test_request_ids_are_version_4_uuids_and_differ() -> None:
    ids = RequestIds()
    made = [ids.next().decode() for _ in range(1000)]
    assert len(set(made)) == 1000
    for one in made:
        parsed = uuid.UUID(one)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, one)


# responses


def answered(hcm: dict[str, Any], response: bytes = OK, request: bytes = b"") -> dict[bytes, bytes]:
    proxy = Proxy(hcm=hcm)
    client = proxy.client()
    got = proxy.exchange(client, request or b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", response)
    return head_and_body(got)[1]


WITH_SERVER = b"HTTP/1.1 200 OK\r\nserver: own\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("transformation", "with_server", "without"),
    [("OVERWRITE", b"envoy", b"envoy"), ("APPEND_IF_ABSENT", b"own", b"envoy"), ("PASS_THROUGH", b"own", None)],
)
def test_the_server_header(transformation: str, with_server: bytes, without: bytes | None) -> None:
    hcm = {"server_header_transformation": transformation}
    assert answered(hcm, WITH_SERVER)[b"server"] == with_server
    assert answered(hcm).get(b"server") == without


def test_the_server_may_have_a_name_of_its_own() -> None:
    assert answered({"server_name": "mine"}, WITH_SERVER)[b"server"] == b"mine"


def test_via_is_appended_to_the_response_too() -> None:
    assert answered({"via": "me"})[b"via"] == b"me"
    response = b"HTTP/1.1 200 OK\r\nvia: 1.1 x\r\ncontent-length: 0\r\n\r\n"
    assert answered({"via": "me"}, response)[b"via"] == b"1.1 x, me"


def test_the_request_id_in_the_response() -> None:
    assert b"x-request-id" not in answered({})
    found = answered({"always_set_request_id_in_response": True})[b"x-request-id"]
    assert re.fullmatch(rb"[0-9a-f-]{36}", found)


def test_an_origins_date_stays_and_hop_by_hop_fields_go() -> None:
    fields = answered(
        {},
        b"HTTP/1.1 200 OK\r\ndate: then\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\n"
        b"proxy-connection: keep-alive\r\nupgrade: x\r\ncontent-length: 0\r\n\r\n",
    )
    assert fields[b"date"] == b"then"
    assert not {b"connection", b"keep-alive", b"proxy-connection", b"upgrade"} & set(fields)
