"""The recipes on the real data sets: what they write loads, with the counts that are known of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from depthrank.data import Examples, RawDataset, load_dataset, load_examples
from depthrank.data.event_rows import EventRows
from depthrank.data.shown import Shown
from depthrank.schema import Spec

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared/data"


def prepared(recipe: str, folder: str, out: Path) -> tuple[Spec, RawDataset, Examples]:
    """Run a recipe's prepare and load what it wrote."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs the real data at {DATA / folder}")
    path = ROOT / "recipes" / recipe / "prepare.py"
    found = importlib.util.spec_from_file_location(f"prepare_{recipe}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    module.prepare(DATA / folder, out)
    spec = Spec.load(out / "ranking.yaml")
    raw = load_dataset(spec)
    return spec, raw, load_examples(spec, raw)


@pytest.mark.data
def test_kuairand_has_its_impressions_rates_and_days(tmp_path: Path) -> None:
    spec, raw, examples = prepared("kuairand", "kuairand_pure", tmp_path)
    assert isinstance(raw.main, Shown) and len(raw.main.item) == 91_805 and raw.items.size == 7_584
    rates = dict(zip(spec.tasks, np.nanmean(examples.label, axis=0), strict=True))
    assert rates["click"] == pytest.approx(0.44, abs=0.01) and rates["like"] == pytest.approx(0.017, abs=0.001)
    day_ms, beijing_ms = 86_400_000, 8 * 3_600_000
    for split, days in (("train", {25, 26, 27, 28}), ("validation", {29}), ("test", {30})):
        shown = raw.main.shown_ms[examples.candidates_of(examples.of_split(split))]
        found = set(((shown + beijing_ms) // day_ms - 19_107 + 25).tolist())
        assert found <= days | ({24} if split == "train" else set())
    feedback = {"is_click", "is_like", "is_follow", "long_view", "play_time_ms", "profile_stay_time"}
    read = {getattr(f, "source", "").partition(".")[2] for f in spec.features.values()}
    assert not read & feedback


@pytest.mark.data
def test_kuairand_prior_events_lie_in_order_and_share_the_time_of_their_watch(tmp_path: Path) -> None:
    _, raw, _ = prepared("kuairand", "kuairand_pure", tmp_path)
    past = raw.past[0].frame
    assert past.filter(pl.col("action") == "watch").height == 817_187
    liked, watched = (past.filter(pl.col("action") == a) for a in ("like", "watch"))
    together = liked.join(watched, on=["user", "item", "time_ms"], how="semi").height
    assert together / liked.height > 0.6


@pytest.mark.data
def test_trivago_lists_hold_their_click_and_prices(tmp_path: Path) -> None:
    _, raw, examples = prepared("trivago", "trivago", tmp_path)
    assert isinstance(raw.main, Shown) and len(examples) == 13_597
    clicks = np.add.reduceat(examples.label[:, 0], examples.offsets[:-1])
    assert (clicks == 1).mean() > 0.999 and np.diff(examples.offsets).max() == 25
    assert examples.candidate["price"].dtype == np.float64 and not np.isnan(examples.candidate["price"]).any()
    first = 1 / (1 + examples.position[examples.label[:, 0] > 0])
    assert first.mean() == pytest.approx(0.450, abs=0.005)  # the MRR of the shown order
    assert (examples.split == 2).mean() == pytest.approx(0.2, abs=0.005)


@pytest.mark.data
def test_ml1m_leaves_out_the_last_two_of_each_user(tmp_path: Path) -> None:
    _, raw, examples = prepared("ml1m", "ml1m", tmp_path)
    assert isinstance(raw.main, EventRows) and len(examples) == 999_611 and raw.items.size == 3_417
    assert len(examples.of_split("test")) == len(examples.of_split("validation")) == 6_040
    last = {}
    for user, item in zip(raw.main.frame["user"], raw.main.frame["item"], strict=True):
        last[user] = item
    test = examples.of_split("test").tolist()
    assert all(raw.items.ids_of([examples.item_row[r]])[0] == last[examples.user[r]] for r in test[:200])


@pytest.mark.data
def test_the_news_fixture_joins_timed_histories_as_of_each_list(tmp_path: Path) -> None:
    if not (DATA / "ebnerd_fixture").is_dir():
        pytest.skip(f"needs the real data at {DATA / 'ebnerd_fixture'}")
    for name in ("behaviors", "history"):
        (tmp_path / f"{name}.parquet").symlink_to(DATA / "ebnerd_fixture" / f"{name}.parquet")
    spec = Spec.from_plain(
        {
            "name": "news",
            "dataset": {
                "requests": {
                    "path": "behaviors.parquet",
                    "user": "user_id",
                    "time": {"column": "impression_time", "unit": "iso"},
                    "candidates": "article_ids_inview",
                    "context": ["device_type", "is_subscriber"],
                },
                "histories": [
                    {
                        "path": "history.parquet",
                        "user": "user_id",
                        "items": "article_id_fixed",
                        "action": "click",
                        "times": {"column": "impression_time_fixed", "unit": "iso"},
                    }
                ],
            },
            "features": {"device": {"kind": "categorical", "source": "context.device_type"}},
            "tasks": {"click": {"ids": "article_ids_clicked"}},
            "value": {"weights": {"click": 1.0}},
        },
        folder=str(tmp_path),
    )
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    assert len(examples) == 1_046 and len(set(examples.user)) == 38
    past = raw.past[0].frame
    assert past.height / past["user"].n_unique() > 100
    assert past["time_ms"].max() < examples.time_ms.max()  # type: ignore[operator]
