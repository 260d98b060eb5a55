"""A policy made for the planted world's model on this machine, and served."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from depthrank.artifact import load_artifact, model_identity, with_precision
from depthrank.cli.app import app
from depthrank.engine import Ranker
from depthrank.engine.replay_ranking import rank_again
from depthrank.errors import SpecError
from depthrank.evaluate.tune_artifact import ladder_plans, tune
from depthrank.kernels.build import compiler_missing
from depthrank.precision import (
    Format,
    LayerChoice,
    PrecisionPolicy,
    examine_hardware,
    layers_of,
    read_policy,
    write_policy,
)
from depthrank.precision.packed_linear import PackedLinear
from depthrank.precision.policy import policy_path
from depthrank.routing import CostModel
from depthrank.schema import Request
from depthrank.training.fit_precision import Tuned
from depthrank.training.judge_precision import Limits
from depthrank.training.tuning_requests import Settings

SMALL = Settings(requests=16, judge_seconds=4.0, layer_seconds=0.0, compile=False)


@pytest.fixture(scope="module")
def tuned(world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tuned]:
    """An artifact of its own with the policy in it."""
    folder = tmp_path_factory.mktemp("tuned") / "artifact"
    shutil.copytree(world.artifact, folder)
    return folder, tune(folder, world.spec, world.log_url, SMALL)


def all_in(artifact: Path, format: Format, scale: float | None = None) -> PrecisionPolicy:
    """A policy with every linear layer beyond the items' in one format."""
    model = load_artifact(artifact).model
    names = [
        n for n, layer in layers_of(model).items() if n.startswith(("experts", "encoder")) and "attention" not in n
    ]
    choices = {name: LayerChoice(format, scale) for name in names}
    return PrecisionPolicy(examine_hardware().fingerprint, model_identity(model), choices)


def values_of(ranker: Ranker, world: Any) -> np.ndarray[Any, Any]:
    items = list(ranker.items.ids_of(range(1, 60)))
    answer = ranker.rank(Request(user="u1", candidates=items, top=59, mode="full", time_ms=1_800_000_000_000))
    value = {item.item: item.value for item in answer.items}
    return np.array([value[item] for item in items])


def test_the_figures_have_what_outside_programs_read(tuned: tuple[Path, Tuned]) -> None:
    figures = tuned[1].figures
    assert {"speedup_vs_fp32", "ne_change", "top10_overlap", "kept_gain", "mfu", "layers"} <= set(figures)
    assert figures["verified_on"] > 0 and figures["mfu"] > 0
    first = figures["layers"][0]
    assert {"layer", "format", "share_of_fp32", "speedup", "relative_time", "alone"} <= set(first)
    assert first["share_of_fp32"] >= figures["layers"][-1]["share_of_fp32"]
    json.dumps(figures, allow_nan=False)


def test_the_joint_choice_keeps_to_the_limits_on_requests_it_was_not_fitted_on(tuned: tuple[Path, Tuned]) -> None:
    figures, limits = tuned[1].figures, Limits()
    assert figures["ne_change"] <= limits.ne_change
    assert figures["top10_overlap"] >= limits.top10_overlap
    assert figures["kept_gain"] >= limits.kept_gain


def test_the_policy_is_served_on_this_machine_and_tells_so(tuned: tuple[Path, Tuned], world: Any) -> None:
    folder, made = tuned
    policy = read_policy(folder, examine_hardware().fingerprint)
    assert policy is not None and policy.to_plain() == made.policy.to_plain()
    ranker, plain = Ranker.load(folder, world.log_url), Ranker.load(folder, world.log_url, precision="fp32")
    try:
        assert ranker.info()["precision"]["policy"] and not plain.info()["precision"]["policy"]
        assert ranker.info()["precision"]["layers"] == policy.counts
        assert ranker.generation.costs.rates == CostModel.from_plain(policy.costs).rates()
        assert np.abs(values_of(ranker, world) - values_of(plain, world)).max() < 0.05
    finally:
        ranker.close()
        plain.close()


