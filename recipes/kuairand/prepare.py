"""KuaiRand-Pure -> items, users, impressions and past events as Parquet, with ranking.yaml beside them.

    python recipes/kuairand/prepare.py [--data ../shared/data/kuairand_pure] [--out work/kuairand]

Feedback columns are labels, never inputs: play time, stay times and the other is_* columns are not written. The prior
sequences have an order and the time of the newest event only: a watch lies a minute after the one before it, and a
long view or like takes the time of its watch; those older than the watch list lie before it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent
SPACING_MS = 60_000
LOG = "log_standard_4_25_to_4_30_pure.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/kuairand_pure")
    parser.add_argument("--out", type=Path, default=Path("work/kuairand"))
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.out)
    print(f"wrote {arguments.out}/ranking.yaml")


def prepare(data: Path, out: Path) -> None:
    """Write the dataset into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    pl.read_parquet(data / "video_features_basic_pure.parquet").write_parquet(out / "items.parquet")
    pl.read_parquet(data / "user_features_pure.parquet").write_parquet(out / "users.parquet")
    labels = ["is_click", "long_view", "is_like", "is_follow"]
    kept = ["user_id", "video_id", "time_ms", "tab", *labels]
    pl.read_parquet(data / LOG, columns=kept).write_parquet(out / "impressions.parquet")
    past_events(pl.read_parquet(data / "user_sequences.parquet")).write_parquet(out / "past_events.parquet")
    for spec in ("ranking.yaml", "three_levels.yaml"):
        shutil.copyfile(HERE / spec, out / spec)


def past_events(sequences: pl.DataFrame) -> pl.DataFrame:
    """The prior sequences as events: user_id, video_id, action, time_ms."""
    rows: list[tuple[int, int, str, int]] = []
    for user, last_ms, watched, liked, long_watched in sequences.select(
        "user_id", "last_time_ms", "watch_seq", "like_seq", "long_watch_seq"
    ).iter_rows():
        times = [last_ms - (len(watched) - 1 - i) * SPACING_MS for i in range(len(watched))]
        rows += [(user, item, "watch", at) for item, at in zip(watched, times, strict=True)]
        for action, items in (("long_view", long_watched), ("like", liked)):
            rows += [(user, item, action, at) for item, at in _times_of(items, watched, times, last_ms)]
    return pl.DataFrame(rows, schema=["user_id", "video_id", "action", "time_ms"], orient="row")


def _times_of(items: list[int], watched: list[int], times: list[int], last_ms: int) -> list[tuple[int, int]]:
    """Each item with the time of its watch, matched from the newest backwards; what is not found is one spacing older
    than what came after it."""
    found, end, at = [], len(watched), last_ms + SPACING_MS
    for item in reversed(items):
        place = next((i for i in range(end - 1, -1, -1) if watched[i] == item), None)
        if place is None:
            at -= SPACING_MS
        else:
            end, at = place, times[place]
        found.append((item, at))
    return found[::-1]


if __name__ == "__main__":
    main()
