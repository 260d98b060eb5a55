"""Regression trees as arrays, evaluated in numpy: all trees of a few rows at once.

Every tree is completed to the same depth and laid out as a heap: the children of node i are 2i + 1 and 2i + 2, so a
step down is one comparison and no pointer. A branch that ended early repeats its leaf.

Legend: J rows, T trees, I inner nodes of a tree, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.plain import fields_of, finite_numbers, whole_number

MOST_DEPTH = 8
MOST_TREES = 4_096

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forest:
    """A sum of trees: ``feature_TI`` and ``threshold_TI`` of inner nodes (right where above), ``leaf_TX``, ``base``."""

    feature_TI: NDArray[np.int64]
    threshold_TI: Floats
    leaf_TX: Floats
    base: float

    @property
    def depth(self) -> int:
        """Steps from root to leaf."""
        return int(self.feature_TI.shape[1] + 1).bit_length() - 1

    @cached_property
    def _flat(self) -> tuple[NDArray[np.int64], Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
        trees, inner = self.feature_TI.shape
        roots, leaves = np.arange(trees) * inner, np.arange(trees) * (inner + 1)
        return self.feature_TI.ravel(), self.threshold_TI.ravel(), self.leaf_TX.ravel(), roots, leaves

    def predict(self, x_JF: Floats) -> Floats:
        """The sum of all trees for each row, float64 [J]."""
        num_rows, num_features = x_JF.shape
        if not self.feature_TI.size:
            return np.full(num_rows, self.base)
        feature, threshold, leaf, root_T, leaf_T = self._flat
        above = x_JF.ravel().take(feature + (np.arange(num_rows) * num_features)[:, None]) > threshold
        above = above.ravel()
        row_J = (np.arange(num_rows) * feature.size)[:, None]
        node_JT = np.zeros((num_rows, root_T.size), dtype=np.int64)
        start_JT = row_J + root_T
        for _ in range(self.depth):
            node_JT = 2 * node_JT + 1 + above.take(start_JT + node_JT)
        inner = self.feature_TI.shape[1]
        total_J: Floats = leaf.take(leaf_T + node_JT - inner).sum(axis=1)
        return self.base + total_J

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "base": self.base,
            "feature": self.feature_TI.tolist(),
            "threshold": self.threshold_TI.tolist(),
            "leaf": self.leaf_TX.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: object, num_features: int) -> Forest:
        """Inverse of ``to_plain``; raises ArtifactError for anything else, such as a feature that does not exist."""
        f = fields_of(plain, ("base", "feature", "threshold", "leaf"), "forest")
        threshold, leaf = ([finite_numbers(row, "a tree") for row in _trees(f[name])] for name in ("threshold", "leaf"))
        feature = [
            [whole_number(v, "a tree's feature", 0, num_features - 1) for v in _trees(row)]
            for row in _trees(f["feature"])
        ]
        inner = len(feature[0]) if feature else 0
        if inner not in {2**d - 1 for d in range(MOST_DEPTH + 1)}:
            raise ArtifactError(f"the adaptive part is damaged: a tree of {inner} inner nodes is no complete tree")
        sizes = {(len(a), b.size, c.size) for a, b, c in zip(feature, threshold, leaf, strict=False)}
        if not len(feature) == len(threshold) == len(leaf) or sizes - {(inner, inner, inner + 1)}:
            raise ArtifactError("the adaptive part is damaged: trees of a forest differ in size")
        shape = (len(feature), inner)
        return cls(
            np.array(feature, dtype=np.int64).reshape(shape),
            np.array(threshold, dtype=np.float64).reshape(shape),
            np.array(leaf, dtype=np.float64).reshape(shape[0], inner + 1),
            float(finite_numbers([f["base"]], "base of a forest")[0]),
        )


def _trees(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > MOST_TREES:
        raise ArtifactError(f"the adaptive part is damaged: a forest needs lists of at most {MOST_TREES} entries")
    return value


def no_trees(base: float) -> Forest:
    """A forest that gives the same for every row."""
    return Forest(np.zeros((0, 0), np.int64), np.zeros((0, 0)), np.zeros((0, 1)), base)
