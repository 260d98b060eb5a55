"""Integer ids find the same rows as their texts, before and after upserts, dense or scattered."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from depthrank.catalogue import Catalogue
from depthrank.catalogue.integer_ids import IntegerIds

integers = st.integers(-(2**63), 2**63 - 1)
near = st.integers(-50, 50)
texts = (
    integers.map(str)
    | near.map(str)
    | st.sampled_from(["007", "-0", "+5", "1.0", "x", "٣", "9" * 19, "9" * 30, "--1", "-"])
)


@given(st.lists(texts, unique=True, max_size=30), st.lists(texts, unique=True, max_size=9), st.lists(integers | near))
def test_an_integer_finds_the_row_of_its_text(old: list[str], new: list[str], asked: list[int]) -> None:
    items = Catalogue.build("item", old, {"n": [0] * len(old)})
    own = [int(text) for text in old if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII)]
    ids = np.array([*asked, *own], np.int64)
    assert items.rows_of_integers(ids).tolist() == items.row_of([str(i) for i in ids.tolist()]).tolist()
    items.upsert({"item": new, "n": [1] * len(new)})
    assert items.rows_of_integers(ids).tolist() == items.row_of([str(i) for i in ids.tolist()]).tolist()


def test_dense_ids_use_a_table_and_scattered_ones_do_not() -> None:
    dense = IntegerIds.none().extended(["", *map(str, range(100, 200))])
    assert dense.table is not None and len(dense.table) == 100
    scattered = IntegerIds.none().extended(["", "0", str(2**62)])
    assert scattered.table is None
    assert scattered.rows_of(np.array([2**62, 1, -(2**63)])).tolist() == [2, 0, 0]
    assert IntegerIds.none().extended(["", "x"]).rows_of(np.array([1])).tolist() == [0]
