"""Best-fit packing: pieces of documents into rows of a fixed size, with little room left over."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def pieces_of(bounds: Ints, row: int) -> tuple[Ints, Ints]:
    """Cut documents (by their bounds [documents + 1]) into pieces of at most `row` tokens: start, length.

    A longer document is cut at a stride of `row - 1`, so that each of its tokens but the first is a label
    once; what has no label (a document of one token) is left out.
    """
    lengths = np.diff(bounds)
    counts = np.maximum(0, -(-(lengths - 1) // (row - 1)))
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = number * (row - 1)
    return bounds[:-1][document] + begins, np.minimum(row, lengths[document] - begins)


def best_fit(lengths: Ints, row: int) -> tuple[Ints, int]:
    """Best-fit decreasing: which row each piece goes to, and how many rows there are.

    From the longest piece to the shortest, each goes to the row with the least room that is enough. Pieces of
    one length are placed together, which gives the same rows: what a row takes of them, it takes in a row.
    """
    rows = np.empty(len(lengths), np.int64)
    if not len(lengths):
        return rows, 0
    order = np.argsort(-lengths, kind="stable")
    sizes, begins = np.unique(-lengths[order], return_index=True)
    with_room = _Rooms(row)
    for size, pieces in zip((-sizes).tolist(), np.split(order, begins[1:]), strict=True):
        while len(pieces):
            room = with_room.least(size)
            each = room // size
            chosen = with_room.take(room, -(-len(pieces) // each))
            placed = np.repeat(chosen, each)[: len(pieces)]
            rows[pieces[: len(placed)]] = placed
            rest = len(placed) - (len(chosen) - 1) * each  # pieces in the last row
            with_room.put(room - each * size, chosen[:-1])
            with_room.put(room - rest * size, chosen[-1:])
            pieces = pieces[len(placed) :]
    return rows, with_room.count


class _Rooms:
    """Rows that are begun, by the room that is left in them; there are always more empty ones."""

    def __init__(self, row: int) -> None:
        self._row = row
        self.count = 0
        self._rows: list[list[Ints]] = [[] for _ in range(row + 1)]
        self._has = np.zeros(row + 1, np.bool_)

    def least(self, size: int) -> int:
        """The least room of a row that is at least `size`."""
        found = size + int(np.argmax(self._has[size:]))
        return found if self._has[found] else self._row

    def take(self, room: int, most: int) -> Ints:
        """Up to so many rows with this room, in the order in which they came to have it."""
        if not self._has[room]:
            assert room == self._row
            self.count += most
            return np.arange(self.count - most, self.count)
        held = np.concatenate(self._rows[room])
        self._rows[room] = [held[most:]] if len(held) > most else []
        self._has[room] = len(held) > most
        return held[:most]

    def put(self, room: int, rows: Ints) -> None:
        """Rows that have so much room from now on."""
        if room and len(rows):
            self._rows[room].append(rows)
            self._has[room] = True
