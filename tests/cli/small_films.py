"""A small MovieLens look-alike, in the form of the wheel that the demo reads."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GENRES = ("Drama", "Comedy", "Horror", "Sci-Fi", "Animation", "Musical", "Western", "Film-Noir")
NUM_USERS, NUM_FILMS, RATINGS_A_USER = 60, 120, 20
Command = Callable[..., subprocess.CompletedProcess[str]]


def write_wheel(path: Path, seed: int = 0) -> Path:
    """A zip with the three ml-100k files, where a user likes one genre."""
    rng = np.random.default_rng(seed)
    genre = rng.integers(0, len(GENRES), NUM_FILMS)
    films = [f'{i + 1}\tFilm {i + 1}, "The"\t{1950 + i % 48}\t{GENRES[g]} Drama' for i, g in enumerate(genre)]
    films[1] = "2\tFilm without a year\tV\tunknown"
    people = [f"{u + 1}\t{18 + u}\t{'MF'[u % 2]}\twriter\t00000" for u in range(NUM_USERS)]
    ratings = []
    for user in range(NUM_USERS):
        for i, film in enumerate(rng.choice(NUM_FILMS, RATINGS_A_USER, replace=False)):
            stars = 5 if genre[film] == user % len(GENRES) else 1 + int(rng.integers(0, 4))
            ratings.append(f"{user + 1}\t{film + 1}\t{stars}\t{880_000_000 + user * 5_000 + i * 60}")
    headers = {
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for part, lines in (("item", films), ("user", people), ("inter", ratings)):
            text = "\n".join([headers[part], *lines]) + "\n"
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{part}", text)
    return path


@dataclass(frozen=True)
class SmallDemo:
    """A folder that looks as `make demo` leaves it: demo/ranking.yaml, demo/artifact, demo/events."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "demo"

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def log(self) -> str:
        return f"lmdb:{self.folder / 'events'}"
