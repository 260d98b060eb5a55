"""Catalogues: typed columns, upserts while others read, and files."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.catalogue import Catalogue, ListColumn, NumberColumn, TextColumn, VectorColumn
from depthrank.errors import ArtifactError, CatalogueError, RequestError


def small() -> Catalogue:
    return Catalogue.build(
        "item",
        ["a", 2, "c"],
        {
            "price": [1.5, None, float("nan")],
            "year": [1999, None, 2001],
            "title": ["A", None, "C"],
            "genre": [["x", "y"], None, ["x"]],
            "picture": [[1.0, 2.0], None, [3.0, 4.0]],
        },
        id_column="video_id",
    )


def values(catalogue: Catalogue, name: str) -> list[Any]:
    """A column as Python values, None where missing."""
    column = catalogue.column(name)
    if isinstance(column, TextColumn):
        return [column.dictionary[c] if c else None for c in column.codes.tolist()]
    if isinstance(column, ListColumn):
        offsets, codes = column.flat()
        return [[column.dictionary[c] for c in codes[a:b].tolist()] for a, b in pairwise(offsets)]
    return [None if m else v for v, m in zip(column.values.tolist(), column.missing.tolist())]


def test_row_0_is_unknown_and_missing_everywhere() -> None:
    catalogue = small()
    assert catalogue.size == 4
    assert catalogue.row_of(["a", "2", "c", "never"]).tolist() == [1, 2, 3, 0]
    assert catalogue.ids_of([0, 3, 1]) == ["", "c", "a"]
    assert values(catalogue, "price") == [None, 1.5, None, None]
    assert values(catalogue, "year") == [None, 1999, None, 2001]
    assert values(catalogue, "title") == [None, "A", None, "C"]
    assert values(catalogue, "genre") == [[], ["x", "y"], [], ["x"]]
    assert values(catalogue, "picture") == [None, [1.0, 2.0], None, [3.0, 4.0]]


def test_ids_compare_as_text() -> None:
    catalogue = small()
    assert catalogue.row_of([2, "2", np.int64(2), "a"]).tolist() == [2, 2, 2, 1]
    assert catalogue.row_of(np.array([2, 7])).tolist() == [2, 0]
    assert catalogue.row_of([]).tolist() == []
    assert catalogue.row_of(["x" * 1_000_000, 10**5_000]).tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [None, True, 2.0, ["a"], {"a": 1}, b"a"])
def test_what_is_no_id_is_refused_with_its_place(wrong: object) -> None:
    with pytest.raises(RequestError, match=r"\$\.item\[1\]"):
        small().row_of(["a", wrong])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("given_values", "kind", "found"),
    [
        ([True, False, None], NumberColumn, [None, 1, 0, None]),
        ([1, 2.5, None], NumberColumn, [None, 1.0, 2.5, None]),
        ([2**63, 1, 10**400], TextColumn, [None, str(2**63), "1", str(10**400)]),
        ([1, "b", None], TextColumn, [None, "1", "b", None]),
        ([[1, 2], [3], []], ListColumn, [[], ["1", "2"], ["3"], []]),
        ([[1, "b"], None, ["c", None]], ListColumn, [[], ["1", "b"], [], ["c"]]),
        ([[1.0, 2.5], [3.0], None], ListColumn, [[], ["1", "2.5"], ["3"], []]),
        ([None, None, None], NumberColumn, [None] * 4),
        (np.array([[1, 2], [3, 4], [5, 6]]), VectorColumn, [None, [1, 2], [3, 4], [5, 6]]),
        (np.array(["x", "y", "x"]), TextColumn, [None, "x", "y", "x"]),
        (np.array([1.0, np.nan, np.inf]), NumberColumn, [None, 1.0, None, float("inf")]),
        (pa.chunked_array([["x"], ["y", None]]), TextColumn, [None, "x", "y", None]),
        (pa.array(["x", "x", None]).dictionary_encode(), TextColumn, [None, "x", "x", None]),
        (pa.array([1, None, 3], pa.timestamp("s")), NumberColumn, [None, 1_000, None, 3_000]),
        (pa.array([1, None, 3], pa.date32()), NumberColumn, [None, 86_400_000, None, 3 * 86_400_000]),
        (pa.array([2**63, 1, None], pa.uint64()), TextColumn, [None, str(2**63), "1", None]),
    ],
)
def test_columns_take_the_kind_of_their_values(given_values: Any, kind: type, found: list[Any]) -> None:
    catalogue = Catalogue.build("item", ["a", "b", "c"], {"x": given_values})
    assert isinstance(catalogue.column("x"), kind)
    assert values(catalogue, "x") == found


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        (["a", "a"], {}, "'a' appears more than once"),
        (["a", None], {}, r"\$\.item\[1\]"),
        (["a"], {"x": [1, 2]}, "2 values for 1 item ids"),
        (["a"], {"x": [{"y": 1}]}, "column 'x' holds struct"),
        (["a"], {"x": [b"raw"]}, "column 'x' holds binary"),
    ],
)
def test_a_catalogue_that_cannot_be_built_says_why(ids: list[Any], columns: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        Catalogue.build("item", ids, columns)


def test_an_unknown_column_is_answered_with_the_nearest() -> None:
    with pytest.raises(CatalogueError, match="did you mean 'price'"):
        small().column("prise")


def test_an_upsert_inserts_changes_and_keeps() -> None:
    catalogue = small()
    result = catalogue.upsert({"item": ["c", "new", "c"], "price": [1, 2, 3], "genre": [[], ["z", "x"], ["q"]]})
    assert (result.rows.tolist(), result.inserted, result.updated, result.generation) == ([3, 4], 1, 1, 1)
    assert values(catalogue, "price") == [None, 1.5, None, 3.0, 2.0]  # of an id given twice the last wins
    assert values(catalogue, "genre") == [[], ["x", "y"], [], ["q"], ["z", "x"]]
    assert values(catalogue, "title") == [None, "A", None, "C", None]
    assert catalogue.changed_since(0).tolist() == [3, 4]
    assert catalogue.upsert({"video_id": [2], "title": [5], "year": [0.5], "picture": [[9, None]]}).generation == 2
    assert values(catalogue, "title")[2] == "5"
    assert values(catalogue, "year") == [None, 1999.0, 0.5, 2001.0, None]
    assert catalogue.changed_since(1).tolist() == [2]
    catalogue.upsert({"item": ["a"], "price": [None], "title": [None], "genre": [None], "picture": [None]})
    assert [values(catalogue, name)[1] for name in ("price", "title", "genre", "picture")] == [None, None, [], None]


def test_a_column_taken_before_an_upsert_stays_as_it_was() -> None:
    catalogue = small()
    before = {name: (catalogue.column(name), values(catalogue, name)) for name in catalogue.column_names}
    for i in range(40):
        catalogue.upsert({"item": ["a", f"n{i}"], "price": [i, i], "title": [str(i)] * 2, "genre": [[str(i)]] * 2})
    for name, (column, was) in before.items():
        then = Catalogue("item", "item", ["", "a", "2", "c"], {name: column})
        assert values(then, name) == was
    assert values(catalogue, "price")[1] == 39.0
    assert values(catalogue, "genre")[-1] == ["39"]


@pytest.mark.parametrize(
    ("columns", "paths"),
    [
        ({"price": [1]}, ["$.item"]),
        ({"item": ["a"], "prise": [1]}, ["$.prise"]),
        ({"item": ["a", None], "price": ["x", 1], "title": [{}, "ok"]}, ["$.item[1]", "$.price[0]", "$.title[0]"]),
        ({"item": ["a"], "price": [1, 2]}, ["$.price"]),
        ({"item": "a"}, ["$.item"]),
        ({"item": ["a"], "genre": ["x"]}, ["$.genre[0]"]),
        ({"item": ["a"], "genre": [[{}]]}, ["$.genre[0]"]),
        ({"item": ["a"], "picture": [[1.0]]}, ["$.picture[0]"]),
        ({"item": ["a"], "picture": [["1", "2"]]}, ["$.picture[0]"]),
        ({"item": ["a"], "picture": [3]}, ["$.picture[0]"]),
    ],
)
def test_a_wrong_upsert_names_every_mistake_and_changes_nothing(columns: dict[str, Any], paths: list[str]) -> None:
    catalogue = small()
    with pytest.raises(RequestError) as caught:
        catalogue.upsert(columns)
    assert [problem.path for problem in caught.value.problems] == paths
    assert catalogue.generation == 0 and catalogue.size == 4
    assert values(catalogue, "price") == [None, 1.5, None, None]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["item", "price", "year", "title", "genre", "picture", "x"]), st.lists(scalars, max_size=3)
    )
)
def test_any_upsert_is_applied_whole_or_refused_whole(columns: dict[str, list[Any]]) -> None:
    catalogue = small()
    before = {name: repr(values(catalogue, name)) for name in catalogue.column_names}
    try:
        result = catalogue.upsert(columns)
    except RequestError:
        assert {name: repr(values(catalogue, name)) for name in catalogue.column_names} == before
        assert catalogue.size == 4
    else:
        assert catalogue.size == 4 + result.inserted
        assert all(len(catalogue.column(name)) == catalogue.size for name in catalogue.column_names)


def test_readers_never_see_half_an_upsert() -> None:
    catalogue = Catalogue.build("item", ["a"], {"x": [0], "y": [0], "tags": [["0"]]})
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            rows = catalogue.row_of([f"n{k}" for k in range(0, 500, 7)])
            rows = rows[rows > 0]
            x, tags = catalogue.column("x").take(rows), catalogue.column("tags").take(rows)
            assert isinstance(x, NumberColumn) and isinstance(tags, ListColumn)
            offsets, codes = tags.flat()
            found = [tags.dictionary[c] for c in codes.tolist()]
            if x.missing.any() or found != [str(int(v)) for v in x.values] or offsets[-1] != len(rows):
                wrong.append((x, found))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for k in range(500):
        catalogue.upsert({"item": [f"n{k}", "a"], "x": [k, k], "y": [k, k], "tags": [[str(k)], []]})
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_a_saved_catalogue_loads_as_it_was_and_takes_upserts(tmp_path: Path) -> None:
    catalogue = small()
    catalogue.upsert({"item": ["../../new"], "price": [2], "genre": [["q", "x"]]})
    files = catalogue.save(tmp_path)
    assert all(path.parent == tmp_path and path.suffix in {".npy", ".arrow", ".json"} for path in files)
    loaded = Catalogue.load(tmp_path)
    assert (loaded.entity, loaded.id_column, loaded.size) == ("item", "video_id", 5)
    assert loaded.ids == catalogue.ids
    for name in catalogue.column_names:
        assert values(loaded, name) == values(catalogue, name)
    content = {path: path.read_bytes() for path in files}
    loaded.upsert({"item": ["a", "z"], "price": [7, 8], "genre": [["n"], ["m"]], "title": ["T", "U"], "year": [1, 2]})
    assert values(loaded, "price")[1] == 7.0
    assert values(loaded, "genre")[1] == ["n"]
    assert {path: path.read_bytes() for path in files} == content  # upserts stay in private memory


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("catalogue.json", b""),
        ("catalogue.json", b'{"format": 9, "entity": "item", "id_column": "item", "size": 4, "columns": []}'),
        ("catalogue.json", b'{"format": 1, "entity": "item", "id_column": "item", "size": 9, "columns": []}'),
        ("ids.arrow", b"nothing"),
        ("column_0.values.npy", b"\x93NUMPY"),
        ("column_2.dictionary.arrow", None),
        ("column_2.codes.npy", np.array([0, 1, 99, 0], np.int32)),
        ("column_2.codes.npy", np.array([0, 1, -5, 0], np.int32)),
        ("column_3.offsets.npy", np.array([0, 3, 1, 1, 3], np.int64)),
        ("column_0.values.npy", np.zeros(2)),
        ("column_0.missing.npy", np.zeros(4, np.float32)),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: Any) -> None:
    small().save(tmp_path)
    Catalogue.load(tmp_path)
    target = tmp_path / name
    if content is None:
        target.unlink()
    elif isinstance(content, bytes):
        target.write_bytes(content)
    else:
        np.save(target, content)
    with pytest.raises(ArtifactError, match=r"catalogue|column_|ids"):
        Catalogue.load(tmp_path)


def test_a_pickled_array_is_not_executed(tmp_path: Path) -> None:
    small().save(tmp_path)
    np.save(tmp_path / "column_0.values.npy", np.array([None, {}, [], 3], object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="cannot be read"):
        Catalogue.load(tmp_path)
