"""A level's FLOPs are read from the manifest, equal to what is counted, and checked as whatever comes from a file."""

from __future__ import annotations

import msgspec
import pytest

from depthrank.artifact.level_costs import NAME, level_flops_of, with_level_flops
from depthrank.artifact.manifest import Manifest
from depthrank.errors import ArtifactError
from depthrank.model import LevelConfig, ModelConfig, SideConfig, level_flops

CONFIG = ModelConfig(
    tasks=("click",),
    prior_logit=(-1.0,),
    num_actions=1,
    request=SideConfig((), 2),
    item=SideConfig((), 2),
    candidate=SideConfig((), 2),
    history_length=8,
    width=16,
    heads=2,
    levels=(LevelConfig((0,), 1, 4, 4),),
)


def manifest(training: dict[str, object]) -> Manifest:
    return Manifest(
        format=1, depthrank="0", name="a", model_id="a-0", created_ms=0, folder="files-0", spec={},
        model=msgspec.json.decode(msgspec.json.encode(CONFIG.to_plain())), log_position=-1, training=training,
    )  # fmt: skip


def test_written_flops_are_those_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = level_flops(CONFIG)
    facts = msgspec.json.decode(msgspec.json.encode(with_level_flops({"seed": 3}, CONFIG)))
    assert facts["seed"] == 3 and level_flops_of(manifest({})) == counted, "an artifact of before they were written"
    monkeypatch.setattr("depthrank.artifact.level_costs.level_flops", pytest.fail)
    assert level_flops_of(manifest(facts)) == counted


@pytest.mark.parametrize("written", [[], [[1.0, 2.0]], [[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0, -1.0]], "many", [1, 2]])
def test_flops_that_are_none_are_refused(written: object) -> None:
    with pytest.raises(ArtifactError, match="level_flops must be two numbers a level"):
        level_flops_of(manifest({NAME: written}))
