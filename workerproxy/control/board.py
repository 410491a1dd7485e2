"""The shared board: numbers that must hold over all workers, first of all the circuit breakers' limits.

A memory file mapped by all processes. A limit is a *slot*; each worker process has a *row* of its own, and so a *cell*
of its own in every slot, which it alone writes; all may read all. So there are no locks, and a sum may be a moment old:
Envoy's limits, shared by its threads, are "eventually consistent" too. The main process assigns slots and rows and
clears the row of a worker that is gone.

Cells of one worker lie together (row by worker), so that counting never moves a cache line between processors.
"""

from __future__ import annotations

import mmap
from typing import Final

MAX_SLOTS: Final = 1 << 16  # 8,192 clusters of 2 priorities and 4 limits
MAX_ROWS: Final = 256  # worker processes that live at the same time, those that drain included
_CELL_BYTES: Final = 8


def board_bytes(rows: int) -> int:
    """Size of a board for up to ``rows`` workers. It is sparse: only what is used takes memory."""
    return rows * MAX_SLOTS * _CELL_BYTES


class LimitCell:
    """This worker's count in one slot. ``value`` is kept here too, so that reading it touches no shared memory."""

    __slots__ = ("_cells", "_index", "_row_of_slot", "_slot", "value")

    def __init__(self, cells: memoryview[int], slot: int, row: int, rows: int) -> None:
        self.value = 0
        self._cells = cells
        self._slot = slot
        self._index = row * MAX_SLOTS + slot
        self.set_rows(rows)
        cells[self._index] = 0

    def __repr__(self) -> str:
        return f"<LimitCell {self.value} of {self.total()}>"

    def set_rows(self, rows: int) -> None:
        """So many rows are summed up from now on."""
        # A view of every worker's cell of this slot, one row apart.
        self._row_of_slot = self._cells[self._slot : rows * MAX_SLOTS : MAX_SLOTS]

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
    """A worker's view of the board; ``row`` is its own, below ``rows``, the number of those that are summed up."""

    def __init__(self, memory: mmap.mmap, row: int, rows: int) -> None:
        self.row = row
        self.rows = rows
        self.cells = memoryview(memory).cast("q")  # of all workers, row after row
        self._known: dict[int, LimitCell] = {}

    def __repr__(self) -> str:
        return f"<LimitsBoard row {self.row} of {self.rows}>"

    def set_rows(self, rows: int) -> None:
        """So many rows are summed up from now on, also by the cells that were handed out before."""
        if rows != self.rows:
            self.rows = rows
            for cell in self._known.values():
                cell.set_rows(rows)

    def cell(self, slot: int) -> LimitCell:
        """The cell of a slot (0 to ``MAX_SLOTS`` - 1). The same slot gives the same object, over reloads too."""
        cell = self._known.get(slot)
        if cell is None:
            if not 0 <= slot < MAX_SLOTS:
                raise IndexError(f"slot {slot} is not on the board")
            cell = self._known[slot] = LimitCell(self.cells, slot, self.row, self.rows)
        return cell


class BoardOwner:
    """The main process's view: gives rows to workers, reads sums, clears what a worker that is gone has left."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.rows = 0  # how many have to be summed up: one more than the highest that is taken
        self._cells = memoryview(memory).cast("q")
        self._taken: set[int] = set()

    def __repr__(self) -> str:
        return f"<BoardOwner rows {sorted(self._taken)}>"

    def take_row(self) -> int:
        """The lowest row that is free. Raises ``RuntimeError`` when all are taken."""
        row = next((row for row in range(MAX_ROWS) if row not in self._taken), None)
        if row is None:
            raise RuntimeError(f"{MAX_ROWS} workers are alive, more than there may be at one time")
        self.reserve_row(row)
        return row

    def reserve_row(self, row: int) -> None:
        """Take this very row, for a worker that another main process started.

        Raises ``ValueError`` when it is taken.
        """
        if row in self._taken or not 0 <= row < MAX_ROWS:
            raise ValueError(f"row {row} of the board is not free")
        self._taken.add(row)
        self.rows = max(self.rows, row + 1)

    def free_row(self, row: int) -> None:
        """Its worker is gone. Raises ``KeyError`` when it was not taken."""
        self._taken.remove(row)
        self.rows = max(self._taken, default=-1) + 1

    def total(self, slot: int) -> int:
        return sum(self._cells[slot : self.rows * MAX_SLOTS : MAX_SLOTS])

    def clear_row(self, row: int, slots: int) -> None:
        """Zero the first ``slots`` cells of a worker that is gone."""
        start = row * MAX_SLOTS
        self._cells[start : start + slots] = memoryview(bytes(slots * _CELL_BYTES)).cast("q")
