"""Histories as tokens: windows, gaps, unknown items, and codes that appear while serving."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from feature_world import START_MS, make_items

from depthrank.events import HistoryBatch
from depthrank.features import EncodedHistory, HistoryCodes
from depthrank.features.history import encode_history


class Dictionary:
    """The codes of a log, in memory."""

    def __init__(self, items: list[str], actions: list[str]) -> None:
        self.items, self.actions, self.whole_reads = items, actions, 0

    def item_dictionary(self) -> list[str]:
        self.whole_reads += 1
        return list(self.items)

    def item_ids(self, codes: Sequence[int]) -> list[str]:
        return [self.items[code] for code in codes]

    def item_code(self, item: str) -> int | None:
        return self.items.index(item) if item in self.items else None

    def action_dictionary(self) -> list[str]:
        return list(self.actions)


def history_of(*events: tuple[int, int, int]) -> HistoryBatch:
    """One history of (item code, action code, seconds)."""
    item, action, seconds = (np.array(column, np.int64) for column in (zip(*events) if events else ((), (), ())))
    time_ms = START_MS + seconds * 1_000
    return HistoryBatch(
        np.array([0, len(events)]),
        item.astype(np.int32),
        action.astype(np.int16),
        time_ms,
        time_ms,
        np.arange(len(events)),
    )


@pytest.fixture
def dictionary() -> Dictionary:
    return Dictionary(["b", "a", "unlisted"], ["impression", "click", "like"])


def encode(batch: HistoryBatch, codes: HistoryCodes, length: int = 4, at_s: int = 100) -> EncodedHistory:
    return encode_history(batch, codes, np.array([START_MS + at_s * 1_000]), length)


def test_tokens_hold_row_actions_gap_and_age(dictionary: Dictionary) -> None:
    codes = HistoryCodes(dictionary, make_items(), ("click", "like"))
    found = encode(history_of((0, 1, 0), (1, 2, 1), (2, 1, 90)), codes)
    assert found.rows.tolist() == [[2, 1, 0, 0]]  # the third is an unknown item, the fourth padding
    assert found.length.tolist() == [3]
    assert found.actions.tolist() == [[1, 2, 1, 0]]
    assert found.gaps.tolist() == [[0, 1, 7, 0]]
    assert found.ages.tolist() == [[7, 7, 4, 0]]


def test_only_the_last_tokens_are_kept_and_the_first_has_no_gap(dictionary: Dictionary) -> None:
    codes = HistoryCodes(dictionary, make_items(), ("click", "like"))
    found = encode(history_of((0, 1, 0), (1, 1, 8), (0, 1, 10), (0, 2, 10)), codes, length=2)
    assert found.rows.tolist() == [[1, 2]]
    assert found.actions.tolist() == [[1, 3]]
    assert found.gaps.tolist() == [[0, 2]]


def test_other_actions_are_left_out_and_do_not_split_a_token(dictionary: Dictionary) -> None:
    codes = HistoryCodes(dictionary, make_items(), ("click", "like"))
    found = encode(history_of((0, 1, 5), (0, 0, 5), (0, 2, 5)), codes)
    assert found.length.tolist() == [1] and found.actions[0, 0] == 3


def test_two_unknown_items_at_one_time_stay_two_tokens() -> None:
    codes = HistoryCodes(Dictionary(["p", "q"], ["click"]), make_items(), ("click",))
    assert encode(history_of((0, 0, 5), (1, 0, 5)), codes).length.tolist() == [2]


def test_an_empty_history_is_all_padding(dictionary: Dictionary) -> None:
    found = encode(history_of(), HistoryCodes(dictionary, make_items(), ("click",)))
    assert found.rows.shape == (1, 4) and found.length.tolist() == [0] and not found.rows.any()


def test_neighbouring_histories_do_not_run_into_each_other(dictionary: Dictionary) -> None:
    codes = HistoryCodes(dictionary, make_items(), ("click", "like"))
    one = history_of((0, 1, 5), (0, 2, 5))
    split = HistoryBatch(np.array([0, 1, 2]), *(getattr(one, n) for n in one.__slots__[1:]))
    found = encode_history(split, codes, np.full(2, START_MS + 9_000), 2)
    assert found.rows.tolist() == [[2, 0], [2, 0]] and found.actions.tolist() == [[1, 0], [2, 0]]


def test_an_item_upserted_after_its_events_is_found(dictionary: Dictionary) -> None:
    items = make_items()
    codes = HistoryCodes(dictionary, items, ("click",))
    batch = history_of((2, 1, 0))
    assert encode(batch, codes).rows[0, 0] == 0
    new = items.upsert({"item": ["unlisted"]}).rows[0]
    assert encode(batch, codes).rows[0, 0] == new


def test_codes_that_the_log_hands_out_later_are_found(dictionary: Dictionary) -> None:
    codes = HistoryCodes(dictionary, make_items(), ("click",))
    encode(history_of((0, 1, 0)), codes)
    dictionary.items.append("c")
    assert encode(history_of((3, 1, 0)), codes).rows[0, 0] == 3
    assert dictionary.whole_reads == 0
    dictionary.items.extend(str(i) for i in range(2_000))
    encode(history_of((2_000, 1, 0)), codes)
    assert dictionary.whole_reads == 1
