"""The control pipe: any split of the bytes, descriptors beside them, bounds, and how it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from workerproxy.control import channel as channel_module
from workerproxy.control import messages as m
from workerproxy.control.channel import Channel, ChannelClosedError, FrameDecoder, encode_frame

PREPARE = m.Prepare(7, b"\x00" * 300, {"c": [("::1", 80, 0)]}, {"c/default/requests": 2}, {"l": [1]})
TALK = [m.Commit(7), PREPARE, m.Stop()]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


class End:
    """One end with everything it heard."""

    def __init__(self, sock: socket.socket, max_queued: int = channel_module.MAX_QUEUED) -> None:
        self.heard: list[tuple[m.Message, int]] = []
        self.closed: list[str] = []
        self.something = asyncio.Event()
        self.channel = Channel(sock, asyncio.get_running_loop(), self._message, self._close, max_queued)

    def _message(self, message: m.Message, request_id: int) -> None:
        self.heard.append((message, request_id))
        self.something.set()

    def _close(self, why: str) -> None:
        self.closed.append(why)
        self.something.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.something.clear()
                await self.something.wait()


def ends() -> tuple[End, End]:
    ours, theirs = socket.socketpair()
    return End(ours), End(theirs)


@pytest.mark.parametrize("step", [1, 2, 7, 13, 10_000])
def test_frames_are_the_same_however_the_bytes_are_split(step: int) -> None:
    data = b"".join(encode_frame(message, number) for number, message in enumerate(TALK))
    decoder = FrameDecoder()
    frames = [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step], [])]
    assert frames == list(enumerate(TALK))


def test_descriptors_belong_to_the_frame_that_announces_them() -> None:
    read_end, write_end = os.pipe()
    data = encode_frame(m.Commit(1)) + encode_frame(m.ListenerSockets([1, 1], [0, 1], fds=[8, 9]))
    try:
        frames = FrameDecoder().feed(data, [read_end, write_end])
        assert [frame.message.fds for frame in frames] == [[], [read_end, write_end]]
    finally:
        os.close(read_end)
        os.close(write_end)


def test_descriptors_of_no_complete_frame_are_closed() -> None:
    read_end, write_end = os.pipe()
    decoder = FrameDecoder()
    decoder.feed(encode_frame(m.Commit(1))[:3], [read_end, write_end])
    decoder.close()
    for fd in (read_end, write_end):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (struct.pack("=IBBHI", 0, m.PROTOCOL_VERSION + 1, 0, 4, 0), "version"),
        (struct.pack("=IBBHI", channel_module.MAX_PAYLOAD + 1, m.PROTOCOL_VERSION, 0, 4, 0), "over the limit"),
        (struct.pack("=IBBHI", 0, m.PROTOCOL_VERSION, 2, 4, 0), "2 descriptors announced, 0 came"),
        (struct.pack("=IBBHI", 0, m.PROTOCOL_VERSION, 0, 4000, 0), "unknown message type 4000"),
    ],
)
def test_what_is_no_frame_of_this_protocol_is_refused(header: bytes, why: str) -> None:
    with pytest.raises(m.ProtocolError, match=why):
        FrameDecoder().feed(header, [])


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(m.ProtocolError, match=r"Prepare of .* over the limit"):
        encode_frame(m.Prepare(1, bytes(channel_module.MAX_PAYLOAD + 1), {}, {}, {}))


def test_a_question_gets_its_own_answer_and_other_messages_come_as_they_are() -> None:
    async def talk() -> None:
        main, worker = ends()
        first, second = main.channel.ask(m.Prepare(1, b"", {}, {}, {})), main.channel.ask(m.Heartbeat())
        await worker.until(lambda: len(worker.heard) == 2)
        (_, first_id), (_, second_id) = worker.heard
        worker.channel.send(m.HeartbeatAck(1.0, 2), second_id)
        worker.channel.send(m.Draining(3))
        worker.channel.send(m.Prepared(1), first_id)
        assert await second == m.HeartbeatAck(1.0, 2)
        assert await first == m.Prepared(1)
        assert main.heard == [(m.Draining(3), 0)]
        main.channel.close()
        worker.channel.close()

    run(talk)


def test_sockets_pass_through_and_work_on_the_other_side() -> None:
    async def talk() -> None:
        main, worker = ends()
        listener = socket.create_server(("127.0.0.1", 0))
        main.channel.send(m.ListenerSockets([1], [0], fds=[listener.fileno()]))
        address = listener.getsockname()
        listener.close()
        await worker.until(lambda: bool(worker.heard))
        message, _ = worker.heard[0]
        with socket.socket(fileno=message.fds[0]) as copy:
            assert copy.getsockname() == address
            assert not copy.get_inheritable()
        main.channel.close()
        worker.channel.close()

    run(talk)


def test_a_peer_that_reads_late_gets_everything_in_order_with_its_descriptors() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        main = End(ours)
        big = m.Prepare(1, bytes(1 << 20), {}, {}, {})
        main.channel.send(big)
        read_end, write_end = os.pipe()
        main.channel.send(m.ListenerSockets([1], [0], fds=[read_end]))
        main.channel.send(m.Commit(1))
        os.close(read_end)
        worker = End(theirs)
        await worker.until(lambda: len(worker.heard) == 3)
        assert [message for message, _ in worker.heard] == [big, m.ListenerSockets([1], [0]), m.Commit(1)]
        os.write(write_end, b"x")
        assert os.read(worker.heard[1][0].fds[0], 1) == b"x"
        os.close(write_end)
        os.close(worker.heard[1][0].fds[0])
        main.channel.close()
        worker.channel.close()

    run(talk)


def test_the_end_of_the_peer_fails_open_questions_and_is_told_once() -> None:
    async def talk() -> None:
        main, worker = ends()
        question = main.channel.ask(m.Heartbeat())
        worker.channel.close()
        with pytest.raises(ChannelClosedError):
            await question
        assert len(main.closed) == 1
        assert main.channel.closed
        with pytest.raises(ChannelClosedError):
            await main.channel.ask(m.Heartbeat())
        main.channel.send(m.Stop())
        assert len(main.closed) == 1

    run(talk)


def test_garbage_ends_the_channel_with_the_reason() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        main = End(ours)
        theirs.send(b"GET / HTTP/1.1\r\n\r\n")
        await main.until(lambda: bool(main.closed))
        assert "control protocol" in main.closed[0]
        theirs.close()

    run(talk)


def test_a_peer_that_never_reads_is_given_up() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        main = End(ours, max_queued=1 << 20)
        for _ in range(3):
            main.channel.send(m.Prepare(1, bytes(1 << 20), {}, {}, {}))
        assert main.closed == ["the peer does not read its control pipe"]
        theirs.close()

    run(talk)
