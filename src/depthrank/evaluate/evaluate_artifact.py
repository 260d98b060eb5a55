"""``evaluate``: an artifact against held-out requests of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from depthrank.artifact import default_log_url, load_artifact
from depthrank.data import (
    BatchLoader,
    Examples,
    RawDataset,
    evaluation_candidates,
    import_log,
    load_dataset,
    load_examples,
    train_item_counts,
)
from depthrank.data.split_times import SPLIT_CODE
from depthrank.engine.valuation import value_weights
from depthrank.errors import DataError
from depthrank.evaluate.about import About
from depthrank.evaluate.collected import Collected, collect
from depthrank.evaluate.evaluation import Evaluation, evaluation_of
from depthrank.evaluate.scorer import ModelScorer, Scorer
from depthrank.events import EventLog, open_log
from depthrank.features import Counters, FeatureEncoder
from depthrank.schema import Spec

_LEFT_OUT = -1


def evaluate(
    artifact: str | Path,
    spec: Spec | str | Path,
    log: EventLog | str | None = None,
    split: str = "test",
    *,
    replicates: int = 1000,
) -> Evaluation:
    """Score every request of ``split`` ("train", "validation", "test") of the spec's files at every level.

    ``log``: an event log or its URL, by default ``events`` beside the artifact. The dataset is imported into it first
    (a no-op after training on the same files), and histories and counters are as of each request. The spec gives data,
    splits and ``evaluation``; features and tasks are those of the artifact. ``replicates``: bootstrap draws.
    Raises ArtifactError, DataError, SpecError.
    """
    spec = spec if isinstance(spec, Spec) else Spec.load(spec)
    loaded = load_artifact(artifact)
    check_same_tasks(loaded.spec, spec)
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    with opened_log(log, artifact) as event_log:
        import_log(spec, raw, event_log)
        scorer = ModelScorer(loaded.spec, loaded.model, loaded.encoder, raw.items)
        # everything but data, split and evaluation is the artifact's own: features, history, tasks, value
        served = replace_data(loaded.spec, spec)
        collected = score_split(scorer, loaded.encoder, served, raw, examples, event_log, split)
    about = About(
        spec.name, loaded.manifest.model_id, split, _candidates_label(spec, examples), tuple(loaded.spec.tasks)
    )
    return evaluation_of(about, collected, train_item_counts(examples, raw.items.size), replicates=replicates)


def score_split(
    scorer: Scorer,
    encoder: FeatureEncoder,
    spec: Spec,
    raw: RawDataset,
    examples: Examples,
    log: EventLog,
    split: str,
) -> Collected:
    """Score the requests of a split with any scorer. Raises DataError where the split has none."""
    chosen = _chosen(examples, split, spec.evaluation.max_requests)
    source = evaluation_candidates(spec, chosen, raw.items.size)
    requests = chosen.of_split(split)
    if not len(requests):
        raise DataError(f"{spec.name!r} has no {split} requests to evaluate on: see split in ranking.yaml")
    loader = BatchLoader(
        chosen,
        split,
        spec,
        encoder=encoder,
        log=log,
        counters=Counters.rebuild(spec, log, raw.items, raw.users),
        items=raw.items,
        users=raw.users,
        source=source,
    )
    num_rows = int(source.counts(requests).sum())
    return collect(scorer, loader.epoch(0), value_weights(spec), id_order(raw), num_rows)


def replace_data(trained: Spec, given: Spec) -> Spec:
    """The artifact's spec with the dataset, splits and evaluation settings of ``given``."""
    return msgspec.structs.replace(
        trained, dataset=given.dataset, split=given.split, evaluation=given.evaluation, folder=given.folder
    )


def id_order(raw: RawDataset) -> npt.NDArray[np.int64]:
    """The place of each catalogue row in the order of item ids, which breaks ties as an answer does; int64 [V]."""
    ids = np.array(raw.items.ids_of(np.arange(raw.items.size)), dtype=object).astype(str)
    place = np.empty(len(ids), dtype=np.int64)
    place[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    return place


def _chosen(examples: Examples, split: str, most: int | None) -> Examples:
    """At most ``most`` requests of the split, drawn at random with a fixed seed; what a user saw stays known."""
    requests = examples.of_split(split)
    if most is None or len(requests) <= most:
        return examples
    kept = np.random.default_rng(0).choice(requests, size=most, replace=False)
    codes = examples.split.copy()
    codes[requests] = _LEFT_OUT
    codes[kept] = SPLIT_CODE[split]
    return replace(examples, split=codes)


def check_same_tasks(trained: Spec, given: Spec) -> None:
    if list(trained.tasks) != list(given.tasks):
        found, expected = ", ".join(given.tasks), ", ".join(trained.tasks)
        raise DataError(f"the spec's tasks are {found}, the artifact was trained on {expected}: give its own spec")


def _candidates_label(spec: Spec, examples: Examples) -> str:
    if spec.evaluation.candidates == "all":
        return "all items" + (" not seen before" if spec.evaluation.exclude_seen else "")
    return "the positive and sampled negatives" if examples.sampled else "those shown"


@contextmanager
def opened_log(log: EventLog | str | None, artifact: str | Path) -> Iterator[EventLog]:
    """The log, closed afterwards where it was opened here."""
    if isinstance(log, EventLog):
        yield log
        return
    with open_log(log or default_log_url(artifact)) as opened:
        yield opened
