"""How listening sockets are given up without resetting anyone, and how new connections are steered among them.

A connection the client takes for established can still be reset when its listening socket is closed: its last packet of
the handshake may be on the way, or it may have been queued after the last ``accept``. So the kernel is first told to
ignore new handshakes (``refuse_new``); those under way end within moments, are accepted, and only then the socket is
closed. A client that begins in between repeats its SYN a second later, and is served by whoever listens then, or
refused.

Classic BPF programs of a few instructions, attached with ``setsockopt``. Where the kernel takes no filter from a plain
user, a minimum TTL that no packet from elsewhere has (``IP_MINTTL``) does the same; but a connection that is accepted
meanwhile inherits it, and must be freed from it (``hear_again``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final

SETTLE_S: Final = 0.25  # for handshakes under way to come to their end

# <linux/filter.h>, <asm-generic/socket.h>
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_DETACH_REUSEPORT_BPF: Final = 68
_IP_MINTTL: Final = 21
_IPV6_MINHOPCOUNT: Final = 73
_HIGHEST_TTL: Final = 255
_LD_BYTE: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_MOD: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_RETURN_A: Final = 0x16  # BPF_RET | BPF_A
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_TCP_FLAGS_AT: Final = 13
_SYN: Final = 0x02
_SYN_AND_ACK: Final = 0x12

_INSTRUCTION: Final = struct.Struct("=HBBI")
_Instructions = Sequence[tuple[int, int, int, int]]


def refuse_new(sock: socket.socket) -> None:
    """Have the kernel ignore handshakes that begin from now on; for all who share the socket. TCP only, else nothing.

    Raises ``OSError`` when the kernel can do neither.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        _refuse_by_filter(sock)
    except PermissionError:
        sock.setsockopt(*_min_ttl(sock), _HIGHEST_TTL)


def deafens(listening: socket.socket) -> bool:
    """Whether connections that are accepted from this socket now have to be freed with ``hear_again``."""
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return listening.getsockopt(*_min_ttl(listening)) == _HIGHEST_TTL


def hear_again(accepted: socket.socket) -> None:
    """Free a connection from what it has inherited; what was dropped its peer sends again."""
    with contextlib.suppress(OSError):  # it is gone already
        accepted.setsockopt(*_min_ttl(accepted), 0)


def _min_ttl(sock: socket.socket) -> tuple[int, int]:
    if sock.family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT
    return socket.IPPROTO_IP, _IP_MINTTL


def _refuse_by_filter(sock: socket.socket) -> None:
    program = (
        (_LD_BYTE, 0, 0, _TCP_FLAGS_AT),
        (_AND, 0, 0, _SYN_AND_ACK),
        (_JUMP_IF_EQUAL, 0, 1, _SYN),
        (_RETURN, 0, 0, 0),  # a first SYN: dropped
        (_RETURN, 0, 0, 0xFFFFFFFF),  # anything else passes
    )
    _attach(sock, _SO_ATTACH_FILTER, program)


def take_new(sock: socket.socket) -> None:
    """Take ``refuse_new`` back."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        if deafens(sock):
            sock.setsockopt(*_min_ttl(sock), 0)
        with contextlib.suppress(PermissionError):  # then there is none
            _detach(sock, _SO_DETACH_FILTER, errno.ENOENT)


def steer_to_first(sock: socket.socket, count: int) -> None:
    """New connections of this SO_REUSEPORT group go to its first ``count`` sockets only, each as likely.

    In the order in which the sockets began to listen. Raises ``OSError``.
    """
    _attach(sock, _SO_ATTACH_REUSEPORT_CBPF, ((_LD_WORD, 0, 0, _RANDOM), (_MOD, 0, 0, count), (_RETURN_A, 0, 0, 0)))


def steer_to_all(sock: socket.socket) -> None:
    """The kernel's own choice among all sockets of the group again."""
    _detach(sock, _SO_DETACH_REUSEPORT_BPF, errno.ENOENT)


def _attach(sock: socket.socket, option: int, instructions: _Instructions) -> None:
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in instructions))
    # struct sock_fprog: the number of instructions, and where they are.
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(instructions), ctypes.addressof(code)))


def _detach(sock: socket.socket, option: int, nothing_there: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 0)
    except OSError as error:
        if error.errno != nothing_there:
            raise
