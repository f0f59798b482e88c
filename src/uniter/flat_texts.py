"""Many texts as numbers in one row, without an object for each: small in memory, and cut into batches at once."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class FlatTexts(Sequence[np.ndarray]):
    """The pieces of many texts behind each other; `texts[i]` is one of them, int64.

    Args:
        pieces: (all pieces,) whole numbers.
        ends: (texts,) int64, where each text ends.
    """

    def __init__(self, pieces: np.ndarray, ends: np.ndarray) -> None:
        self.pieces, self.ends = pieces, ends

    @classmethod
    def of(cls, texts: Iterable[Sequence[int] | np.ndarray]) -> "FlatTexts":
        """Texts of at least one piece each; numbers are as short as they may be."""
        pieces, ends = array("q"), array("q")
        for text in texts:
            pieces.extend(text)
            ends.append(len(pieces))
        found = np.frombuffer(pieces, np.int64) if pieces else np.empty(0, np.int64)
        kept = found.astype(np.min_scalar_type(int(found.max(initial=0))))
        return cls(kept, np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:  # pyrefly: ignore[bad-override]  # of one text, not of a slice
        index = range(len(self))[index]
        return self.pieces[self.ends[index - 1] if index else 0 : self.ends[index]].astype(np.int64)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> np.ndarray:
        """(texts,) int64, pieces of each."""
        return np.diff(self.ends, prepend=0)

    def take(self, rows: Sequence[int] | np.ndarray) -> "FlatTexts":
        """Those of some rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths()[rows]
        ends = np.cumsum(lengths)
        place = np.arange(int(lengths.sum())) + np.repeat(self.ends[rows] - ends, lengths)
        return FlatTexts(self.pieces[place], ends)

    def padded(self, rows: np.ndarray, pad: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Some texts as (rows, longest) int64, padded at the end, and (rows,) int64 their lengths.

        Of a text of more than `most` pieces the first ones are taken, and its last one, which closes it.
        """
        ends = self.ends[rows]
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        lengths = np.minimum(ends - starts, most)
        place = np.arange(lengths.max())
        there = starts[:, None] + place
        there[np.arange(len(rows)), lengths - 1] = ends - 1
        found = self.pieces[np.minimum(there, len(self.pieces) - 1)].astype(np.int64)
        found[place >= lengths[:, None]] = pad
        return found, lengths
