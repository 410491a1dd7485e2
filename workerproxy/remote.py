"""The way to a running workerproxy: its admin interface over HTTP, or a signal to its main process.

Knows where either may be found and how to ask, not what is asked: that is ``workerproxy.subcommands``. Whatever goes
wrong is a ``RemoteError`` whose one line says what was tried and where. Only the standard library, so that a command
starts quickly; the exception are binary and text protobuf configurations, which need the configuration model.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workerproxy.config.document import MAP, NUMBER, STRING, Document, Node
from workerproxy.config.json_text import read_json
from workerproxy.config.yaml_text import read_yaml

CONNECT_TIMEOUT_S: Final = 5.0  # the main process may be busy, but its kernel is not
MAIN_TITLES: Final = (b"workerproxy: main", b"workerproxy: keeper")  # what takes signals, as /proc shows it
SERVER: Final = "workerproxy"  # the admin interface's ``server`` header

_NO_HOST: Final = re.compile(r"[\x00-\x20\x7f]")
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # where to connect to what listens everywhere
# The block of one top-level key: its line, and all that follow which are indented, empty, or a comment.
_ADMIN_BLOCK: Final = re.compile(r"^admin[ \t]*:.*\n?(?:(?:[ \t\r#].*)?\n|[ \t#].*\Z)*", re.MULTILINE)


class RemoteError(Exception):
    """The process cannot be found or asked. One line, for the operator."""


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where an admin interface listens: ``host`` and ``port``, or the path of a Unix socket (``@``: abstract)."""

    host: str = ""
    port: int = 0
    path: str = ""
    source: str = ""  # who says so, for messages

    def __str__(self) -> str:
        where = self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")
        return f"{where} ({self.source})" if self.source else where


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str


# --- where it is


def parse_admin_address(text: str, source: str = "") -> AdminAddress:
    """``HOST:PORT``, ``[::1]:PORT``, ``:PORT``, ``/path/to.sock`` or ``@abstract``. Raises ``RemoteError``."""
    if text.startswith(("/", "./", "@")):
        return AdminAddress(path=text, source=source)
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        port = ""
    if _NO_HOST.search(host) or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise RemoteError(f"{text!r} is not an admin address; expected HOST:PORT, /path/to.sock or @abstract")
    return AdminAddress(_ANY.get(host, host), int(port), source=source)


def address_in_file(path: str) -> AdminAddress:
    """What a process has written to its ``--admin-address-path``. Raises ``RemoteError``."""
    text = _read(path).decode(errors="replace").strip()
    if not text:
        raise RemoteError(f"{path} is empty: the process has no admin address, or has not started yet")
    return parse_admin_address(text, f"from {path}")


def address_in_config(path: str) -> AdminAddress:
    """``admin.address`` of a bootstrap file, also of one that is wrong elsewhere. Raises ``RemoteError``.

    The rest of the file is not looked at: what is wrong with it, the running process is to say.
    """
    data = _read(path)
    extension = path.rpartition("/")[2].lower().rpartition(".")[2]
    if extension in ("pb", "pb_text", "textproto"):
        return _of_message(path, data, binary=extension == "pb")
    return _of_text(path, data.decode(errors="replace"), extension, f"admin address of {path}")


def default_address() -> AdminAddress:
    """Of the embedded default configuration."""
    from workerproxy.config.load import EMBEDDED_SOURCE, default_text

    source = "of the embedded default; others are found with -c, --admin, --admin-address-path or --pidfile"
    return _of_text(EMBEDDED_SOURCE, default_text(), "yaml", source)


def pid_in_file(path: str) -> int:
    """The main process that a ``--pidfile`` names. Raises ``RemoteError``."""
    text = _read(path).decode(errors="replace").strip()
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise RemoteError(f"{path} does not hold a process id")
    return int(text)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RemoteError(f"{path} cannot be read: {error.strerror}") from None


def _of_text(file: str, text: str, extension: str, source: str) -> AdminAddress:
    if extension == "json" or (extension not in ("yaml", "yml") and text.lstrip()[:1] == "{"):
        document = read_json(file, text)
    else:
        document = read_yaml(file, text)
        if document.root is None:
            block = _ADMIN_BLOCK.search(text)
            document = read_yaml(file, block[0]) if block else document
    if document.root is None:
        raise RemoteError(f"the admin address cannot be found: {_reason(document)}; name it with --admin")
    address = _field(document.root, "admin", "address")
    if address is None:
        raise RemoteError(f"{file} has no admin address; name it with --admin, or the process with --pidfile or --pid")
    path = _scalar(address, "pipe", "path")
    if path:
        return AdminAddress(path=path, source=source)
    host = _scalar(address, "socket_address", "address")
    port = _scalar(address, "socket_address", "port_value")
    return _of_parts(file, host, port, source)


def _of_parts(file: str, host: str, port: str, source: str) -> AdminAddress:
    if port == "0":
        raise RemoteError(f"the admin port of {file} is chosen by the system; find it with --admin-address-path")
    try:
        return parse_admin_address(f"[{host}]:{port}", source)
    except RemoteError:
        raise RemoteError(f"the admin address of {file} makes no sense; name it with --admin") from None