def test_the_ladder_fitted_to_these_costs_is_served_and_its_decisions_replay(
    tuned: tuple[Path, Tuned], world: Any, tmp_path: Path
) -> None:
    folder, made = tuned
    assert made.policy.adaptive is not None and made.figures["adaptive"]["fitted"]
    ranker = Ranker.load(folder, world.log_url)
    try:
        policy, trained = ranker.artifact.adaptive, load_artifact(folder).adaptive
        assert policy is not None and trained is not None
        assert json.loads(policy.to_bytes()) == made.policy.adaptive != json.loads(trained.to_bytes())
        items = list(ranker.items.ids_of(range(1, 60)))
        answer = ranker.rank(Request(user="u1", candidates=items, explain=True, time_ms=1_800_000_000_000))
        assert answer.explain is not None
        record = tmp_path / "record.json"
        record.write_text(json.dumps(answer.explain["decision"]["record"], default=float))
        done = CliRunner().invoke(app, ["replay", str(record), "--artifact", str(folder)])
        assert done.exit_code == 0 and "the same decision" in done.output, done.output
    finally:
        ranker.close()


@pytest.mark.slow
@pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing())
def test_a_ranking_by_compiled_levels_replays_bit_for_bit(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHRANK_COMPILED", str(tmp_path / "compiled"))
    folder = tmp_path / "artifact"
    shutil.copytree(world.artifact, folder)
    plain = load_artifact(folder).model
    levels = tuple(range(plain.config.num_levels))
    write_policy(PrecisionPolicy(examine_hardware().fingerprint, model_identity(plain), {}, levels), folder)
    ranker = Ranker.load(folder, world.log_url)
    try:
        assert ranker.info()["precision"]["compiled"] == list(levels)
        items = list(ranker.items.ids_of(range(1, 60)))
        request = Request(user="u1", candidates=items, mode="full", time_ms=1_800_000_000_000)
        record = json.loads(msgspec.json.encode(ranker.rank(request, record=True).record))
        assert rank_again(record, folder, ranker.log).exact
        record["precision"]["compiled"] = []
        assert not rank_again(record, folder, ranker.log).exact, "the control: uncompiled levels round otherwise"
    finally:
        ranker.close()


def test_a_ladder_of_another_model_is_not_used(
    tuned: tuple[Path, Tuned], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tuned[0], folder)
    policy = tuned[1].policy
    write_policy(replace(policy, adaptive={**policy.adaptive, "made_for": "f" * 64}), folder)
    artifact = with_precision(load_artifact(folder), folder)
    assert artifact.adaptive is not None and artifact.adaptive.made_for == policy.made_for
    assert "all layers run in fp32: the plan ladder was made for another model" in caplog.text


@pytest.mark.parametrize(("format", "scale"), [(Format.BF16, None), (Format.INT8_DYNAMIC, None)])
def test_a_candidate_s_score_does_not_depend_on_who_else_is_ranked(
    tuned: tuple[Path, Tuned], world: Any, tmp_path: Path, format: Format, scale: float | None
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tuned[0], folder)
    write_policy(all_in(folder, format, scale), folder)
    ranker = Ranker.load(folder, world.log_url)
    try:
        assert ranker.info()["precision"]["layers"] == {str(format): len(all_in(folder, format, scale).choices)}
        items = list(ranker.items.ids_of(range(1, 60)))
        together = ranker.rank(Request(user="u1", candidates=items, top=59, mode="full", time_ms=1_800_000_000_000))
        value = {item.item: item.value for item in together.items}
        for few in (items[:1], items[7:10], items[20:41]):
            alone = ranker.rank(Request(user="u1", candidates=few, top=59, mode="full", time_ms=1_800_000_000_000))
            for item in alone.items:
                assert item.value == pytest.approx(value[item.item], rel=0.01, abs=1e-4)
        assert ranker.rank(Request(user="u1", candidates=[], top=5, mode="full")).items == []
    finally:
        ranker.close()


def test_a_machine_without_a_policy_runs_in_fp32_and_says_so(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "depthrank.artifact"):
        artifact = with_precision(load_artifact(world.artifact), world.artifact)
    assert artifact.precision is not None and artifact.precision.policy is None
    assert "no policy for this machine" in artifact.precision.reason
    assert "all layers run in fp32: no policy for this machine; `depthrank tune` makes one" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda text: text.replace('"bf16"', '"int8-dynamic"', 1), "was altered: its checksum does not fit"),
        (lambda text: text[: len(text) // 2], "is damaged"),
    ],
)
def test_a_policy_that_cannot_be_trusted_is_not_used(
    tuned: tuple[Path, Tuned], tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any, told: str
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tuned[0], folder)
    write_policy(all_in(folder, Format.BF16), folder)
    artifact = with_precision(load_artifact(folder), folder)
    assert artifact.precision is not None and artifact.precision.policy is not None
    path = policy_path(folder, examine_hardware().fingerprint)
    path.write_text(spoil(path.read_text()))
    artifact = with_precision(load_artifact(folder), folder)
    assert artifact.precision is not None and artifact.precision.policy is None
    assert told in artifact.precision.reason and told in caplog.text
    assert not any(isinstance(layer, PackedLinear) for layer in artifact.model.modules())


