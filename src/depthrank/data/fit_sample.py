"""What the feature encoder is fitted on: values of the training split, and nothing later."""

from __future__ import annotations

import numpy as np
import polars as pl

from depthrank.data.examples import Examples, Int64
from depthrank.data.load import RawDataset
from depthrank.features import FitSample


def fit_sample(examples: Examples, raw: RawDataset | None = None) -> FitSample:
    """The training requests' contexts, candidates, items and users; with ``raw``, also the items of past events (files
    beside the main one) up to the newest training request, so that what only histories hold has a vocabulary entry."""
    train = examples.of_split("train")
    rows = examples.candidates_of(train)
    item_rows = examples.item_row[rows]
    if raw is not None:
        item_rows = np.concatenate([item_rows, _past_items(raw, int(examples.time_ms[train].max(initial=0)))])
    chosen = train.tolist()
    return FitSample(
        contexts={c: [values[r] for r in chosen] for c, values in examples.context.items()},
        candidates={c: values[rows] for c, values in examples.candidate.items()},
        item_rows=item_rows,
        user_rows=examples.user_row[train],
        users=[examples.user[r] for r in chosen],
    )


def _past_items(raw: RawDataset, until_ms: int) -> Int64:
    ids = [rows.frame.filter(pl.col("time_ms") <= until_ms)["item"].to_list() for rows in raw.past]
    return raw.items.row_of([item for part in ids for item in part])


def joined_samples(a: FitSample, b: FitSample) -> FitSample:
    """The values of both, which are of one spec."""
    return FitSample(
        contexts={name: [*values, *b.contexts[name]] for name, values in a.contexts.items()},
        candidates={name: [*values, *b.candidates[name]] for name, values in a.candidates.items()},
        item_rows=np.concatenate((a.item_rows, b.item_rows)),
        user_rows=np.concatenate((a.user_rows, b.user_rows)),
        users=[*a.users, *b.users],
    )
