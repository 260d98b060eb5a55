"""The part of an artifact that tells how deep to go: ``adaptive/policy.json``, bound to the weights it was made for."""

from __future__ import annotations

from pathlib import Path

import msgspec
from blake3 import blake3

from depthrank.artifact.weights import TABLE_SUFFIX
from depthrank.errors import ArtifactError
from depthrank.model import ElasticRanker
from depthrank.routing import AdaptivePolicy

POLICY_NAME = "adaptive/policy.json"


def model_identity(model: ElasticRanker) -> str:
    """Hash of a model's sizes and dense weights, calibration included.

    Embedding tables are left out: a row that is updated does not change what levels gain over each other.
    """
    hasher = blake3(msgspec.json.encode(model.config.to_plain(), order="deterministic"))
    for name, tensor in sorted(model.state_dict().items()):
        if not name.endswith(TABLE_SUFFIX):
            hasher.update(name.encode())
            hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def save_policy(policy: AdaptivePolicy, model: ElasticRanker, folder: Path) -> None:
    """Write the policy below ``folder``; raises ArtifactError where it was made for another model."""
    policy.check_made_for(model_identity(model), model.config.num_levels)
    path = folder / POLICY_NAME
    path.parent.mkdir()
    path.write_bytes(policy.to_bytes())


def load_policy(model: ElasticRanker, folder: Path) -> AdaptivePolicy | None:
    """The policy below ``folder``, None where there is none; raises ArtifactError where it is damaged or another's."""
    path = folder / POLICY_NAME
    if not path.is_file():
        return None
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    try:
        policy = AdaptivePolicy.from_bytes(raw)
        policy.check_made_for(model_identity(model), model.config.num_levels)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    return policy
