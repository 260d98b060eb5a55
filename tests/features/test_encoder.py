"""Each kind of feature, unknown and hostile values, upserts, and saved encoders."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from feature_world import (
    COUNTERS,
    FEATURES,
    START_MS,
    World,
    assert_same_bits,
    make_items,
    make_sample,
    make_spec,
    make_users,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.errors import ArtifactError, RequestError, SpecError
from depthrank.features import Encoded, FeatureEncoder, SideLayout
from depthrank.schema import Feature

T = np.array([START_MS])


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(FEATURES)


def ids(encoded: Encoded, side: SideLayout, table: str) -> list[Any]:
    slot = next(slot for slot in side.ids if slot.table == table)
    found = encoded.ids[:, slot.start : slot.stop].tolist()
    return [row[0] for row in found] if slot.stop - slot.start == 1 else found


def floats(encoded: Encoded, side: SideLayout, feature: str) -> np.ndarray:
    slot = next(slot for slot in side.floats if slot.feature == feature)
    return encoded.floats[:, slot.start : slot.stop]


def request(world: World, context: dict[str, Any], user: str = "u1", t: np.ndarray = T) -> Encoded:
    contexts = {name: [value] for name, value in context.items()}
    return world.encoder.encode_requests([user], world.users.row_of([user]), contexts, t, world.users, None)


def candidates(world: World, columns: dict[str, Any], n: int, **more: Any) -> Encoded:
    rows = np.ones(n, np.int64)
    return world.encoder.encode_candidates(
        rows, np.zeros(n, np.int64), ["u1"], T, columns, None, world.items, more.get("positions")
    )


def test_slots_tile_the_columns_and_tables_hold_every_id(world: World) -> None:
    layout = world.encoder.layout
    for side in (layout.request, layout.item, layout.candidate):
        for slots, width in ((side.ids, side.num_ids), (side.floats, side.num_floats)):
            assert [s.start for s in slots] == [0, *(s.stop for s in slots)][: len(slots)]
            assert width == (slots[-1].stop if slots else 0)
    items = world.encoder.encode_items(world.items)
    for slot in layout.item.ids:
        assert (
            0
            <= items.ids[:, slot.start : slot.stop].min()
            <= items.ids[:, slot.start : slot.stop].max()
            < slot.num_rows
        )


def test_items_encode_with_the_vocabulary_of_training(world: World) -> None:
    items, side = world.encoder.encode_items(world.items), world.encoder.layout.item
    assert len(items) == world.items.size
    # Training saw a and e twice, b, c and d once, f never; row 0 is the unknown item.
    assert ids(items, side, "item") == [1, 2, 4, 5, 6, 3, 1]
    assert ids(items, side, "genre") == [[0, 0], [3, 2], [3, 0], [0, 0], [0, 0], [2, 0], [4, 1]]
    assert ids(items, side, "author")[0] == 0
    assert ids(items, side, "author")[3] == 0  # missing
    title = ids(items, side, "title")
    assert title[1][1] == title[2][0] != title[1][0]  # "The Red Fox", "red"
    assert title[5] == [0, 0, 0]
    np.testing.assert_array_equal(floats(items, side, "price")[:, 1], [1, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(floats(items, side, "picture")[:, 2], [1, 0, 1, 0, 0, 0, 0])


def test_an_unknown_value_is_id_1_and_a_missing_one_id_0(world: World) -> None:
    side = world.encoder.layout.request
    assert ids(request(world, {"device": "ios"}), side, "device") == [2]
    assert ids(request(world, {"device": "toaster"}), side, "device") == [1]
    assert ids(request(world, {"device": None}), side, "device") == [0]
    assert ids(request(world, {}), side, "device") == [0]
    assert ids(request(world, {}, user="nobody"), side, "user") == [1]
    assert ids(request(world, {}, user="nobody"), side, "gender") == [0]


def test_numbers_and_texts_of_one_value_are_one_id(world: World) -> None:
    side = world.encoder.layout.item
    known = ids(world.encoder.encode_items(world.items), side, "author")  # the column holds integers
    items = make_items()
    items.upsert({"item": ["a", "b"], "author": [7.0, 7]})
    assert ids(world.encoder.encode_items(items), side, "author") == known


def test_calendar_parts_are_local(world: World) -> None:
    side = world.encoder.layout.request
    midnight_thursday = np.array([0])
    late = request(world, {}, t=midnight_thursday)
    assert ids(late, side, "now.hour") == [2 + 2]  # 02:00 at UTC+2
    assert ids(late, side, "now.weekday") == [2 + 3]
    assert ids(request(world, {}, t=np.array([-3 * 3_600_000])), side, "now.weekday") == [2 + 2]


def test_ages_grow_and_the_future_counts_as_now(world: World) -> None:
    side = world.encoder.layout.request
    ages = [
        floats(request(world, {"since": s}), side, "since")[0, 0] for s in ("2020-01-01", "2023-11-14", "2099-01-01")
    ]
    assert ages[0] > ages[1] > ages[2] == -2.0
    assert floats(request(world, {}), side, "since").tolist() == [[0.0, 1.0]]


def test_rank_and_difference_are_those_among_the_candidates_of_the_request(world: World) -> None:
    columns = {"offer": [3.0, None, 1.0, 3.0, 8.0]}
    offer = floats(candidates(world, columns, 5), world.encoder.layout.candidate, "offer")
    np.testing.assert_allclose(offer[:, 2], [0.0, 0.0, -1.0, 0.0, 1.0], atol=1e-7)
    assert offer[1].tolist() == [0.0, 1.0, 0.0, 0.0]
    median = offer[0, 0]
    np.testing.assert_allclose(offer[:, 3], [0.0, 0.0, offer[2, 0] - median, 0.0, offer[4, 0] - median], atol=1e-6)


def test_positions_are_an_input_only_where_they_are_given(world: World) -> None:
    side = world.encoder.layout.candidate
    assert ids(candidates(world, {}, 3), side, "position") == [0, 0, 0]
    shown = candidates(world, {}, 3, positions=np.array([0, -1, 1_000], np.int32))
    assert ids(shown, side, "position") == [2, 0, 9]


def test_only_changed_rows_need_to_be_encoded_after_an_upsert(world: World) -> None:
    items = make_items()
    before = world.encoder.encode_items(items)
    result = items.upsert({"item": ["g", "a"], "genre": [["x"], ["never"]], "price": [3, None]})
    after = world.encoder.encode_items(items)
    assert_same_bits(world.encoder.encode_items(items, result.rows), after, result.rows)
    unchanged = np.setdiff1d(np.arange(len(before)), result.rows)
    np.testing.assert_array_equal(after.ids[unchanged], before.ids[unchanged])
    side = world.encoder.layout.item
    assert ids(after, side, "item")[7] == 1  # new: unknown to training
    assert ids(after, side, "genre")[1] == [1, 0]


def test_user_rows_are_encoded_again_after_an_upsert(world: World) -> None:
    users = make_users()

    def gender() -> list[int]:
        encoded = world.encoder.encode_requests(["u2"], users.row_of(["u2"]), {}, T, users, None)
        return ids(encoded, world.encoder.layout.request, "gender")

    assert gender() == [0]
    users.upsert({"user": ["u2"], "gender": ["f"]})
    assert gender()[0] >= 2


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("device", {"a": 1}, "a text, a number or null"),
        ("device", ["ios"], "a text, a number or null"),
        ("distance", "far", "a number or null"),
        ("distance", [1], "a number or null"),
        ("interests", {"x": 1}, "a list of texts or numbers"),
        ("interests", [["x"]], "a list of texts or numbers"),
        ("search", b"red", "a list of texts or numbers, a text, or null"),
        ("spot", [1.0], "a list of 2 numbers"),
        ("spot", "1,2", "a list of 2 numbers"),
        ("spot", [1.0, "2"], "a list of 2 numbers"),
        ("since", "yesterday", "an ISO date-time"),
        ("since", [1], "an ISO date-time"),
    ],
)
def test_a_context_of_the_wrong_type_is_named(world: World, name: str, value: object, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        request(world, {name: value})
    assert [problem.path for problem in caught.value.problems] == [f"$.context.{name}"]


def test_all_wrong_candidate_values_are_named_at_once(world: World) -> None:
    with pytest.raises(RequestError) as caught:
        candidates(world, {"offer": [1, "x", None], "bid": [1, 2], "badge": ["new", {}, 3]}, 3)
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"$.candidates.offer[1]", "$.candidates.bid", "$.candidates.badge[1]"}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["x" * 1_000_000, "é" * 10_000 + "\ud800"])
    | st.just(5_000).map(lambda digits: 10**digits),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(
    context=st.dictionaries(
        st.sampled_from(["device", "interests", "search", "distance", "spot", "since", "zz"]), anything
    )
)
def test_any_context_encodes_to_bounded_numbers_or_is_refused(context: dict[str, Any]) -> None:
    try:
        encoded = request(HOSTILE, context, user="u1")
    except RequestError as error:
        assert all(problem.path.startswith("$.context.") and len(str(problem)) < 400 for problem in error.problems)
        return
    assert np.isfinite(encoded.floats).all() and np.abs(encoded.floats).max(initial=0) <= 1e6
    for slot in HOSTILE.encoder.layout.request.ids:
        assert encoded.ids[:, slot.start : slot.stop].max(initial=0) < slot.num_rows


@settings(max_examples=100, deadline=None)
@given(values=st.lists(anything, min_size=1, max_size=4), t=st.integers(-(2**63), 2**63 - 1))
def test_any_candidate_values_encode_to_bounded_numbers_or_are_refused(values: list[Any], t: int) -> None:
    n = len(values)
    try:
        encoded = HOSTILE.encoder.encode_candidates(
            np.arange(n),
            np.zeros(n, np.int64),
            ["u1"],
            np.array([t]),
            {"offer": values, "badge": values},
            None,
            HOSTILE.items,
        )
    except RequestError:
        return
    assert np.isfinite(encoded.floats).all() and np.abs(encoded.floats).max(initial=0) <= 1e6


HOSTILE = World.make(FEATURES)


def test_no_candidates_and_fifty_thousand_candidates_encode(world: World) -> None:
    assert candidates(world, {"offer": []}, 0).floats.shape == (0, world.encoder.layout.candidate.num_floats)
    assert len(candidates(world, {"offer": [1.0] * 50_000}, 50_000)) == 50_000


def test_a_saved_encoder_gives_the_same_bits(world: World, tmp_path: Path) -> None:
    full = World.make()
    files = full.encoder.save(tmp_path)
    assert {path.suffix for path in files} == {".json", ".parquet"}
    loaded = FeatureEncoder.load(tmp_path)
    assert loaded.layout == full.encoder.layout
    assert_same_bits(loaded.encode_items(full.items), full.encoder.encode_items(full.items))
    context = {"device": ["ios"], "distance": [3.3], "interests": [["x", "q"]], "search": ["red fox"]}
    args = (["u1"], np.array([1]), context, T, world.users, full.counters(EmptyLog()))
    assert_same_bits(loaded.encode_requests(*args), full.encoder.encode_requests(*args))


class EmptyLog:
    def scan(self, after: int = -1, until: int | None = None, batch_size: int = 65_536) -> Any:
        return iter(())


@pytest.mark.parametrize("damage", ["vocabularies gone", "vocabularies cut", "json cut", "future", "statistics"])
def test_a_damaged_encoder_is_refused(world: World, tmp_path: Path, damage: str) -> None:
    manifest, vocabularies = world.encoder.save(tmp_path)
    FeatureEncoder.load(tmp_path)
    if damage == "vocabularies gone":
        vocabularies.unlink()
    elif damage == "vocabularies cut":
        vocabularies.write_bytes(vocabularies.read_bytes()[:-20])
    elif damage == "json cut":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    elif damage == "future":
        manifest.write_bytes(manifest.read_bytes().replace(b'"format":1', b'"format":2'))
    else:
        manifest.write_bytes(manifest.read_bytes().replace(b'"levels":[', b'"levels":[0.0,', 1))
    with pytest.raises(ArtifactError):
        FeatureEncoder.load(tmp_path)


def test_every_feature_that_does_not_fit_its_column_is_told_at_once() -> None:
    spec = make_spec(
        {
            "gone": {"kind": "categorical", "source": "item.gendre"},
            "texts": {"kind": "numeric", "source": "item.title"},
            "lists": {"kind": "categorical", "source": "item.genre"},
            "size": {"kind": "vector", "source": "item.picture", "size": 5},
            "when": {"kind": "time", "source": "item.title", "unit": "s"},
            "fine": {"kind": "numeric", "source": "item.price"},
        }
    )
    with pytest.raises(SpecError) as caught:
        FeatureEncoder.fit(spec, make_items(), make_users(), make_sample())
    assert [p.path.split(".")[2] for p in caught.value.problems] == ["gone", "texts", "lists", "size", "when"]
    assert "did you mean 'genre'?" in str(caught.value)


def test_values_below_min_count_share_the_unknown_row() -> None:
    spec = make_spec({"author": {"kind": "categorical", "source": "item.author", "min_count": 3}})
    items = make_items()
    encoder = FeatureEncoder.fit(spec, items, None, make_sample())
    assert encoder.encode_items(items).ids[:, 0].tolist() == [0, 2, 2, 0, 1, 1, 1]


def test_counters_take_part_in_the_layout() -> None:
    encoder = FeatureEncoder.fit(make_spec(COUNTERS), make_items(), make_users(), make_sample())
    assert encoder.layout.request.num_floats == 2 * 4
    assert encoder.layout.candidate.num_floats == 5 * 4


def test_the_example_of_the_docs_is_a_spec() -> None:
    page = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
    example = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["features"]
    example["price"]["source"] = "candidate.offer"  # the candidate column that this file's spec declares
    example["touched"]["compare"], example["beside"]["along"] = ["offer"], "offer"
    kinds = {feature["kind"] for feature in example.values()}
    assert kinds == {tag.__struct_config__.tag for tag in typing.get_args(Feature)}
    assert set(make_spec(example).features) == set(example)
