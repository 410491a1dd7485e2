"""Which worker reads which listening sockets. A pure function, asked again whenever a worker comes or goes.

Socket i of a bind is worker i's. A socket whose worker is not there (it crash-loops, or there are fewer workers now) is
read by another one, so that no accept queue is ever without a reader and no socket has to be closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class SocketName(NamedTuple):
    """One listening socket: the bind it belongs to, and its place among the bind's sockets."""

    bind_id: int
    position: int


def shares(binds: Iterable[tuple[int, int, bool]], readers: Sequence[int]) -> dict[int, set[SocketName]]:
    """Reader -> the sockets it reads. ``binds``: (id, sockets, shared by all readers); ``readers``: worker numbers."""
    result: dict[int, set[SocketName]] = {reader: set() for reader in readers}
    if not readers:
        return result
    in_order = sorted(readers)
    for bind_id, count, shared in binds:
        for index in range(count):
            name = SocketName(bind_id, index)
            if shared:
                for reader in readers:
                    result[reader].add(name)
            else:
                result[index if index in result else in_order[index % len(in_order)]].add(name)
    return result
