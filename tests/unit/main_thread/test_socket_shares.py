"""Every listening socket has a reader, and a worker that is there reads its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workerproxy.main_thread.socket_shares import SocketName, shares


def test_socket_i_is_worker_is() -> None:
    assert shares([(7, 2, False)], [0, 1]) == {0: {SocketName(7, 0)}, 1: {SocketName(7, 1)}}


def test_what_a_missing_worker_would_read_another_one_reads() -> None:
    assert shares([(1, 3, False)], [0, 2]) == {
        0: {SocketName(1, 0)},
        2: {SocketName(1, 1), SocketName(1, 2)},
    }


def test_all_read_a_shared_socket() -> None:
    assert shares([(1, 1, True)], [0, 1]) == {0: {SocketName(1, 0)}, 1: {SocketName(1, 0)}}


def test_without_readers_nothing_is_read() -> None:
    assert shares([(1, 1, False)], []) == {}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=4),
    st.sets(st.integers(0, 8), min_size=1),
)
def test_no_socket_is_without_a_reader_and_only_shared_ones_have_two(
    binds: list[tuple[int, bool]], readers: set[int]
) -> None:
    numbered = [(bind_id, count, shared) for bind_id, (count, shared) in enumerate(binds)]
    result = shares(numbered, sorted(readers))
    assert result.keys() == readers
    for bind_id, count, shared in numbered:
        for position in range(count):
            found = [reader for reader, names in result.items() if SocketName(bind_id, position) in names]
            assert len(found) == (len(readers) if shared else 1)
            if not shared and position in readers:
                assert found == [position]
