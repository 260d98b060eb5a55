"""MovieLens-1M in the SASRec form -> events, items and users as Parquet, and both specs beside them.

    python recipes/ml1m/prepare.py [--data ../shared/data/ml1m] [--out work/ml1m]

Items keep the numbers of ml-1m.txt; the mapping files lead to the titles, genres and ages of the original.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/ml1m")
    parser.add_argument("--out", type=Path, default=Path("work/ml1m"))
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.out)
    print(f"wrote {arguments.out}/ranking.yaml")


def prepare(data: Path, out: Path) -> None:
    """Write the dataset into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    pairs(data / "ml-1m.txt", "user", "item").write_parquet(out / "events.parquet")
    movies = pairs(data / "mapping_sas_to_original_items.txt", "item", "movie")
    movies = movies.join(double_colon(data / "movies.dat", "movie", "title", "genres"), on="movie", how="left")
    movies = movies.with_columns(
        pl.col("genres").str.split("|"), pl.col("title").str.extract(r"\((\d{4})\)$").cast(pl.Int32).alias("year")
    )
    movies.select("item", "title", "year", "genres").write_parquet(out / "items.parquet")
    people = pairs(data / "mapping_sas_to_original_users.txt", "user", "person")
    details = double_colon(data / "users.dat", "person", "gender", "age", "occupation", "zip")
    people.join(details, on="person", how="left").drop("person").write_parquet(out / "users.parquet")
    for spec in ("ranking.yaml", "deeper.yaml"):
        shutil.copyfile(HERE / spec, out / spec)


def pairs(path: Path, first: str, second: str) -> pl.DataFrame:
    """A file of two ids a line, separated by a space."""
    return pl.read_csv(path, separator=" ", has_header=False, new_columns=[first, second], infer_schema=False)


def double_colon(path: Path, *columns: str) -> pl.DataFrame:
    """One of the original .dat files: Latin-1, fields separated by "::"."""
    lines = path.read_text(encoding="latin-1").splitlines()
    return pl.DataFrame([line.split("::") for line in lines], schema=list(columns), orient="row")


if __name__ == "__main__":
    main()
