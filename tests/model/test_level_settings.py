"""Levels written out one by one in the spec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthrank.errors import SpecError
from depthrank.features import EncoderLayout, SideLayout
from depthrank.model.config import ModelConfig, derive_model_config
from depthrank.schema import Spec

EMPTY = SideLayout((), ())


def config_of(tmp_path: Path, **model: Any) -> ModelConfig:
    """The model of a spec over shown candidates with this model section."""
    plain = {
        "name": "shop",
        "dataset": {
            "items": {"path": "items.parquet", "id": "item"},
            "impressions": {"path": "i.parquet", "user": "u", "item": "item", "time": {"column": "t", "unit": "ms"}},
        },
        "features": {"item": {"kind": "categorical", "source": "item.id"}},
        "tasks": {"click": {"column": "click"}},
        "value": {"weights": {"click": 1.0}},
        "model": model,
    }
    path = tmp_path / "ranking.yaml"
    path.write_text(yaml.safe_dump(plain))
    return derive_model_config(Spec.load(path), EncoderLayout(EMPTY, EMPTY, EMPTY), (-1.0,))


LIGHT = {"interaction_tokens": 4, "interaction_rank": 4}
DEEP = {"reads": [0, 2], "width": 96, "interaction_layers": 3, "cross_layers": 0}


def test_each_level_has_its_own_sizes(tmp_path: Path) -> None:
    config = config_of(tmp_path, preset="small", width=64, levels=[LIGHT, DEEP])
    light, deep = config.levels
    assert (light.reads, light.width, light.interaction_layers) == ((), None, 1)
    assert (light.interaction_tokens, light.interaction_rank) == (4, 4)
    assert light.cross_layers == 2, "the preset's, over shown candidates, where a level does not say"
    assert (deep.reads, deep.width, deep.interaction_layers, deep.cross_layers) == ((0, 2), 96, 3, 0)
    assert config.encoder_layers == 3 and config.num_levels == 3


def test_crosses_of_the_section_are_those_of_levels_that_do_not_say(tmp_path: Path) -> None:
    config = config_of(tmp_path, preset="medium", cross_layers=1, levels_correct=False, levels=[LIGHT, DEEP])
    assert [level.cross_layers for level in config.levels] == [1, 0]
    assert not any(level.corrects for level in config.levels)


def test_a_number_takes_the_preset_s_first_levels(tmp_path: Path) -> None:
    preset = config_of(tmp_path, preset="large")
    assert config_of(tmp_path, preset="large", levels=2).levels == preset.levels[:2]
    assert config_of(tmp_path, preset="large", levels=0).levels == ()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"levels": []}, r"\$.model.levels.* 0 levels"),
        ({"levels": [{}] * 17}, r"\$.model.levels.* 17 levels"),
        ({"levels": [LIGHT], "expert_layers": 2}, r"\$.model.expert_layers.* reads of each entry"),
        ({"levels": [LIGHT], "interaction_layers": 2}, r"\$.model.interaction_layers.* of each entry"),
        ({"levels": [{"raeds": [0]}]}, r"\$.model.levels\[0\].raeds"),
        ({"levels": [{"reads": [-1]}]}, r"\$.model.levels\[0\].reads\[0\]"),
        ({"levels": "two"}, r"\$.model.levels"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(tmp_path: Path, model: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as error:
        config_of(tmp_path, **model)
    assert re.search(told, str(error.value)), str(error.value)
