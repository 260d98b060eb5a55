"""The value of depth: how much of what full depth would gain on this request each rung of the ladder keeps.

Two forests, trained on replayed requests (``training.fit_depth_value``) and evaluated here in numpy:
``stake``: the gain of full depth over level 0, relative to the request's value by level 0;
``share``: how much more or less of that gain than on average a rung keeps, from the request's signals and the rung's
own width and reach; so where signals tell nothing, the rung that pays most on average is taken.
Both go through a piecewise linear calibration. Shares never fall from a rung to the next.

Legend: J rungs, D levels beyond the router, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.forest import Forest
from depthrank.routing.plain import fields_of, finite_number, finite_numbers
from depthrank.routing.signals import NAMES, Signals

RUNG_NAMES = ("log_width", "reach", "log_last_width")
"""A rung's own features: width and reach (fall of level 0's value from the n-th place to the width) of level 1, and
the width of its deepest level."""
SHARE_NAMES = (*NAMES, *RUNG_NAMES)
MOST_KNOTS = 256
MOST_SHARE = 1 - 1e-9  # of any other rung: where depth costs nothing, full depth is taken

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A monotone map of predictions: linear between knots, constant beyond them."""

    x: Floats
    y: Floats

    def __call__(self, values: Floats) -> Floats:
        """The calibrated values."""
        return np.interp(values, self.x, self.y)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}

    @classmethod
    def from_plain(cls, plain: object) -> Calibration:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        f = fields_of(plain, ("x", "y"), "calibration")
        x, y = finite_numbers(f["x"], "calibration x"), finite_numbers(f["y"], "calibration y")
        if not 0 < x.size == y.size <= MOST_KNOTS or (np.diff(x) < 0).any() or (np.diff(y) < 0).any():
            raise ArtifactError("the adaptive part is damaged: a calibration needs knots that ascend in x and y")
        return cls(x, y)


@dataclass(frozen=True, eq=False)
class DepthValue:
    """Predicts stake and shares of one request. ``importance``: share of the trees' gain by signal, for people.

    ``base_J``: what each rung keeps on average, which ``share`` adds to; None in artifacts from before, where ``share``
    is the whole of it.
    """

    stake: Forest
    share: Forest
    stake_calibration: Calibration
    share_calibration: Calibration
    importance: Mapping[str, Mapping[str, float]]
    base_J: Floats | None = None

    def stake_of(self, signals: Signals) -> float:
        """What full depth gains over level 0, relative to the request's value by level 0; never negative."""
        raw = self.stake.predict(np.array([signals.general]))
        return max(0.0, float(self.stake_calibration(raw)[0]))

    def shares_of(self, signals: Signals, caps_JD: Floats, num_candidates: int, top: int) -> Floats:
        """The share of the gain that each of the ladder's J rungs keeps, ascending, float64 [J].

        ``caps_JD``: candidates at each level beyond the router. The router alone keeps 0, full depth 1.
        """
        raw_J = self.share.predict(share_features(signals, caps_JD, top))
        share_J = self.share_calibration(raw_J)
        if self.base_J is None:
            share_J = np.clip(share_J, 0.0, 1.0)
        else:
            share_J = np.clip(self.base_J + share_J, 0.0, MOST_SHARE)
        share_J[caps_JD[:, 0] <= 0] = 0.0
        share_J[(caps_JD >= num_candidates).all(axis=1)] = 1.0
        return np.asarray(np.maximum.accumulate(share_J), dtype=np.float64)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stake": self.stake.to_plain(),
            "share": self.share.to_plain(),
            "stake_calibration": self.stake_calibration.to_plain(),
            "share_calibration": self.share_calibration.to_plain(),
            "importance": {k: dict(v) for k, v in self.importance.items()},
            "base": None if self.base_J is None else self.base_J.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: object) -> DepthValue:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        names = ("stake", "share", "stake_calibration", "share_calibration", "importance")
        f = fields_of(plain, names, "depth value")
        importance = {
            str(kind): {str(n): finite_number(v, "importance") for n, v in fields_of(found, (), "importance").items()}
            for kind, found in fields_of(f["importance"], (), "importance").items()
        }
        return cls(
            Forest.from_plain(f["stake"], len(NAMES)),
            Forest.from_plain(f["share"], len(SHARE_NAMES)),
            Calibration.from_plain(f["stake_calibration"]),
            Calibration.from_plain(f["share_calibration"]),
            importance,
            None if f.get("base") is None else finite_numbers(f["base"], "shares of the rungs"),
        )


def share_features(signals: Signals, caps_JD: Floats, top: int) -> Floats:
    """Features of J rungs for one request, float64 [J, F] (``SHARE_NAMES``)."""
    x_JF = np.empty((caps_JD.shape[0], len(SHARE_NAMES)))
    x_JF[:, : len(NAMES)] = signals.general
    width_J, last_J = caps_JD[:, 0], np.where(caps_JD > 0, caps_JD, np.inf).min(axis=1)
    x_JF[:, -3] = np.log1p(width_J)
    ends = signals.fall_at(np.append(width_J, float(top)))
    x_JF[:, -2] = np.maximum(ends[:-1] - ends[-1], 0.0)
    x_JF[:, -1] = np.log1p(np.where(np.isfinite(last_J), last_J, 0.0))
    return x_JF
