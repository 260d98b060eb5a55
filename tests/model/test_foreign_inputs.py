"""Names of what a foreign module reads: distinct, or refused."""

from __future__ import annotations

import pytest

from depthrank.errors import DepthrankError
from depthrank.features.layout import EncoderLayout, FloatSlot, IdSlot, SideLayout
from depthrank.model.foreign_inputs import foreign_inputs


def _layout(*item_floats: str, item_ids: tuple[str, ...] = ()) -> EncoderLayout:
    floats = tuple(FloatSlot(name, k, k + 1) for k, name in enumerate(item_floats))
    ids = tuple(IdSlot(name, name, k, k + 1, 10) for k, name in enumerate(item_ids))
    return EncoderLayout(SideLayout(), SideLayout(ids, floats), SideLayout())


def test_every_column_has_one_name() -> None:
    names = foreign_inputs(_layout("price", "a.b"), 1, 5)
    assert {"price", "a_b", "history_price", "history_a_b", "history_length"} <= set(names)


def test_two_features_with_one_name_are_refused_by_name() -> None:
    with pytest.raises(DepthrankError, match=r"both called 'a_b'.*rename one"):
        foreign_inputs(_layout("a.b", "a_b"), 1, 5)


def test_an_items_length_in_the_history_does_not_hide_the_historys_own() -> None:
    inputs = foreign_inputs(_layout("length", "age"), 1, 5)
    assert inputs["history_length"].part == "history_length"
    assert inputs["history_item_length"].part == "history_floats"
    assert inputs["history_age"].part == "history_age"
    assert inputs["history_item_age"].length == 5
