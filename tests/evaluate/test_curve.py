"""The curve of a real artifact: held-out requests replayed, points and comparisons as designed, costs that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import yaml

from depthrank.artifact import Contents, load_artifact, model_identity, save_artifact
from depthrank.data import import_log, load_dataset, load_examples
from depthrank.errors import ArtifactError
from depthrank.evaluate.draw_curve import draw_curve
from depthrank.evaluate.scaling_curve import exponent, scaling_curve
from depthrank.events import open_log
from depthrank.features import Counters
from depthrank.routing import AdaptivePolicy
from depthrank.schema import Spec
from depthrank.training import train
from depthrank.training.fit_by_replay import FittedPolicy, fit_by_replay
from depthrank.training.replay_requests import FullDepth, HeldOut, replay
from planted_world import WORLD_SPEC, World, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A planted world where thirty candidates are shown, so that plans differ."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("wide")
    spec = write_world(folder, visits=10, shown=30)
    quick = {**WORLD_SPEC, "training": {**WORLD_SPEC["training"], "epochs": 2, "batch_candidates": 2048}}
    spec.write_text(yaml.safe_dump(quick, sort_keys=False))
    log_url = f"lmdb:{folder / 'events'}"
    train(spec, log=log_url, out=folder / "artifact", progress=False)
    return World(folder, spec, folder / "artifact", log_url)


@pytest.fixture(scope="module")
def spec(world) -> Spec:
    return Spec.load(world.spec)


@pytest.fixture(scope="module")
def held_out(world, spec):
    artifact = load_artifact(world.artifact)
    raw = load_dataset(spec)
    served = msgspec.structs.replace(artifact.spec, evaluation=spec.evaluation, folder=spec.folder)
    with open_log(world.log_url) as log:
        import_log(spec, raw, log)
        counters = Counters.rebuild(served, log, raw.items, raw.users)
        yield HeldOut(served, load_examples(spec, raw), artifact.encoder, log, counters, raw.items, raw.users)


@pytest.fixture(scope="module")
def fitted(world, held_out) -> FittedPolicy:
    torch.set_num_threads(1)
    return fit_by_replay(held_out, load_artifact(world.artifact).model, most_requests=80)


@pytest.fixture(scope="module")
def artifact(world, fitted, tmp_path_factory) -> Path:
    found, out = load_artifact(world.artifact), tmp_path_factory.mktemp("curve") / "artifact"
    parts = (found.spec, found.model, found.encoder, found.items, found.users)
    save_artifact(out, Contents(*parts, 0, adaptive=fitted.policy))
    return out


@pytest.fixture(scope="module")
def figures(world, spec, artifact):
    return draw_curve(artifact, spec, world.log_url, "test", 60, replicates=50)


def test_training_ends_with_a_policy_for_the_model_it_trained_and_reports_it(world):
    found = load_artifact(world.artifact)
    assert found.adaptive is not None and found.adaptive.made_for == model_identity(found.model)
    report = found.manifest.training["adaptive"]
    assert report["fitted"] and report["requests"] >= 40 and report["rungs"][0]["kept_gain"] == 0


def test_the_policy_is_fitted_on_validation_requests_within_its_limits(fitted):
    assert fitted.policy is not None and fitted.policy.fitted["requests"] == 80
    assert fitted.policy.ladder.usual == 30 and len(fitted.policy.ladder.rungs) > 2
    assert fitted.policy.costs.num_observed(1) > 0


def test_where_requests_or_time_are_too_few_there_is_no_policy_and_a_reason(world, held_out):
    model = load_artifact(world.artifact).model
    few = fit_by_replay(held_out, model, most_requests=20)
    assert few.policy is None and "20 validation requests; 40 are needed" in few.report["reason"]
    ticks = iter(range(10_000))
    slow = fit_by_replay(held_out, model, most_seconds=5.0, monotonic_s=lambda: float(next(ticks)))
    assert slow.policy is None and "replayed in time" in slow.report["reason"]


def test_what_is_replayed_is_what_serving_scores(world, held_out):
    """One request at a time, values by level as the engine answers them."""
    from depthrank.engine import Ranker
    from depthrank.evaluate.engine_timings import request_of

    found = load_artifact(world.artifact)
    full = FullDepth(held_out.spec, found.model, found.encoder, held_out.items)
    loader, _ = held_out.requests("validation", 3)
    requests = list(full.prepared(loader.epoch(0)))
    ranker = Ranker(found, held_out.log)
    for one in requests:
        for mode, level in (("router", 0), ("full", -1)):
            answer = ranker.rank(replace_request(request_of(one.batch, held_out.items, mode), top=30))
            values = dict(zip(held_out.items.ids_of(one.batch.item_row), full.values(one)[level], strict=True))
            assert len(answer.items) == one.num_candidates
            assert [i.value for i in answer.items] == pytest.approx([values[i.item] for i in answer.items], rel=1e-5)


def replace_request(request, **changes):
    return msgspec.structs.replace(request, **changes)


def test_a_request_whose_values_are_no_numbers_is_left_out_and_counted(world, held_out):
    found = load_artifact(world.artifact)
    full = FullDepth(held_out.spec, found.model, found.encoder, held_out.items)
    loader, _ = held_out.requests("validation", 4)
    requests = list(full.prepared(loader.epoch(0)))
    values = full.values
    full.values = lambda one: values(one) * (np.nan if one is requests[1] else 1.0)  # type: ignore[method-assign]
    replayed = replay(full, requests)
    assert (len(replayed), replayed.left_out) == (3, 1)


def test_points_have_what_the_design_says_and_costs_and_gains_agree_at_both_ends(figures):
    plain = json.loads(json.dumps(figures.to_json(), allow_nan=False))
    by_policy = {}
    for point in plain["points"]:
        by_policy.setdefault(point["policy"], []).append(point)
        assert {"cost", "kept_gain", "kept_value", "overlap@10", "ndcg@10"} <= point.keys()
    assert by_policy.keys() == {"full", "fixed", "cascade", "adaptive"}
    full = by_policy["full"][0]
    assert (full["cost"], full["cost_cold"], full["kept_gain"], full["overlap@10"]) == (1.0, 1.0, 1.0, 1.0)
    cheapest, dearest = by_policy["adaptive"][-1], by_policy["adaptive"][0]
    assert cheapest["kept_gain"] == 0 and cheapest["candidates_scored"][1] == 0, "the highest price stops at the router"
    assert dearest["cost"] >= cheapest["cost"] and dearest["kept_gain"] > 0.9
    assert {c["state"] for c in plain["comparisons"]} == {"warm", "cold"}
    assert "full depth" in plain["said"] and plain["full_over_router"]["meaningful"] in (True, False)


def test_the_engine_is_timed_in_every_mode(figures):
    timing = figures.to_json()["timing"]
    assert [row["mode"] for row in timing["modes"]] == ["full", "router", "adaptive"]
    assert timing["fractions"]["full"] == {"predicted": 1.0, "actual": 1.0}
    assert all(row["actual_ms"] > 0 for row in timing["modes"])


def test_the_page_holds_everything_and_no_markup_from_data(figures, tmp_path):
    plain = figures.to_json()
    plain["depth"]["scenario"]["<script>x"] = [{"slice": "<b>", "requests": 1, "cost": 0.5, "level_1_candidates": 3.0}]
    replace(figures, figures=plain).write_html(tmp_path / "curve.html")
    page = (tmp_path / "curve.html").read_text()
    assert "Kept gain against cost" in page and "Depth by price" in page and "history length" in page
    assert "<script>x" not in page and "<b>3" not in page


def test_an_artifact_without_a_ladder_says_so(world, spec, tmp_path):
    found = load_artifact(world.artifact)
    save_artifact(tmp_path / "bare", Contents(found.spec, found.model, found.encoder, found.items, found.users, 0))
    with pytest.raises(ArtifactError, match="has no plan ladder"):
        draw_curve(tmp_path / "bare", spec, world.log_url)


def test_a_ladder_made_by_another_model_is_refused_when_saved_and_when_loaded(world, artifact, fitted, tmp_path):
    found = load_artifact(world.artifact)
    assert fitted.policy is not None
    parts = (found.spec, found.model, found.encoder, found.items, found.users)
    other = replace(fitted.policy, made_for="another")
    with pytest.raises(ArtifactError, match="made for another model"):
        save_artifact(tmp_path / "saved", Contents(*parts, 0, adaptive=other))
    found.model.calibration_offset_LK[1] += 0.5  # another calibration is another model
    assert model_identity(found.model) != fitted.policy.made_for
    save_artifact(
        tmp_path / "other", Contents(*parts, 0, adaptive=replace(other, made_for=model_identity(found.model)))
    )
    assert isinstance(load_artifact(tmp_path / "other").adaptive, AdaptivePolicy)
    _swap_policy(tmp_path / "other", fitted.policy)
    with pytest.raises(ArtifactError, match=r"policy\.json: the plan ladder was made for another model"):
        load_artifact(tmp_path / "other")


def _swap_policy(root: Path, policy: AdaptivePolicy) -> None:
    """Put another policy into an artifact, with a manifest that agrees."""
    from depthrank.artifact.manifest import MANIFEST_NAME, hash_file, read_manifest

    manifest = read_manifest(root)
    path = root / manifest.folder / "adaptive" / "policy.json"
    path.write_bytes(policy.to_bytes())
    files = {**manifest.files, "adaptive/policy.json": hash_file(path)}
    sealed = msgspec.structs.replace(manifest, files=files).sealed()
    (root / MANIFEST_NAME).write_bytes(msgspec.json.encode(sealed))


def test_the_scaling_curve_has_three_ways_for_every_size_and_knows_its_exponent():
    small = [
        {"width": 16, "heads": 2, "history_length": 8, "router_layers": 1, "levels": ((0,),)},
        {"width": 16, "heads": 2, "history_length": 32, "router_layers": 1, "levels": ((0,), (1,))},
    ]
    points = scaling_curve(candidates=50, family=small)
    assert [p["mode"] for p in points] == ["per_candidate", "shared", "shared+adaptive"] * 2
    assert points[0]["gflop_per_candidate"] < points[3]["gflop_per_candidate"] and points[0]["ms"] > 0
    line = [{"mode": "m", "gflop_per_candidate": g, "ms": 3 * g**0.4} for g in (0.1, 1.0, 10.0)]
    assert exponent(line, "m") == pytest.approx(0.4)
    assert np.isnan(exponent(line[:1], "m"))
