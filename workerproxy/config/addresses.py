"""What is wrong with an address, beyond what its type allows. Returns a text for the report, or nothing."""

from __future__ import annotations

import ipaddress
from typing import Any, Final, NamedTuple

_MAX_PIPE_PATH: Final = 107  # sockaddr_un.sun_path, without the final NUL


class AddressProblem(NamedTuple):
    """``field``: path of the field below the address; the rest as in ``ConfigError``."""

    field: tuple[str, ...]
    message: str
    expected: str = ""
    found: str = ""
    hint: str = ""


def listen_problem(address: Any) -> AddressProblem | None:
    """What keeps a ``core.v3.Address`` from being listened on."""
    kind = address.WhichOneof("address")
    if kind == "pipe":
        return _pipe_problem(address.pipe)
    if kind != "socket_address":
        return None
    return _ip_problem(address.socket_address, "an IP address such as 127.0.0.1 or 0.0.0.0")


def endpoint_problem(address: Any, *, resolved: bool) -> AddressProblem | None:
    """What keeps a ``core.v3.Address`` from being connected to; ``resolved``: the cluster resolves names (DNS)."""
    kind = address.WhichOneof("address")
    if kind is None:
        return AddressProblem((), "missing", "an address with socket_address or pipe")
    if kind == "pipe":
        if resolved:
            return AddressProblem(("pipe",), "a DNS cluster resolves host names; a pipe belongs in a STATIC cluster")
        return _pipe_problem(address.pipe)
    if kind != "socket_address":
        return None
    if not resolved:
        hint = "for a host name, set the cluster's type to STRICT_DNS"
        return _ip_problem(address.socket_address, "an IP address, as the cluster is STATIC", hint)
    host = address.socket_address.address
    if not is_ip(host) and not _is_host_name(host):
        field = ("socket_address", "address")
        return AddressProblem(field, "not a host name", "a host name or an IP address", repr(host))
    return _port_problem(address.socket_address)


def is_ip(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def canonical(address: Any) -> str:
    """The same text for addresses that cannot be bound twice; ``""`` where the system chooses the port."""
    if address.WhichOneof("address") == "pipe":
        return f"unix:{address.pipe.path}"
    socket_address = address.socket_address
    if not socket_address.port_value or not is_ip(socket_address.address):
        return ""
    return f"{ipaddress.ip_address(socket_address.address).compressed}:{socket_address.port_value}"


def _ip_problem(socket_address: Any, expected: str, hint: str = "") -> AddressProblem | None:
    if not is_ip(socket_address.address):
        field = ("socket_address", "address")
        bare = socket_address.address.strip("[]")
        hint = "write it without brackets" if bare != socket_address.address and is_ip(bare) else hint
        return AddressProblem(field, "not an IP address", expected, repr(socket_address.address), hint)
    return _port_problem(socket_address)


def _port_problem(socket_address: Any) -> AddressProblem | None:
    if socket_address.WhichOneof("port_specifier") == "named_port":
        return AddressProblem(("socket_address", "named_port"), "named ports are not resolved", "port_value")
    return None


def _pipe_problem(pipe: Any) -> AddressProblem | None:
    if len(pipe.path.encode()) > _MAX_PIPE_PATH:
        return AddressProblem(("pipe", "path"), "too long for a Unix socket", f"at most {_MAX_PIPE_PATH} bytes")
    if pipe.path.startswith("@") and pipe.mode:
        return AddressProblem(("pipe", "mode"), "an abstract socket has no file and no mode")
    return None


def _is_host_name(text: str) -> bool:
    labels = text.rstrip(".").split(".")
    return len(text) <= 253 and all(0 < len(label) <= 63 and not set(label) - _HOST_CHARACTERS for label in labels)


_HOST_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