def test_another_model_s_policy_and_unknown_layers_are_not_used(tuned: tuple[Path, Tuned], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tuned[0], folder)
    good = all_in(folder, Format.BF16)
    strangers = {
        "was made for another model": PrecisionPolicy(good.fingerprint, "another", good.choices),
        "there is no layer 'experts.9.pool'": PrecisionPolicy(
            good.fingerprint, good.made_for, {"experts.9.pool": LayerChoice(Format.BF16)}
        ),
        "compiles levels": PrecisionPolicy(good.fingerprint, good.made_for, good.choices, compiled=(9,)),
    }
    for told, policy in strangers.items():
        write_policy(policy, folder)
        artifact = with_precision(load_artifact(folder), folder)
        assert artifact.precision is not None and artifact.precision.policy is None
        assert told in artifact.precision.reason


def test_a_limit_that_nothing_can_hold_leaves_fp32(world: Any, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(world.artifact, folder)
    impossible = Settings(
        limits=Limits(ne_change=-1.0), requests=16, judge_seconds=2.0, layer_seconds=0.0, candidates=40, compile=False
    )
    made = tune(folder, world.spec, world.log_url, impossible, write=False)
    assert made.policy.choices == {} and not (folder / "policies").exists()
    assert {row["format"] for row in made.figures["layers"]} == {"fp32"}


def test_plans_are_the_ladder_s_and_given_ones_must_fit(world: Any) -> None:
    artifact = load_artifact(world.artifact)
    levels = artifact.model.config.num_levels
    plans = ladder_plans(artifact, 500)
    assert all(len(plan) == levels and plan[0] == 500 for plan in plans) and plans[-1] == (500,) * levels
    with pytest.raises(SpecError, match=f"takes {levels} widths, router first"):
        tune(world.artifact, world.spec, world.log_url, Settings(plans=((10, 20, 30, 40),)))


def test_the_command_accepts_an_edited_policy(tuned: tuple[Path, Tuned], world: Any, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tuned[0], folder)
    path = write_policy(all_in(folder, Format.BF16), folder)
    path.write_text(path.read_text().replace('"bf16"', '"int8-dynamic"', 1))
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        done = CliRunner().invoke(app, ["tune", str(folder), str(world.spec), "--seal"])
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    assert done.exit_code == 0, done.output
    policy = read_policy(folder, examine_hardware().fingerprint)
    assert policy is not None and policy.counts["int8-dynamic"] == 1
