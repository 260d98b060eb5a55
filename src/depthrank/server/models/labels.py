"""Which version answers whom: one frozen value, replaced as a whole, so that a switch is one assignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blake3 import blake3

from depthrank.server.models.version import Version

Label = Literal["stable", "canary", "shadow"]


@dataclass(frozen=True)
class Labels:
    """``canary_share`` of the users get the canary, always the same ones; ``shadow_share`` of the requests are copied.

    ``previous``: what stable replaced, for a rollback. ``since_s``: when the canary got its label (monotonic seconds).
    """

    stable: Version
    previous: Version | None = None
    canary: Version | None = None
    canary_share: float = 0.0
    since_s: float = 0.0
    shadow: Version | None = None
    shadow_share: float = 0.0

    def of_user(self, user: str) -> Version:
        """The version that answers a user. Another canary gets other users."""
        if self.canary is not None and share_of(self.canary.model, user) < self.canary_share:
            return self.canary
        return self.stable

    def shadows(self, request_id: str) -> bool:
        """Whether a request is copied to the shadow."""
        return self.shadow is not None and share_of(self.shadow.model, request_id) < self.shadow_share

    def labels_of(self, version: Version) -> list[str]:
        """What a version is."""
        held = (("stable", self.stable), ("canary", self.canary), ("shadow", self.shadow), ("previous", self.previous))
        return [label for label, holder in held if holder is version]


def share_of(salt: str, key: str) -> float:
    """A number in [0, 1) from a key; evenly spread, and another one for another salt."""
    digest = blake3(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest(8)
    return int.from_bytes(digest, "big") / 2**64
