"""FLOPs of each level, counted when a model is trained and read where it is served.

Counting them imports torch's compiler, two seconds of CPU that would fall to the first request of every start.
"""

from __future__ import annotations

import math
from typing import Any

from depthrank.artifact.manifest import Manifest
from depthrank.errors import ArtifactError
from depthrank.model import LevelFlops, ModelConfig, level_flops

NAME = "level_flops"


def with_level_flops(training: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What a manifest says of the training, with the FLOPs ``[request, candidate]`` of each level."""
    return training | {NAME: [[level.request, level.candidate] for level in level_flops(config)]}


def level_flops_of(manifest: Manifest) -> tuple[LevelFlops, ...]:
    """FLOPs of the levels, router first; counted here where the artifact is of before they were written.

    Raises ArtifactError where what is written is no such thing.
    """
    config, written = ModelConfig.from_plain(manifest.model), manifest.training.get(NAME)
    if written is None:
        return level_flops(config)
    if not isinstance(written, list) or len(written) != config.num_levels or not all(map(_is_pair, written)):
        raise ArtifactError(f"the manifest of {manifest.model_id} is damaged: {NAME} must be two numbers a level")
    return tuple(LevelFlops(float(request), float(candidate)) for request, candidate in written)


def _is_pair(pair: object) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(
            isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number < math.inf
            for number in pair
        )
    )
