"""An artifact as this machine serves it: its layers in the formats of the policy that ``depthrank tune`` made here,
with the plan ladder and prices that were fitted to what plans cost so.

A machine without a policy, and a policy that cannot be trusted, end in fp32, never in an error: answers are right,
only slower. What happened is said once in the log, and kept for ``Ranker.info``.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from depthrank.artifact.adaptive import model_identity
from depthrank.artifact.served_precision import ServedPrecision
from depthrank.artifact.store import Artifact
from depthrank.errors import ArtifactError
from depthrank.precision import PrecisionPolicy, examine_hardware, in_formats, read_policy
from depthrank.routing import AdaptivePolicy, CostModel

Mode = Literal["policy", "fp32"]
logger = logging.getLogger("depthrank.artifact")


def with_precision(artifact: Artifact, root: str | Path, mode: Mode = "policy") -> Artifact:
    """The artifact with its layers in the formats of this machine's policy below ``root``, or all in fp32."""
    hardware = examine_hardware()
    here = ServedPrecision(hardware.fingerprint, reason="fp32 was asked for")
    if mode == "fp32":
        return replace(artifact, precision=here)
    try:
        policy = read_policy(Path(root), hardware.fingerprint)
        if policy is None:
            reason = "no policy for this machine; `depthrank tune` makes one"
            logger.info("%s: all layers run in fp32: %s (%s)", root, reason, hardware.fingerprint)
            return replace(artifact, precision=replace(here, reason=reason))
        check_policy(policy, artifact)
        model, adaptive = in_formats(artifact.model, policy.choices), artifact.adaptive
        if policy.adaptive is not None:
            adaptive = AdaptivePolicy.from_plain(dict(policy.adaptive))
            adaptive.check_made_for(policy.made_for, model.config.num_levels)
    except ArtifactError as error:
        logger.warning("all layers run in fp32: %s", error)
        return replace(artifact, precision=replace(here, reason=str(error)))
    here = ServedPrecision(hardware.fingerprint, policy)
    return replace(artifact, model=model, trained=artifact.model, precision=here, adaptive=adaptive)


def check_policy(policy: PrecisionPolicy, artifact: Artifact) -> None:
    """Raise ArtifactError where the policy was made for another model, or its costs or levels do not fit this one."""
    model = artifact.model
    if policy.made_for != model_identity(model):
        raise ArtifactError(
            f"the precision policy {policy.fingerprint} was made for another model ({policy.made_for:.20}): tune again"
        )
    if policy.costs is not None and CostModel.from_plain(policy.costs).num_levels != model.config.num_levels:
        raise ArtifactError(f"the precision policy {policy.fingerprint} has costs of another number of levels")
    if any(not 0 <= level < model.config.num_levels for level in policy.compiled):
        raise ArtifactError(f"the precision policy {policy.fingerprint} compiles levels that the model does not have")