def _of_message(file: str, data: bytes, *, binary: bool) -> AdminAddress:
    from envoy.config.bootstrap.v3 import bootstrap_pb2
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    bootstrap = bootstrap_pb2.Bootstrap()
    try:
        if binary:
            bootstrap.ParseFromString(data)
        else:
            text_format.Parse(data, bootstrap, allow_unknown_field=True)
    except (DecodeError, text_format.ParseError) as error:
        raise RemoteError(f"the admin address cannot be found: {file}: {error}; name it with --admin") from None
    address = bootstrap.admin.address
    source = f"admin address of {file}"
    if address.WhichOneof("address") == "pipe":
        return AdminAddress(path=address.pipe.path, source=source)
    return _of_parts(file, address.socket_address.address, str(address.socket_address.port_value), source)


def _reason(document: Document) -> str:
    return str(document.errors[0]) if document.errors else f"{document.file} is empty"


def _field(node: Node, *names: str) -> Node | None:
    """The value below ``names``, each in either spelling of protobuf's JSON."""
    found: Node | None = node
    for name in names:
        if found is None or found.kind != MAP:
            return None
        first, *rest = name.split("_")
        keys = (name, first + "".join(map(str.title, rest)))
        found = next((entry.node for entry in found.value if entry.key in keys), None)
    return found


def _scalar(node: Node, *names: str) -> str:
    found = _field(node, *names)
    return found.value if found is not None and found.kind in (STRING, NUMBER) else ""


# --- asking its admin interface


class _Connection(http.client.HTTPConnection):
    """To TCP as it is, to a Unix socket by hand. Never connects a second time: what is asked is asked once."""

    auto_open = 0

    def __init__(self, address: AdminAddress) -> None:
        super().__init__(address.host or "localhost", address.port or None, timeout=CONNECT_TIMEOUT_S)
        self._path = address.path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect("\0" + self._path[1:] if self._path.startswith("@") else self._path)


def ask(address: AdminAddress, method: str, target: str, timeout_s: float) -> Answer:
    """One request; its answer may take ``timeout_s``. Raises ``RemoteError`` when a workerproxy does not answer."""
    with contextlib.closing(_Connection(address)) as connection:
        _connect(connection, address)
        connection.sock.settimeout(timeout_s)
        try:
            connection.request(method, target, headers={"connection": "close"})
            response = connection.getresponse()
            answer = Answer(response.status, response.read().decode(errors="replace"))
        except TimeoutError:
            raise RemoteError(f"no answer from {address} within {timeout_s:g} s; what was asked for goes on") from None
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError):
            raise RemoteError(f"{address} closed the connection without an answer; its log says why") from None
        except http.client.HTTPException:
            raise RemoteError(f"{address} is not the admin interface of a workerproxy: not HTTP") from None
        server = response.getheader("server", "")
    if server != SERVER:
        other = f"it calls itself {server}" if server else "it does not say what it is"
        raise RemoteError(f"{address} is not the admin interface of a workerproxy: {other}")
    return answer


def _connect(connection: _Connection, address: AdminAddress) -> None:
    try:
        connection.connect()
    except TimeoutError:
        raise RemoteError(f"{address} does not answer: not connected within {CONNECT_TIMEOUT_S:g} s") from None
    except ConnectionRefusedError:
        raise RemoteError(f"nobody answers at {address}: connection refused") from None
    except FileNotFoundError:
        raise RemoteError(f"nobody answers at {address}: no such socket") from None
    except PermissionError:
        raise RemoteError(f"{address}: permission denied; try as the user of that process, or as root") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path, a name too long for DNS
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RemoteError(f"cannot connect to {address}: {reason}") from None


# --- signalling its main process


def signal_main(pid: int, number: signal.Signals) -> None:
    """Send a signal to a main process, or its keeper. Raises ``RemoteError`` when it is none, or is not ready for it.

    A stale id may be anybody's by now, and a main process that has just started would be killed by SIGHUP.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        raise RemoteError(f"there is no process {pid}") from None
    try:
        # The descriptor holds the process, so what is seen now is what gets the signal.
        command_line = _proc(pid, "cmdline").replace(b"\0", b" ").strip()
        if not command_line.startswith(MAIN_TITLES):
            other = f"; it is {command_line.decode(errors='replace')[:60]!r}" if command_line else ""
            raise RemoteError(f"process {pid} is not the main process of a workerproxy{other}")
        if not _takes(pid, number):
            raise RemoteError(f"process {pid} does not take {number.name}: it is starting or ending; try again")
        signal.pidfd_send_signal(pidfd, number)
    except PermissionError:
        raise RemoteError(f"process {pid}: permission denied; try as its user, or as root") from None
    except ProcessLookupError:
        raise RemoteError(f"there is no process {pid}") from None
    finally:
        os.close(pidfd)


def _takes(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, or has put it off until it has one."""
    masks = re.findall(rb"^Sig(?:Cgt|Blk):\s*([0-9a-f]+)", _proc(pid, "status"), re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def _proc(pid: int, name: str) -> bytes:
    """A file in /proc; empty for a process that has ended, or that is hidden from us."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
