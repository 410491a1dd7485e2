"""The shared board: numbers that must hold over all workers, first of all the circuit breakers' limits.

A memory file mapped by all processes. A limit is a *slot*; each worker has a *cell* of its own in every slot, which it
alone writes; all may read all. So there are no locks, and a sum may be a moment old: Envoy's limits, shared by its
threads, are "eventually consistent" too. The main process assigns slots and clears the cells of a dead worker.

Cells of one worker lie together (row by worker), so that counting never moves a cache line between processors.
"""

from __future__ import annotations

import mmap
from typing import Final

MAX_SLOTS: Final = 1 << 16  # 8,192 clusters of 2 priorities and 4 limits
_CELL_BYTES: Final = 8


def board_bytes(rows: int) -> int:
    """Size of a board for up to ``rows`` workers. It is sparse: only what is used takes memory."""
    return rows * MAX_SLOTS * _CELL_BYTES


class LimitCell:
    """This worker's count in one slot. ``value`` is kept here too, so that reading it touches no shared memory."""

    __slots__ = ("_cells", "_index", "_row_of_slot", "value")

    def __init__(self, cells: memoryview[int], slot: int, worker_id: int, workers: int) -> None:
        self.value = 0
        self._cells = cells
        self._index = worker_id * MAX_SLOTS + slot
        # A view of every worker's cell of this slot, one row apart.
        self._row_of_slot = cells[slot : workers * MAX_SLOTS : MAX_SLOTS]
        cells[self._index] = 0

    def __repr__(self) -> str:
        return f"<LimitCell {self.value} of {self.total()}>"

    def increment(self) -> None:
        """One more in use, here and on the board."""
        self.value = self._cells[self._index] = self.value + 1

    def decrement(self) -> None:
        self.value = self._cells[self._index] = self.value - 1

    def set(self, value: int) -> None:
        """So many in use by this worker, whatever was counted before."""
        self.value = self._cells[self._index] = value

    def total(self) -> int:
        """The sum over all workers, this one's included."""
        return sum(self._row_of_slot)

    def others(self) -> int:
        """The sum over all other workers."""
        return sum(self._row_of_slot) - self.value


class LimitsBoard:
    """A worker's view of the board; ``worker_id`` is its row, below ``workers`` (the rows that are summed up)."""

    def __init__(self, memory: mmap.mmap, worker_id: int, workers: int) -> None:
        self.workers = workers
        self._worker_id = worker_id
        self._cells = memoryview(memory).cast("q")
        self._known: dict[int, LimitCell] = {}

    def cell(self, slot: int) -> LimitCell:
        """The cell of a slot (0 to ``MAX_SLOTS`` - 1). The same slot gives the same object, over reloads too."""
        cell = self._known.get(slot)
        if cell is None:
            if not 0 <= slot < MAX_SLOTS:
                raise IndexError(f"slot {slot} is not on the board")
            cell = self._known[slot] = LimitCell(self._cells, slot, self._worker_id, self.workers)
        return cell


class BoardOwner:
    """The main process's view: reads sums, clears what a dead worker left."""

    def __init__(self, memory: mmap.mmap, workers: int) -> None:
        self._workers = workers
        self._cells = memoryview(memory).cast("q")

    def total(self, slot: int) -> int:
        return sum(self._cells[slot : self._workers * MAX_SLOTS : MAX_SLOTS])

    def clear_worker(self, worker_id: int, slots: int) -> None:
        """Zero the first ``slots`` cells of a worker that is gone."""
        start = worker_id * MAX_SLOTS
        self._cells[start : start + slots] = memoryview(bytes(slots * _CELL_BYTES)).cast("q")
