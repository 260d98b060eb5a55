"""trivago (RecSys Challenge 2019) -> displayed lists and in-session actions as Parquet, with ranking.yaml beside them.

    python recipes/trivago/prepare.py [--data ../shared/data/trivago] [--out work/trivago]

A click-out is a request: the displayed hotels, their prices and places, and the one that was clicked. The other actions
are history, each on its reference: a hotel, or the text of a filter, sort order or place, which stands for an item.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent
CLICK_OUT = "clickout item"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/trivago")
    parser.add_argument("--out", type=Path, default=Path("work/trivago"))
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.out)
    print(f"wrote {arguments.out}/ranking.yaml")


def prepare(data: Path, out: Path) -> None:
    """Write the dataset into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    actions = pl.read_parquet(data / "trivago_val_100k.parquet")
    click_out = pl.col("action_type") == CLICK_OUT
    kept = ["user_id", "timestamp", "platform", "city", "device", "current_filters"]
    requests = actions.filter(click_out & pl.col("impressions").is_not_null())
    requests = requests.with_columns(pl.col("impressions").str.split("|").list.len().alias("shown"))
    places = pl.int_ranges(1, pl.col("shown") + 1).cast(pl.List(pl.String)).list.join("|").alias("places")
    requests.select(*kept, "impressions", "prices", places, "reference").write_parquet(out / "requests.parquet")
    past = actions.filter(~click_out & pl.col("reference").is_not_null())
    past.select("user_id", "timestamp", "action_type", "reference").write_parquet(out / "actions.parquet")
    shutil.copyfile(HERE / "ranking.yaml", out / "ranking.yaml")


if __name__ == "__main__":
    main()
