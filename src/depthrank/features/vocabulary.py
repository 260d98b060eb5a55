"""Known values of a feature -> ids 2, 3, ... by falling frequency in the training data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from depthrank.features.layout import FIRST_KNOWN, PADDING, UNKNOWN


class Vocabulary:
    """``values[i]`` has id i + 2; None has id 0 and any other value id 1."""

    def __init__(self, values: Sequence[str], counts: Sequence[int]) -> None:
        assert len(values) == len(counts)
        self.values = list(values)
        self.counts = list(counts)
        self._id_of: dict[str | None, int] = {v: i + FIRST_KNOWN for i, v in enumerate(self.values)}
        self._id_of[None] = PADDING

    @classmethod
    def of_counts(cls, counts: Mapping[str, int], min_count: int) -> Vocabulary:
        """The values seen at least ``min_count`` times; equally frequent ones in the order of their texts."""
        kept = sorted((-count, value) for value, count in counts.items() if count >= max(min_count, 1))
        return cls([value for _, value in kept], [-count for count, _ in kept])

    @property
    def num_rows(self) -> int:
        """Rows of its embedding table."""
        return len(self.values) + FIRST_KNOWN

    def ids(self, texts: Sequence[str | None]) -> NDArray[np.int32]:
        """The id of each text, int32 [n]."""
        return np.fromiter(map(self._id_of.get, texts, repeat(UNKNOWN)), np.int32, len(texts))

    def known_ids(self, texts: Iterable[str]) -> list[int]:
        """The id of each text as a list."""
        return [self._id_of.get(text, UNKNOWN) for text in texts]
