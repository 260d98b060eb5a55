"""A spec guessed from a folder: the form, the parts of the columns, what is left out; and it reads the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from depthrank.data import load_dataset, load_examples
from depthrank.data.guess import Named, first_spec
from depthrank.errors import DataError
from depthrank.schema import Spec
from depthrank.schema.features import Categorical, Counter, HistoryMatch, MultiHot, Numeric, Position, Text, TimeParts

T0 = 1_760_000_000


def guessed(folder: Path, given: Named | None = None) -> Spec:
    """The guess, loaded; and examples can be made of the data."""
    (folder / "ranking.yaml").write_text(first_spec(folder, given).text)
    spec = Spec.load(folder / "ranking.yaml")
    assert len(load_examples(spec, load_dataset(spec))) > 0
    return spec


def notes(folder: Path, given: Named | None = None) -> str:
    return "\n".join(first_spec(folder, given).notes)


def feed(num: int = 600) -> pl.DataFrame:
    """Impressions of forty users in requests of three, with a play time that only clicks have."""
    rng = np.random.default_rng(0)
    row = np.arange(num)
    click = rng.random(num) < 0.4
    return pl.DataFrame(
        {
            "userId": [f"u{u}" for u in (row // 3) % 40],
            "videoId": rng.integers(1, 90, num),
            "shownAt": (T0 + (row // 3) * 4_000) * 1000,
            "request_id": row // 3,
            "position": row % 3,
            "device": np.array(["ios", "web"])[(row // 3) % 2],
            "bid": rng.gamma(2.0, size=num),
            "is_click": click,
            "seconds": np.where(click, rng.random(num) * 30 + 1, 0.0),
            "play_time": rng.random(num),
        }
    )


def videos() -> pl.DataFrame:
    row = np.arange(1, 120)
    return pl.DataFrame(
        {
            "videoId": row,
            "title": [f"A film number {i} of many" for i in row],
            "tags": [f"t{i % 7}|t{i % 3}" for i in row],
            "brand": [f"b{i % 11}" for i in row],
            "length": row * 1.5,
            "added": [f"2025-01-{1 + i % 28:02d}" for i in row],
            "language": ["en"] * len(row),
        }
    )


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    feed().write_parquet(tmp_path / "feed.parquet")
    videos().write_csv(tmp_path / "videos.csv")
    pl.DataFrame({"userId": [f"u{i}" for i in range(40)], "age": range(20, 60)}).write_csv(tmp_path / "people.csv")
    return tmp_path


def test_impressions_with_their_items_and_users(shown: Path) -> None:
    spec = guessed(shown)
    form = spec.dataset.impressions
    assert form is not None and (form.user, form.item, form.position) == ("userId", "videoId", "position")
    assert (form.request.column, form.context, form.candidate) == ("request_id", ("device",), ("bid",))
    assert spec.dataset.items is not None and spec.dataset.items.path == "videos.csv"
    assert spec.dataset.users is not None and spec.dataset.users.path == "people.csv"
    assert spec.tasks["click"].column == "is_click"


def test_kinds_follow_from_the_values(shown: Path) -> None:
    features = guessed(shown).features
    expected = {
        "item": Categorical, "title": Text, "tags": MultiHot, "brand": Categorical, "length": Numeric,
        "added": TimeParts, "age": Numeric, "device": Categorical, "bid": Numeric, "clock": TimeParts,
        "shown_at": Position, "item_rate": Counter, "user_rate": Counter, "brand_rate": Counter,
        "again_brand": HistoryMatch,
    }  # fmt: skip
    assert {name: type(features[name]) for name in expected} == expected
    assert "language" not in features


def test_what_tells_the_label_is_left_out_and_said(shown: Path) -> None:
    features = guessed(shown).features
    assert "seconds" not in features and "play_time" not in features
    text = first_spec(shown).text
    assert "seconds: it tells click by itself" in text and "play_time: its name is that of an outcome" in text
    assert "seconds, play_time" in notes(shown)


def test_a_column_that_tells_little_is_kept(shown: Path) -> None:
    feed().with_columns(pl.col("seconds").shuffle(seed=1)).write_parquet(shown / "feed.parquet")
    assert "seconds" in guessed(shown).features


def test_lists_of_candidates_with_the_ids_taken(tmp_path: Path) -> None:
    ids = [[f"h{(r + k) % 50}" for k in range(5)] for r in range(80)]
    frame = {
        "session_id": [f"s{r // 2}" for r in range(80)],
        "user": [f"u{r % 9}" for r in range(80)],
        "at": [T0 + 3_600 * r for r in range(80)],
        "impressions": ["|".join(row) for row in ids],
        "prices": ["|".join(f"{10 + k + r / 7:.2f}" for k in range(5)) for r in range(80)],
        "clicked": [row[r % 5] for r, row in enumerate(ids)],
    }
    pl.DataFrame(frame).write_csv(tmp_path / "lists.csv")
    form = (spec := guessed(tmp_path)).dataset.requests
    assert form is not None and (form.candidates, form.separator, form.request) == ("impressions", "|", None)
    assert form.candidate == {"prices": "prices"} and spec.tasks["clicked"].ids == "clicked"
    assert spec.features["prices"] == Numeric(source="candidate.prices", within="request")


def test_events_with_a_column_of_actions(tmp_path: Path) -> None:
    frame = {
        "timestamp": [(T0 + 60 * r) * 1000 for r in range(400)],
        "visitorid": [r % 25 for r in range(400)],
        "itemid": [(r * r) % 60 for r in range(400)],
        "event": ["buy" if r % 9 == 0 else "view" for r in range(400)],
        "quantity": [r % 4 for r in range(400)],
    }
    pl.DataFrame(frame).write_csv(tmp_path / "events.csv")
    spec = guessed(tmp_path)
    assert spec.dataset.events is not None and set(spec.tasks) == {"view", "buy"}
    assert spec.evaluation.candidates == "all" and not spec.evaluation.exclude_seen
    assert "quantity: known of positives only" in first_spec(tmp_path).text


def test_a_rating_becomes_a_task_from_the_grade_that_half_reach(tmp_path: Path) -> None:
    frame = {
        "user_id": [r % 20 for r in range(300)],
        "movie_id": [(7 * r) % 83 for r in range(300)],
        "rating": [1 + r % 5 for r in range(300)],
        "when": [T0 + 600 * r for r in range(300)],
    }
    pl.DataFrame(frame).write_csv(tmp_path / "ratings.csv")
    assert guessed(tmp_path).tasks["rating"].at_least in (3, 4)
    assert "set at_least as you mean it" in notes(tmp_path)


def test_a_log_of_ads_without_users_takes_its_row_id_once_the_item_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = {"id": range(500), "click": rng.random(500) < 0.3, "hour": [20141021 + r // 300 for r in range(500)]}
    codes = {f"C{i}": rng.integers(0, 40, 500) for i in range(40)}
    pl.DataFrame(frame | codes).write_csv(tmp_path / "ads.csv")
    bare = guessed(tmp_path).dataset.impressions
    assert bare is not None and bare.user == "id" and bare.item is None
    assert "candidates are nothing but their columns (--item COLUMN if one is)" in notes(tmp_path)
    spec = guessed(tmp_path, Named(item="C3"))
    assert spec.dataset.impressions is not None and spec.dataset.impressions.user == "id"
    assert spec.history.length == 0 and sum(name.startswith("C") for name in spec.features) == 39
    assert "hour holds dates such as 20141021 (YYYYMMDD)" in notes(tmp_path, Named(item="C3"))


def test_rows_without_any_id_are_requests_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = {f"I{i}": rng.normal(size=300).round(3) for i in range(1, 14)}
    pl.DataFrame({"label": rng.random(300) < 0.3, **numbers}).write_csv(tmp_path / "rows.csv")
    text, spec = first_spec(tmp_path).text, guessed(tmp_path)
    form = spec.dataset.impressions
    assert form is not None and (form.user, form.item, form.request) == (None, None, None)
    assert 'candidate: ["I{1..13}"]' in text and '"I{1..13}": {kind: numeric, source: "candidate.I{1..13}"}' in text
    assert spec.history.length == 0 and list(spec.features) == list(numbers)
    raw = load_dataset(spec)
    assert raw.items.ids[1:] == ["-"] and len(load_examples(spec, raw)) == 300


def test_a_table_without_labels_nor_ids_is_nothing_to_learn_from(tmp_path: Path) -> None:
    pl.DataFrame({"a": [0.5, 1.5], "b": [1.5, 2.5]}).write_csv(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"no file has a label .* --item COLUMN --user COLUMN"):
        first_spec(tmp_path)


def test_graded_lists_become_a_task_a_grade_worth_the_gain_of_ndcg(tmp_path: Path) -> None:
    row = np.arange(400)
    frame = {"label": (7 * row) % 5, "qid": row // 8, "f_1": np.sin(row), "f_2": np.cos(row), "f_3": row % 97 / 3}
    pl.DataFrame(frame).write_csv(tmp_path / "lists.csv")
    spec = guessed(tmp_path)
    form = spec.dataset.impressions
    assert form is not None and form.user == "qid" and form.item is None
    assert {name: task.at_least for name, task in spec.tasks.items()} == {f"label_{g}": g for g in range(1, 5)}
    assert spec.value.weights == {"label_1": 1, "label_2": 2, "label_3": 4, "label_4": 8}
    assert all(isinstance(spec.features[f"f_{i}"], Numeric) for i in (1, 2, 3))
    assert "label grades: a task a grade" in notes(tmp_path)


def test_names_that_yaml_would_misread_are_quoted(tmp_path: Path) -> None:
    feed().rename({"device": "no", "bid": "bid: max, €"}).write_parquet(tmp_path / "on.parquet")
    form = guessed(tmp_path).dataset.impressions
    assert form is not None and form.context == ("no",) and form.candidate == ("bid: max, €",)


def test_a_folder_without_files_and_a_wrong_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file ending in"):
        first_spec(tmp_path)
    feed().write_parquet(tmp_path / "feed.parquet")
    with pytest.raises(DataError, match=r"the files are feed.parquet; did you mean 'feed.parquet'\?"):
        first_spec(tmp_path, Named(main="feeds.parquet"))
