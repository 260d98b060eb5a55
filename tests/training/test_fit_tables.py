"""``tables:`` of a spec, from the plan over training to what serving maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from depthrank.artifact import load_artifact
from depthrank.cli.app import app
from depthrank.errors import SpecError
from depthrank.schema.settings import TableSettings
from depthrank.tables import served_tables
from depthrank.training import choose_sharing, train
from depthrank.training.choose_sharing import decided
from depthrank.training.fit_tables import TableFitting, weighted_ne
from depthrank.training.loop import Scored
from planted_world import WORLD_SPEC, write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("planned")
    write_world(folder, num_users=12, visits=8)
    return folder


def trained(folder: Path, name: str, **tables: Any) -> Any:
    """A model of the tiny world trained with these table settings."""
    spec = {**WORLD_SPEC, "model": {"preset": "demo", "width": 16, "heads": 2}, "tables": tables}
    spec["training"] = {**WORLD_SPEC["training"], "epochs": 2, "batch_requests": 16}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return train(folder / f"{name}.yaml", log=f"lmdb:{folder / 'log'}", out=folder / name, progress=False)


@pytest.fixture(scope="module")
def planned(folder: Path) -> Any:
    return trained(folder, "planned", budget="2kB", width=16, ne_limit=0.5, prune=0.01)


def test_the_rows_that_serving_maps_fit_the_budget_and_are_in_the_formats_that_were_chosen(folder, planned):
    model, told = load_artifact(folder / "planned").model, planned.summary["tables"]
    assert told["budget_bytes"] == 2_000 < told["bytes_unplanned"] and told["bytes"] <= 2_000
    sources = {name.removesuffix("_features"): table.source for name, table in served_tables(model).items()}
    stored = sum(source.packed_VB.numel() * source.packed_VB.element_size() for source in sources.values())
    assert stored == told["fit"]["bytes"] <= told["bytes"]
    assert {side: source.form for side, source in sources.items()} == told["fit"]["formats"]
    assert {source.width for source in sources.values()} == {16}
    assert sum(f["exact_share"] < 1 for f in told["features"]) > 0, "not every id has a row of its own"


def test_what_left_and_what_it_cost_is_told(planned):
    fit = planned.summary["tables"]["fit"]
    assert fit["prune_ne_change"] <= 0.01 and fit["pruned_rows"] >= 0 and fit["importance"]
    assert {tried.get("prune") for tried in fit["tried"]} >= {"feature", "rows"}
    assert fit["within_limit"] == (fit["format_ne_change"] <= 0.5)


def test_the_saved_model_ranks_as_the_one_that_was_fitted_and_inspect_shows_the_plan(folder, planned):
    report = CliRunner().invoke(app, ["inspect", str(folder / "planned")])
    assert report.exit_code == 0, report.output
    for word in ("tables", "exact", "collide", "earns", "item"):
        assert word in report.output


def test_parts_are_taken_only_where_they_are_better_from_every_starting_point():
    assert decided({"unified": [0.5, 0.6], "separate": [0.4, 0.5]}) == "separate"
    assert decided({"unified": [0.5, 0.6], "separate": [0.1, 0.61]}) == "unified"


def test_sharing_is_tried_on_the_data_told_and_leaves_no_trace_in_the_training_that_follows(folder, monkeypatch):
    decided_on: list[Any] = []
    monkeypatch.setattr(choose_sharing, "decided", lambda losses: decided_on.append(losses) or "unified")
    named = trained(folder, "named", budget="4kB", width=16, rows="fp32", sharing="unified")
    tried = trained(folder, "tried", budget="4kB", width=16, rows="fp32")
    assert named.summary["tables"]["sharing"] == {"chosen": "unified", "tried": []}
    told = tried.summary["tables"]["sharing"]
    assert decided_on == [{one["sharing"]: one["losses"] for one in told["tried"]}]
    assert {way: len(set(losses)) for way, losses in decided_on[0].items()} == {"unified": 2, "separate": 2}
    assert decided_on[0]["unified"] != decided_on[0]["separate"]
    assert "hashed rows separate: validation loss" in CliRunner().invoke(app, ["inspect", str(folder / "tried")]).output
    assert _weights(folder / "tried") == _weights(folder / "named")


def _weights(folder: Path) -> list[bytes]:
    return [table.source.packed_VB.numpy().tobytes() for table in served_tables(load_artifact(folder).model).values()]


def test_without_a_tables_section_rows_stay_as_they_always_were(folder):
    plain = trained(folder, "plain").summary["tables"]
    assert plain["row_format"] == "fp32" and plain["exact_share"] == 1.0 and "fit" not in plain
    model = load_artifact(folder / "plain").model
    assert all(slot.is_exact for table in served_tables(model).values() for slot in table.slots)


def test_ids_are_admitted_while_training_runs_and_serving_reads_the_same_directory(folder):
    told = trained(folder, "admitted", budget="4kB", width=16, rows="fp32", admit=2).summary["tables"]
    assert told["admission"]["entered"] > 0
    tables = served_tables(load_artifact(folder / "admitted").model).values()
    owned = [
        int((table.row_map.directory(slot) >= 2).sum())
        for table in tables
        for slot in table.slots
        if slot.has_directory
    ]
    assert sum(owned) == told["admission"]["entered"] - told["admission"]["left"] > 0


def test_a_budget_that_is_too_small_is_one_clear_error(folder):
    with pytest.raises(SpecError, match=r"tables.budget of 100 bytes has no room .* take at least"):
        trained(folder, "small", budget=100)


def test_ne_is_that_of_the_deepest_level_by_the_weights_of_the_tasks():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 2)) < 0.5).astype(np.float32)
    logits = np.stack([rng.normal(size=(400, 2)), 2 * labels - 1 + rng.normal(size=(400, 2))]).astype(np.float32)
    scored = Scored(logits, labels, np.ones(400), np.array(["u"] * 400, dtype=object))
    both, first = weighted_ne(scored, [1.0, 1.0]), weighted_ne(scored, [1.0, 0.0])
    assert first < 0.8 and both != first
    worse = Scored(logits[::-1], labels, scored.weight_N, scored.user_N)
    assert weighted_ne(worse, [1.0, 0.0]) > 0.95
    one_class = Scored(logits, np.ones_like(labels), scored.weight_N, scored.user_N)
    assert np.isnan(weighted_ne(one_class, [1.0, 1.0]))


def test_formats_outside_the_limit_are_not_taken(folder, planned):
    """The choice sees what each format does: one that makes NE worse than the limit is tried and left."""
    from depthrank.model import ElasticRanker
    from depthrank.tables import FusedTable

    config = load_artifact(folder / "plain").model.config
    for limit, expected in ((1.0, "int4"), (0.01, "fp32")):
        torch.manual_seed(0)
        model = ElasticRanker(config)
        table = model.item_features.table
        assert isinstance(table, FusedTable)
        exact = table.weight.detach().clone()
        exact[table.row_map.padding_rows()] = 0.0

        def measure(table: FusedTable = table, exact: torch.Tensor = exact) -> Scored:
            rounded = not torch.equal(table.weight, exact)
            labels = np.array([[1.0], [0.0]] * 50, dtype=np.float32)
            noise = np.random.default_rng(1).normal(size=labels.shape) * (1.5 if rounded else 1.0)
            return Scored((labels * 2 - 1 + noise)[None], labels, np.ones(100), np.array(["u"] * 100, dtype=object))

        with torch.no_grad():
            table.weight.copy_(exact)
        settings = TableSettings(rows="auto", ne_limit=limit)
        fit = TableFitting(model, settings, [1.0], measure).run(iter(()))
        assert fit.formats["item"] == expected == model.config.item.row_format
        assert fit.within_limit and any(tried["ne_change"] > 0.01 for tried in fit.tried)
