"""A vocabulary that grew behind a model's back: one clear error, and what serves serves on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_artifact import make_contents

from depthrank.artifact import load_artifact, save_artifact
from depthrank.errors import ArtifactError
from depthrank.features import FeatureEncoder, FitSample


def grown(contents: Any) -> Any:
    """The same model with an encoder that knows one device more."""
    sample = FitSample(
        contexts={"device": ["ios", "web", "tv"]}, item_rows=np.array([1, 2, 3]), user_rows=np.array([1])
    )
    encoder = FeatureEncoder.fit(contents.spec, contents.items, contents.users, sample)
    return replace(contents, encoder=encoder)


def test_a_model_of_a_smaller_vocabulary_is_refused_and_names_the_side(tmp_path: Path) -> None:
    save_artifact(tmp_path, grown(make_contents()))
    with pytest.raises(ArtifactError, match="do not belong together: request features"):
        load_artifact(tmp_path)


def test_the_one_that_serves_serves_on(tmp_path: Path) -> None:
    save_artifact(tmp_path, make_contents())
    serving = load_artifact(tmp_path)
    before = {name: weight.clone() for name, weight in serving.model.state_dict().items()}
    save_artifact(tmp_path, grown(make_contents()))
    with pytest.raises(ArtifactError):
        load_artifact(tmp_path)
    assert all((serving.model.state_dict()[name] == weight).all() for name, weight in before.items())
    assert serving.encoder.layout.request.ids[-1].num_rows == 4
