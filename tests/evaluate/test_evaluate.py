"""Evaluation: figures against plain loops, JSON and report, and a trained artifact end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from depthrank.data import Batch, BatchLoader, Examples, RawDataset, fit_sample, import_log, load_dataset, load_examples
from depthrank.data import train_item_counts as counts_of
from depthrank.errors import DataError
from depthrank.evaluate import About, Collected, Evaluation, LevelScores, evaluate, evaluation_of, score_split
from depthrank.evaluate.collected import collect
from depthrank.evaluate.evaluate_artifact import id_order
from depthrank.evaluate.scorer import value_factor
from depthrank.events import EventLog
from depthrank.features import FeatureEncoder
from depthrank.schema import Spec
from depthrank.training import train

T0 = 1_760_000_000_000
NUM_ITEMS = 30
HOSTILE = "<script>alert(1)</script>"


def plain_spec() -> dict[str, Any]:
    return {
        "name": HOSTILE,
        "dataset": {
            "items": {"path": "items.parquet", "id": "item"},
            "requests": {
                "path": "requests.parquet",
                "user": "user",
                "time": {"column": "at", "unit": "ms"},
                "candidates": "shown",
                "candidate": {"bid": "bids"},
                "context": ["device"],
            },
        },
        "features": {
            "item": {"kind": "categorical", "source": "item.id"},
            "genre": {"kind": "categorical", "source": "item.genre"},
            "device": {"kind": "categorical", "source": "context.device"},
        },
        "tasks": {"click": {"column": "clicked"}, "buy": {"column": "bought"}},
        "value": {"weights": {"click": 1.0}, "times": "bid"},
        "split": {"validation": 0.1, "test": 0.4},
        "history": {"length": 6},
    }


def write_files(folder: Path, num_requests: int = 120) -> None:
    """Lists of 12 items; low item numbers are clicked more."""
    rng = np.random.default_rng(0)
    pl.DataFrame(
        {"item": range(NUM_ITEMS), "genre": [HOSTILE if i % 3 else "b" for i in range(NUM_ITEMS)]}
    ).write_parquet(folder / "items.parquet")
    shown = [rng.permutation(NUM_ITEMS)[:12].tolist() for _ in range(num_requests)]
    clicked = [[int(rng.random() < 0.5 / (1 + i / 4)) for i in row] for row in shown]
    pl.DataFrame(
        {
            "user": [f"u{r % 9}" for r in range(num_requests)],
            "at": [T0 + r * 60_000 for r in range(num_requests)],
            "shown": shown,
            "bids": [[1.0] * 12 for _ in shown],
            "clicked": clicked,
            "bought": [[c * (i % 2) for i, c in enumerate(row)] for row in clicked],
            "device": [HOSTILE if r % 4 == 0 else "web" for r in range(num_requests)],
        }
    ).write_parquet(folder / "requests.parquet")


@dataclass
class TwoLevels:
    """A router that knows nothing and an expert that prefers low item numbers."""

    spec: Spec

    def score_batch(self, batch: Batch) -> list[LevelScores]:
        factor = value_factor(self.spec, batch)
        found = []
        for score in ((batch.item_row * 7 % 11) / 12, 0.5 / (1 + batch.item_row / 4)):
            p = np.stack([score, score / 2], axis=1).astype(np.float32)
            found.append(LevelScores(p, p[:, 0] * factor))
        return found


@dataclass
class World:
    spec: Spec
    raw: RawDataset
    examples: Examples
    log: EventLog
    encoder: FeatureEncoder

    def collected(self, **evaluation: Any) -> Collected:
        spec = Spec.from_plain({**plain_spec(), "evaluation": evaluation}, folder=self.spec.folder)
        return score_split(TwoLevels(spec), self.encoder, spec, self.raw, self.examples, self.log, "test")

    def evaluation(self, replicates: int = 50, **settings: Any) -> Evaluation:
        popularity = counts_of(self.examples, self.raw.items.size)
        about = About(self.spec.name, "model-1", "test", "those shown", tuple(self.spec.tasks))
        return evaluation_of(about, self.collected(**settings), popularity, replicates=replicates)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("data")
    write_files(folder)
    spec = Spec.from_plain(plain_spec(), folder=str(folder))
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    with EventLog.open(f"lmdb:{folder}/log", durable=False) as log:
        import_log(spec, raw, log)
        encoder = FeatureEncoder.fit(spec, raw.items, raw.users, fit_sample(examples, raw))
        yield World(spec, raw, examples, log, encoder)


def test_figures_equal_loops_over_the_test_requests(world: World) -> None:
    figures = world.evaluation().figures
    rows = world.examples.candidates_of(world.examples.of_split("test"))
    label, item = world.examples.label[rows].reshape(-1, 12, 2), world.examples.item_row[rows].reshape(-1, 12)
    score = 0.5 / (1 + item / 4)
    assert figures["tasks"]["click"]["auc"] == pytest.approx(roc_auc_score(label[..., 0].ravel(), score.ravel()))
    assert figures["tasks"]["buy"]["rows"] == label[..., 1].size
    judged = [r for r in range(len(label)) if 0 < label[r, :, 0].sum() < 12]
    ndcg = np.mean([ndcg_score([label[r, :, 0]], [score[r]], k=10) for r in judged])
    assert figures["ranking"]["ndcg@10"] == pytest.approx(ndcg)
    assert figures["ranking"]["requests"] == len(judged)
    top = np.concatenate([item[r][np.argsort(-score[r])[:10]] for r in range(len(item))])
    assert figures["ranking"]["coverage"] == len(set(top.tolist())) / NUM_ITEMS


def test_the_json_has_the_keys_that_outside_programs_read(world: World) -> None:
    plain = json.loads(json.dumps(world.evaluation().to_json(), allow_nan=False))
    assert set(plain["tasks"]) == {"click", "buy"}
    for found in (plain, *plain["levels"]):
        assert {"auc", "gauc", "ne", "logloss"} <= set(found["tasks"]["click"])
        assert {"ndcg@10", "hr@10", "mrr", "coverage", "long_tail_share"} <= set(found["ranking"])
    assert [level["level"] for level in plain["levels"]] == [0, 1]
    assert plain["levels"][-1]["recall@k"]["10"] == 1.0 > plain["levels"][0]["recall@k"]["10"] > 0
    assert plain["tasks"] == plain["levels"][-1]["tasks"]


def test_the_deeper_level_is_shown_to_be_better_with_a_paired_interval(world: World) -> None:
    gain = world.evaluation(replicates=200).figures["deepest_over_router"]
    assert gain["ndcg@10"]["low"] > 0 and gain["tasks"]["click"]["gauc"]["low"] > 0
    levels = world.evaluation().figures["levels"]
    difference = levels[1]["ranking"]["ndcg@10"] - levels[0]["ranking"]["ndcg@10"]
    assert gain["ndcg@10"]["estimate"] == pytest.approx(difference)
    gauc = levels[1]["tasks"]["click"]["gauc"] - levels[0]["tasks"]["click"]["gauc"]
    assert gain["tasks"]["click"]["gauc"]["estimate"] == pytest.approx(gauc)


def test_slices_partition_the_traffic(world: World) -> None:
    figures = world.evaluation().figures
    slices = figures["slices"]
    total = figures["about"]["requests"]
    assert sum(s["requests"] for s in slices["history_length"]) == total
    assert sum(s["requests"] for s in slices["scenario"]["device"]) == total
    assert sum(s["rows"] for s in slices["item_popularity"]) == figures["about"]["rows_of_task_metrics"]
    assert len(slices["item_popularity"]) > 2


def test_the_whole_catalogue_is_ranked_where_the_spec_says_so(world: World) -> None:
    spec = plain_spec()
    spec["dataset"]["requests"] |= {"candidate": {}}
    spec["value"] = {"weights": {"click": 1.0}}
    spec["evaluation"] = {"candidates": "all", "exclude_seen": False}
    all_items = Spec.from_plain(spec, folder=world.spec.folder)
    raw = load_dataset(all_items)
    examples = load_examples(all_items, raw)
    found = score_split(TwoLevels(all_items), world.encoder, all_items, raw, examples, world.log, "test")
    assert set(np.concatenate(found.num_candidates).tolist()) == {NUM_ITEMS}


def test_at_most_max_requests_are_scored_and_the_same_ones_each_time(world: World) -> None:
    first, second = world.collected(max_requests=10), world.collected(max_requests=10)
    assert first.num_requests == 10 < world.collected().num_requests
    assert first.user == second.user


def test_ties_are_broken_by_item_id_as_in_an_answer(world: World) -> None:
    order = id_order(world.raw)
    ids = world.raw.items.ids_of(np.arange(world.raw.items.size))
    assert [ids[i] for i in np.argsort(order)] == sorted(ids)


def test_missing_labels_and_one_class_tasks_give_null_not_nonsense(world: World) -> None:
    def unlabelled(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            batch.label[:, 1] = np.nan
            yield batch

    loader = BatchLoader(
        world.examples, "test", world.spec, encoder=world.encoder, log=world.log, counters=None,
        items=world.raw.items, users=None, ahead=0,
    )  # fmt: skip
    found = collect(TwoLevels(world.spec), unlabelled(loader.epoch(0)), np.array([1.0, 0.0]), id_order(world.raw), 100)
    about = About("x", "m", "test", "those shown", tuple(world.spec.tasks))
    popularity = counts_of(world.examples, world.raw.items.size)
    plain = evaluation_of(about, found, popularity, replicates=20).to_json()
    assert plain["tasks"]["buy"] | {"rows": 0} == plain["tasks"]["buy"] and plain["tasks"]["buy"]["auc"] is None
    assert plain["tasks"]["click"]["auc"] is not None
    assert plain["absent"] == {"buy": "0 positives among 0 labels: both classes are needed"}


def test_task_metrics_of_many_rows_come_from_every_nth_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.evaluation().figures
    monkeypatch.setattr("depthrank.evaluate.collected.MAX_ROWS", 200)
    part = world.evaluation().figures
    assert 0 < part["about"]["rows_of_task_metrics"] <= 200 < whole["about"]["rows_of_task_metrics"]
    assert part["ranking"] == whole["ranking"]


def test_the_report_is_one_page_with_plotly_once_and_no_markup_from_data(world: World, tmp_path: Path) -> None:
    world.evaluation().write_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("plotly.js v") == 1 and "http-equiv" not in page and '<script src="http' not in page
    assert "weighted by the user&#x27;s impressions, users with one class left out" in page
    assert "color-scheme: light dark" in page


def test_a_split_without_requests_is_told(world: World) -> None:
    none = replace(world.examples, split=np.zeros(len(world.examples), dtype=np.int8))
    with pytest.raises(DataError, match="no test requests"):
        score_split(TwoLevels(world.spec), world.encoder, world.spec, world.raw, none, world.log, "test")


def test_a_trained_artifact_is_evaluated_end_to_end(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_files(tmp_path)
    spec = Spec.from_plain(plain_spec() | {"training": {"epochs": 1}}, folder=str(tmp_path))
    train(spec, out=tmp_path / "artifact", progress=False)
    evaluation = evaluate(tmp_path / "artifact", spec, replicates=20)
    plain = evaluation.to_json()
    assert len(plain["levels"]) >= 2
    for level in plain["levels"]:
        assert math.isfinite(level["tasks"]["click"]["auc"]) and math.isfinite(level["ranking"]["ndcg@10"])
    other = Spec.from_plain(plain_spec() | {"tasks": {"click": {"column": "clicked"}}}, folder=str(tmp_path))
    with pytest.raises(DataError, match="the artifact was trained on click, buy"):
        evaluate(tmp_path / "artifact", other)
