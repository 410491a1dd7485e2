"""The limits board: a worker counts in its own cell, everybody sees the sum."""

from __future__ import annotations

import mmap

import pytest

from workerproxy.control.board import MAX_ROWS, MAX_SLOTS, BoardOwner, LimitsBoard, board_bytes


def boards(workers: int) -> tuple[BoardOwner, list[LimitsBoard]]:
    memory = mmap.mmap(-1, board_bytes(workers))
    owner = BoardOwner(memory)
    rows = [owner.take_row() for _ in range(workers)]
    return owner, [LimitsBoard(memory, row, workers) for row in rows]


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
    owner.clear_row(0, 2)
    assert (owner.total(0), owner.total(1)) == (1, 1)
    assert second.cell(1).total() == 1


@pytest.mark.parametrize("slot", [-1, MAX_SLOTS])
def test_a_slot_outside_the_board_is_an_error(slot: int) -> None:
    _, (board,) = boards(1)
    with pytest.raises(IndexError):
        board.cell(slot)


def test_a_worker_that_comes_later_is_summed_up_by_cells_that_are_in_use() -> None:
    memory = mmap.mmap(-1, board_bytes(3))
    first, third = LimitsBoard(memory, 0, 1), LimitsBoard(memory, 2, 3)
    cell = first.cell(7)
    cell.increment()
    third.cell(7).increment()
    assert cell.total() == 1
    first.set_rows(3)
    assert (cell.total(), cell.others()) == (2, 1)
    assert first.cell(8).total() == 0
    first.set_rows(2)
    assert (cell.total(), cell.others(), cell.value) == (1, 0, 1)
    assert repr(first) == "<LimitsBoard row 0 of 2>"


def test_the_lowest_free_row_is_taken() -> None:
    owner = BoardOwner(mmap.mmap(-1, board_bytes(1)))
    assert owner.rows == 0
    assert owner.total(0) == 0
    assert [owner.take_row() for _ in range(3)] == [0, 1, 2]
    owner.free_row(1)
    assert owner.rows == 3
    assert owner.take_row() == 1
    owner.free_row(2)
    owner.free_row(1)
    assert owner.rows == 1
    assert repr(owner) == "<BoardOwner rows [0]>"


def test_a_row_can_be_reserved_for_a_worker_that_lives_already() -> None:
    owner = BoardOwner(mmap.mmap(-1, board_bytes(1)))
    owner.reserve_row(1)
    assert owner.rows == 2
    assert [owner.take_row(), owner.take_row()] == [0, 2]
    for row in (1, -1, MAX_ROWS):
        with pytest.raises(ValueError, match="not free"):
            owner.reserve_row(row)


def test_there_are_no_more_rows_than_the_board_has() -> None:
    owner = BoardOwner(mmap.mmap(-1, board_bytes(1)))
    for _ in range(MAX_ROWS):
        owner.take_row()
    with pytest.raises(RuntimeError, match="256 workers"):
        owner.take_row()
    owner.free_row(9)
    assert owner.take_row() == 9
