"""One end of the control pipe: frames of typed messages over a Unix stream socket, descriptors beside them.

A frame is a fixed header and a payload. Descriptors are attached to the frame's first byte, so they have arrived when
its header has. Writing never blocks: what the socket does not take waits here, up to a bound. Anything that is no frame
of this protocol ends the channel. Knows no meaning of any message: ``control.messages`` has the table.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from workerproxy.control.messages import PROTOCOL_VERSION, Message, ProtocolError, decode, encode

MAX_PAYLOAD: Final = 64 << 20  # bytes
MAX_FDS: Final = 200  # per frame; Linux takes 253
MAX_QUEUED: Final = 128 << 20  # bytes waiting for a peer that does not read; then the peer counts as lost

_HEADER: Final = struct.Struct("=IBBHI")  # payload bytes, protocol version, descriptors, message type, request id
_READ: Final = 1 << 16
_FD_SPACE: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class ChannelClosedError(Exception):
    """The other end is gone, or was given up; the text says why."""


class Frame(NamedTuple):
    request_id: int  # 0: no question and no answer
    message: Message


class FrameDecoder:
    """Bytes and descriptors in, frames out. Takes any split of the bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: list[int]) -> list[Frame]:
        """The frames that are complete now. Raises ``ProtocolError``."""
        self._buffer += data
        self._fds.extend(fds)
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def close(self) -> None:
        """Close descriptors that belong to no complete frame."""
        while self._fds:
            os.close(self._fds.popleft())

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < _HEADER.size:
            return None
        size, version, fd_count, type_number, request_id = _HEADER.unpack_from(buffer)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"the peer speaks version {version} of the control protocol, not {PROTOCOL_VERSION}")
        if size > MAX_PAYLOAD or fd_count > MAX_FDS:
            raise ProtocolError(f"a frame of {size} bytes and {fd_count} descriptors is over the limit")
        if len(buffer) < _HEADER.size + size:
            return None
        if len(self._fds) < fd_count:
            raise ProtocolError(f"{fd_count} descriptors announced, {len(self._fds)} came")
        payload = bytes(memoryview(buffer)[_HEADER.size : _HEADER.size + size])
        del buffer[: _HEADER.size + size]
        fds = [self._fds.popleft() for _ in range(fd_count)]
        try:
            return Frame(request_id, decode(type_number, payload, fds))
        except ProtocolError:
            for fd in fds:
                os.close(fd)
            raise


def encode_frame(message: Message, request_id: int = 0) -> bytes:
    """The bytes of a frame; its descriptors go beside the first of them. Raises ``ProtocolError`` over the limits."""
    payload = encode(message)
    if len(payload) > MAX_PAYLOAD or len(message.fds) > MAX_FDS:
        raise ProtocolError(f"{type(message).__name__} of {len(payload)} bytes is over the limit")
    header = _HEADER.pack(len(payload), PROTOCOL_VERSION, len(message.fds), message.type_number, request_id)
    return header + payload


@dataclass(slots=True)
class _Waiting:
    data: memoryview[int]
    fds: list[int]  # not sent yet


class Channel:
    """A connected, non-blocking end. ``on_message(message, request_id)`` gets what is no answer to a question.

    ``on_close(why)`` is called once, unless this side closed the channel. A caller's descriptors may be closed as soon
    as ``send`` has returned.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[Message, int], None],
        on_close: Callable[[str], None],
        max_queued: int = MAX_QUEUED,
        decoder: FrameDecoder | None = None,
    ) -> None:
        """``decoder``: of whoever has read from the socket before; what it has of a frame belongs to the next one."""
        self._sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = decoder or FrameDecoder()
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._max_queued = max_queued
        self._questions: dict[int, asyncio.Future[Message]] = {}
        self._last_id = 0
        self._deaf = False  # the peer: nothing more can be sent to it
        self.closed = False
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._on_readable)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._queued} bytes queued, {len(self._questions)} questions open"
        return f"<Channel {state}>"

    def send(self, message: Message, request_id: int = 0) -> None:
        """Send now, or as soon as the peer reads. On a closed channel nothing happens."""
        if self.closed or self._deaf:
            return
        waiting = _Waiting(memoryview(encode_frame(message, request_id)), message.fds)
        if not self._queue and self._write_some(waiting):
            return
        waiting.fds = [os.dup(fd) for fd in waiting.fds]  # the caller may close its own after this call
        self._queue.append(waiting)
        self._queued += len(waiting.data)
        if self._queued > self._max_queued:
            self._fail("the peer does not read its control pipe")
        elif len(self._queue) == 1:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def ask(self, message: Message) -> asyncio.Future[Message]:
        """Send a question; the future gets its answer, or ``ChannelClosedError``. Cancelling it forgets the answer."""
        answer: asyncio.Future[Message] = self._loop.create_future()
        if self.closed:
            answer.set_exception(ChannelClosedError("the control pipe is closed"))
            return answer
        self._last_id += 1
        request_id = self._last_id
        self._questions[request_id] = answer
        answer.add_done_callback(lambda _: self._questions.pop(request_id, None))
        self.send(message, request_id)
        return answer

    def close(self) -> None:
        """Give up this end; open questions fail."""
        self._shut("the control pipe was closed")

    def _write_some(self, waiting: _Waiting) -> bool:
        """Give the socket what it takes of one frame; says whether nothing is left to do for it."""
        while waiting.data:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", waiting.fds))] if waiting.fds else []
            try:
                sent = self._sock.sendmsg([waiting.data], rights)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                # The peer is gone. What it has said before is read first; at its end the channel closes.
                self._deaf = True
                return True
            waiting.fds = []
            waiting.data = waiting.data[sent:]
        return True

    def _on_writable(self) -> None:
        while self._queue:
            waiting = self._queue[0]
            before, owned = len(waiting.data), waiting.fds
            done = self._write_some(waiting)
            if owned and not waiting.fds:
                _close_all(owned)
            if self._deaf:
                self._forget_queue()
                break
            self._queued -= before - len(waiting.data)
            if not done:
                return
            self._queue.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _on_readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_READ, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(f"the peer is gone: {error.strerror}")
            return
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if not data:
            self._fail("the peer closed the control pipe")
            return
        try:
            frames = self._decoder.feed(data, fds.tolist())
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("descriptors were lost: too many at once, or this process has too many open")
        except ProtocolError as error:
            self._fail(str(error))
            return
        for frame in frames:
            if self.closed:
                _close_all(frame.message.fds)
            else:
                self._deliver(frame)

    def _deliver(self, frame: Frame) -> None:
        question = self._questions.pop(frame.request_id, None) if frame.request_id else None
        if question is None:
            self._on_message(frame.message, frame.request_id)
        elif not question.done():
            question.set_result(frame.message)

    def _fail(self, why: str) -> None:
        if not self.closed:
            self._shut(why)
            self._on_close(why)

    def _shut(self, why: str) -> None:
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(OSError):
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._decoder.close()
        self._forget_queue()
        questions, self._questions = self._questions, {}
        for answer in questions.values():
            if not answer.done():
                answer.set_exception(ChannelClosedError(why))

    def _forget_queue(self) -> None:
        for waiting in self._queue:
            _close_all(waiting.fds)
        self._queue.clear()
        self._queued = 0


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
