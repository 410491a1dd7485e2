"""The limits board: a worker counts in its own cell, everybody sees the sum."""

from __future__ import annotations

import mmap

import pytest

from workerproxy.control.board import MAX_SLOTS, BoardOwner, LimitsBoard, board_bytes


def boards(workers: int) -> tuple[BoardOwner, list[LimitsBoard]]:
    memory = mmap.mmap(-1, board_bytes(workers))
    return BoardOwner(memory, workers), [LimitsBoard(memory, number, workers) for number in range(workers)]


def test_the_sum_is_over_all_workers() -> None:
    owner, (first, second, third) = boards(3)
    for board, times in ((first, 1), (second, 2), (third, 3)):
        for _ in range(times):
            board.cell(7).increment()
    first.cell(7).decrement()
    first.cell(8).increment()
    assert (second.cell(7).value, second.cell(7).total(), second.cell(7).others()) == (2, 5, 3)
    assert (owner.total(7), owner.total(8)) == (5, 1)


def test_a_slot_is_the_same_object_every_time() -> None:
    _, (board,) = boards(1)
    assert board.cell(3) is board.cell(3)


def test_a_dead_workers_cells_are_cleared_and_nobody_elses() -> None:
    owner, (first, second) = boards(2)
    for slot in (0, 1):
        first.cell(slot).increment()
        second.cell(slot).increment()
    owner.clear_worker(0, 2)
    assert (owner.total(0), owner.total(1)) == (1, 1)
    assert second.cell(1).total() == 1


@pytest.mark.parametrize("slot", [-1, MAX_SLOTS])
def test_a_slot_outside_the_board_is_an_error(slot: int) -> None:
    _, (board,) = boards(1)
    with pytest.raises(IndexError):
        board.cell(slot)
