"""The precision policy of one model on one machine: ``policies/<fingerprint>.json`` in the artifact's folder.

JSON for people: a format for each layer by name, what the machine is, what was measured, and the limits that held. The
``checksum`` covers everything else; a file that was edited by hand is refused until ``depthrank tune --seal`` accepts
it. A layer that the file does not name stays fp32.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from depthrank.errors import ArtifactError
from depthrank.precision.formats import Format, LayerChoice

FORMAT = 1
FOLDER = "policies"
MOST_BYTES = 16 << 20
MOST_LAYERS = 100_000
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class PrecisionPolicy:
    """Formats by layer name for the model ``made_for`` on the machine ``fingerprint``.

    ``compiled``: levels that run as compiled code. ``costs``: the cost model's coefficients under this policy, as
    ``routing.CostModel.to_plain`` gives them; ``ladder``: predicted milliseconds of the plan ladder's rungs.
    ``adaptive``: plan ladder, prices and value of depth as they pay with these costs (``routing.AdaptivePolicy`` in
    plain form), instead of those of training. ``measured``: what was found when it was made, for people.
    """

    fingerprint: str
    made_for: str
    choices: Mapping[str, LayerChoice]
    compiled: tuple[int, ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Any] | None = None
    ladder: tuple[Mapping[str, Any], ...] = ()
    adaptive: Mapping[str, Any] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise ArtifactError(f"{self.fingerprint!r:.40} is no hardware fingerprint: expected 16 hexadecimal digits")

    @property
    def counts(self) -> dict[str, int]:
        """Layers by format, those that changed."""
        counts: dict[str, int] = {}
        for choice in self.choices.values():
            counts[str(choice.format)] = counts.get(str(choice.format), 0) + 1
        return counts

    def without_compiled(self) -> PrecisionPolicy:
        """The same with every level run eagerly."""
        return replace(self, compiled=())

    def to_plain(self) -> dict[str, Any]:
        """For JSON, without the checksum."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "made_for": self.made_for,
            "hardware": dict(self.hardware),
            "limits": dict(self.limits),
            "measured": dict(self.measured),
            "layers": {
                name: {"format": str(c.format)} | ({} if c.input_scale is None else {"input_scale": c.input_scale})
                for name, c in sorted(self.choices.items())
            },
            "compiled": list(self.compiled),
            "costs": None if self.costs is None else dict(self.costs),
            "ladder": [dict(rung) for rung in self.ladder],
            "adaptive": None if self.adaptive is None else dict(self.adaptive),
        }


def policy_path(root: Path, fingerprint: str) -> Path:
    """Where an artifact keeps the policy of a machine."""
    return root / FOLDER / f"{fingerprint}.json"


def write_policy(policy: PrecisionPolicy, root: Path) -> Path:
    """Write the policy into the artifact's folder ``root``, in one step; returns its path."""
    return _write_sealed(policy.to_plain(), policy_path(root, policy.fingerprint))


def seal_policy(root: Path, fingerprint: str) -> Path:
    """Accept a policy as somebody edited it: check its form, and write its checksum anew. Raises ArtifactError."""
    path = policy_path(root, fingerprint)
    plain = _decoded(path)
    plain.pop("checksum", None)
    _parsed(plain, path)
    return _write_sealed(plain, path)


def read_policy(root: Path, fingerprint: str) -> PrecisionPolicy | None:
    """The machine's policy in an artifact's folder, None where there is none.

    Raises ArtifactError for a file that is damaged, was altered, or is another machine's under this one's name.
    """
    path = policy_path(root, fingerprint)
    if not path.is_file():
        return None
    plain = _decoded(path)
    if plain.pop("checksum", None) != _checksum(plain):
        raise ArtifactError(
            f"{path} was altered: its checksum does not fit its content; after an edit of your own, accept it with "
            "`depthrank tune DIR SPEC --seal`"
        )
    policy = _parsed(plain, path)
    if policy.fingerprint != fingerprint:
        raise ArtifactError(f"{path} is the policy of another machine ({policy.fingerprint})")
    return policy


def _write_sealed(plain: dict[str, Any], path: Path) -> Path:
    sealed = {"checksum": _checksum(plain), **plain}
    unfinished = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {path}: {error}") from error
    return path


def _checksum(plain: Mapping[str, Any]) -> str:
    return blake3(msgspec.json.encode(plain, order="deterministic")).hexdigest()


def _decoded(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ArtifactError(f"{path} is larger than any policy: {path.stat().st_size:,} bytes")
        plain = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None
    if not isinstance(plain, dict):
        raise ArtifactError(f"{path} is damaged: it is not a JSON object")
    return plain


def _parsed(plain: dict[str, Any], path: Path) -> PrecisionPolicy:
    if plain.get("format") != FORMAT:
        raise ArtifactError(f"{path} has format {plain.get('format')!r:.40}; this version reads {FORMAT}: tune again")
    layers, compiled, costs = plain.get("layers"), plain.get("compiled", []), plain.get("costs")
    if not isinstance(layers, dict) or len(layers) > MOST_LAYERS:
        raise ArtifactError(f"{path} is damaged: layers must be an object of formats by name")
    if not isinstance(compiled, list) or any(type(level) is not int or level < 0 for level in compiled):
        raise ArtifactError(f"{path} is damaged: compiled must be a list of levels")
    if costs is not None and not isinstance(costs, dict):
        raise ArtifactError(f"{path} is damaged: costs must be an object")
    ladder = plain.get("ladder", [])
    if not isinstance(ladder, list) or not all(isinstance(rung, dict) for rung in ladder):
        raise ArtifactError(f"{path} is damaged: ladder must be a list of objects")
    return PrecisionPolicy(
        fingerprint=str(plain.get("fingerprint")),
        made_for=str(plain.get("made_for")),
        choices={name: _choice(path, name, value) for name, value in layers.items()},
        compiled=tuple(compiled),
        hardware=_object(path, plain, "hardware"),
        costs=costs,
        ladder=tuple(ladder),
        adaptive=None if plain.get("adaptive") is None else _object(path, plain, "adaptive"),
        limits=_object(path, plain, "limits"),
        measured=_object(path, plain, "measured"),
    )


def _object(path: Path, plain: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = plain.get(name, {})
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged: {name} must be an object")
    return value


def _choice(path: Path, name: str, value: object) -> LayerChoice:
    given = value.get("format") if isinstance(value, dict) else None
    if given not in list(Format):
        raise ArtifactError(f"{path}: layer {name} has format {given!r:.60}; there are {', '.join(Format)}")
    assert isinstance(value, dict)
    scale = value.get("input_scale")
    if given != Format.INT8_STATIC:
        return LayerChoice(Format(given))
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ArtifactError(f"{path}: layer {name} is {given} with input_scale {scale!r:.60}, not above 0")
    return LayerChoice(Format.INT8_STATIC, float(scale))
