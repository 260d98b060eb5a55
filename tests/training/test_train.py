from __future__ import annotations

import json

from depthrank.artifact import load_artifact


def test_the_planted_world_is_learned_and_the_expert_beats_the_router(world):
    artifact = load_artifact(world.artifact)
    levels = artifact.manifest.training["validation"]["levels"]
    print(json.dumps(artifact.manifest.training, indent=1))
    assert levels[0]["click"]["auc"] > 0.7
    assert levels[1]["buy"]["auc"] > levels[0]["buy"]["auc"]
