"""Tables in training: planned from the traffic before, pruned and stored in narrower formats after, by measured loss.

``ne`` here is the normalized entropy of the deepest level on validation, calibrated anew each time and summed over the
tasks by their weight in the value; changes are fractions of the unchanged model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.data import Batch
from depthrank.features import Encoded, FeatureEncoder
from depthrank.features.layout import IdSlot
from depthrank.features.vocabulary import Vocabulary
from depthrank.metrics import normalized_entropy
from depthrank.model import ElasticRanker, ModelConfig, SideConfig
from depthrank.model.feature_tokens import FeatureTokens
from depthrank.schema.settings import TableSettings
from depthrank.tables import FusedTable, RowFormat, TableSlot, row_bytes, unpack_rows
from depthrank.tables.admission import admitting
from depthrank.tables.overlap import overlaps
from depthrank.tables.plan import SlotTraffic, TablePlan, plan_tables
from depthrank.tables.pruning import RowImportance, pruned
from depthrank.training.calibrate import fit_platt
from depthrank.training.loop import Scored, TrainingLoop

SIDES = ("request", "item", "candidate")
NARROWER: dict[str, tuple[RowFormat, ...]] = {
    "fp32": ("int4", "int8", "bf16"),
    "bf16": ("int4", "int8"),
    "int8": ("int4",),
    "int4": (),
}
PRUNED_SHARES = (0.9, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05)
FEATURES_TRIED = 6

Measure = Callable[[], Scored]


def slot_traffic(encoder: FeatureEncoder, items: Encoded) -> list[SlotTraffic]:
    """How often every id of every feature is looked up in training.

    From the counts of the vocabularies; hashed texts of items are counted over the catalogue. Of other ids nothing is
    known: each counts the same.
    """
    layout, found = encoder.layout, []
    for side in SIDES:
        for slot in getattr(layout, side).ids:
            planned = TableSlot(slot.feature, slot.num_rows, slot.start, slot.stop)
            known = encoder.learned.get(slot.feature)
            if isinstance(known, Vocabulary):
                found.append(SlotTraffic(side, planned, np.array([0, 0, *known.counts], dtype=np.int64)))
            elif side == "item":
                found.append(SlotTraffic(side, planned, _counted(slot, items), by_frequency=False))
            else:
                found.append(SlotTraffic(side, planned, np.ones(slot.num_rows, np.int64), by_frequency=False))
    return found


def _counted(slot: IdSlot, items: Encoded) -> NDArray[np.int64]:
    """Occurrences by id of an item feature in the catalogue."""
    counts = np.bincount(items.ids[:, slot.start : slot.stop].ravel(), minlength=slot.num_rows)
    counts[0] = 0
    return counts.astype(np.int64)


def planned_config(
    config: ModelConfig, settings: TableSettings, traffic: list[SlotTraffic]
) -> tuple[ModelConfig, TablePlan]:
    """The config with its tables as the plan says. Raises SpecError where the budget is too small."""
    config = replace(config, table_width=settings.width or config.table_width)
    plan = plan_tables(
        traffic,
        width=config.table_width,
        budget_bytes=None if settings.budget is None else int(settings.budget),
        row_format=settings.row_format,
        sharing="unified" if settings.sharing == "auto" else settings.sharing,
    )
    sides: dict[str, SideConfig] = {}
    for side in SIDES:
        before: SideConfig = getattr(config, side)
        slots = plan.slots.get(side, ())
        assert [s.feature for s in slots] == [s.feature for s in before.slots], "the plan keeps the order of the layout"
        own = admitting(slots) if settings.admit else slots
        sides[side] = replace(before, slots=own, row_format=plan.row_format)
    return config.with_sides(sides), plan


def describe_plan(plan: TablePlan, encoder: FeatureEncoder) -> dict[str, Any]:
    """The plan for the report and ``inspect``."""
    vocabularies = {n: k for n, k in encoder.learned.items() if isinstance(k, Vocabulary)}
    counts = {n: dict(zip(v.values, v.counts, strict=True)) for n, v in vocabularies.items()}
    return {
        "budget_bytes": plan.budget_bytes,
        "bytes": plan.bytes,
        "bytes_unplanned": plan.bytes_unplanned,
        "width": plan.width,
        "row_format": plan.row_format,
        "exact_share": plan.exact_share,
        "features": [asdict(share) for share in plan.features],
        "overlaps": [asdict(overlap) for overlap in overlaps(counts)],
    }


@dataclass
class TableFit:
    """What fitting the tables after training did, for the report. NE changes are fractions, positive is worse."""

    importance: dict[str, float] = field(default_factory=dict)
    pruned_features: list[str] = field(default_factory=list)
    pruned_rows: int = 0
    prune_ne_change: float = 0.0
    formats: dict[str, str] = field(default_factory=dict)
    format_ne_change: float = 0.0
    within_limit: bool = True
    tried: list[dict[str, Any]] = field(default_factory=list)
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class TableFitting:
    """Prunes a trained model's tables and chooses their formats.

    measure: scores validation with the model as it is now. weights: of the tasks in the value.
    """

    def __init__(self, model: ElasticRanker, settings: TableSettings, weights: list[float], measure: Measure) -> None:
        self.model, self.settings, self.measure = model, settings, measure
        self.weights = weights if any(weights) else [1.0] * len(weights)
        self.fit = TableFit()
        self._importances = {side: RowImportance(table) for side, table in self._tables().items()}

    def run(self, gradients: Iterable[None]) -> TableFit:
        """Prune and choose; the model and its config are left as they will be saved.

        gradients: each step of it leaves the gradients of one validation batch in the tables.
        """
        for _ in gradients:
            for importance in self._importances.values():
                importance.add()
        for importance in self._importances.values():
            self.fit.importance |= importance.of_features()
        if self.settings.prune:
            self._prune()
        self._choose_formats()
        self.fit.bytes = sum(
            table.weight.shape[0] * row_bytes(self._side(side).row_format, table.width)
            for side, table in self._tables().items()
        )
        return self.fit

    def _tables(self) -> dict[str, FusedTable]:
        found = {side: self._features(side).table for side in SIDES}
        return {side: table for side, table in found.items() if isinstance(table, FusedTable)}

    def _features(self, side: str) -> FeatureTokens:
        features = getattr(self.model, f"{side}_features")
        assert isinstance(features, FeatureTokens)
        return features

    def _side(self, side: str) -> SideConfig:
        config = getattr(self.model.config, side)
        assert isinstance(config, SideConfig)
        return config

    def ne(self) -> float:
        """NE of the deepest level, over the tasks by weight; NaN without validation data."""
        return weighted_ne(self.measure(), self.weights)

    def _put(self, tables: Mapping[str, FusedTable]) -> None:
        """Give the model these tables, and its config their slots."""
        for side, table in tables.items():
            self._features(side).table = table
            changed = replace(self._side(side), slots=table.slots)
            self.model.config = self.model.config.with_sides({side: changed})

    def _prune(self) -> None:
        """Features first, the least important one by one; then as many rows as the limit allows."""
        base = self.ne()
        limit = base * (1.0 + self.settings.prune)
        if not np.isfinite(base):
            return
        before = self._tables()
        scores = {side: importance.total_V for side, importance in self._importances.items()}
        kept = {side: torch.ones(table.weight.shape[0], dtype=torch.bool) for side, table in before.items()}

        def attempt(what: dict[str, Any], rows: dict[str, torch.Tensor], without: list[str]) -> bool:
            self._put({side: pruned(table, rows[side], without) for side, table in before.items()})
            now = self.ne()
            self.fit.tried.append({**what, "ne_change": now / base - 1.0})
            if now <= limit:
                self.fit.prune_ne_change = now / base - 1.0
                return True
            return False

        features = sorted(self.fit.importance, key=lambda name: self.fit.importance[name])
        for feature in features[: min(FEATURES_TRIED, max(len(features) - 1, 0))]:
            if attempt({"prune": "feature", "feature": feature}, kept, [*self.fit.pruned_features, feature]):
                self.fit.pruned_features.append(feature)
        everything = torch.cat([scores[side] for side in before])
        for share in PRUNED_SHARES:
            threshold = float(torch.quantile(everything.float(), share)) if everything.numel() < 1 << 24 else 0.0
            rows = {side: scores[side] > threshold for side in before}
            if attempt({"prune": "rows", "share": share}, rows, self.fit.pruned_features):
                kept = rows
                break
        self._put({side: pruned(table, kept[side], self.fit.pruned_features) for side, table in before.items()})
        left = sum(table.weight.shape[0] for table in self._tables().values())
        self.fit.pruned_rows = sum(table.weight.shape[0] for table in before.values()) - left

    def _choose_formats(self) -> None:
        """The plan's format on every table, then narrower ones, the largest table first, within the limit."""
        exact = {side: table.weight.detach().clone() for side, table in self._tables().items()}
        formats: dict[str, RowFormat] = {side: self._side(side).row_format for side in exact}
        base = self.ne() if self._may_narrow() or set(formats.values()) != {"fp32"} else float("nan")
        now = base
        if np.isfinite(base):
            now = self._ne_with(exact, formats)
            for side in sorted(exact, key=lambda side: -exact[side].numel()) if self._may_narrow() else ():
                for form in NARROWER[formats[side]]:
                    if form == "int4" and exact[side].shape[1] % 2:
                        continue
                    tried = self._ne_with(exact, {**formats, side: form})
                    change = tried / base - 1.0
                    self.fit.tried.append({"format": form, "side": side, "ne_change": change})
                    if change <= self.settings.ne_limit:
                        formats, now = {**formats, side: form}, tried
                        break
            self.fit.format_ne_change = now / base - 1.0
            self.fit.within_limit = self.fit.format_ne_change <= self.settings.ne_limit
        self._ne_with(exact, formats, measure=False)
        for side, form in formats.items():
            changed = replace(self._side(side), row_format=form)
            self.model.config = self.model.config.with_sides({side: changed})
        self.fit.formats = dict(formats)

    def _may_narrow(self) -> bool:
        return self.settings.row_format == "auto"

    @torch.no_grad()
    def _ne_with(
        self, exact: Mapping[str, torch.Tensor], formats: Mapping[str, RowFormat], measure: bool = True
    ) -> float:
        """NE with every table as its format would give it back."""
        for side, table in self._tables().items():
            table.weight.copy_(exact[side])
            form = formats[side]
            table.weight.copy_(unpack_rows(table.packed(form), form, table.width))
        return self.ne() if measure else float("nan")


def fit_tables(
    loop: TrainingLoop, settings: TableSettings, weights: list[float], validation: Callable[[], Iterable[Batch]]
) -> tuple[TableFit, Scored]:
    """Prune and choose formats by the loss on ``validation``; what that did, and validation scored as it is then."""
    fitting = TableFitting(loop.model, settings, weights, lambda: loop.evaluate(validation())[1])
    fit = fitting.run(loop.gradients(validation()))
    return fit, loop.evaluate(validation())[1]


def weighted_ne(scored: Scored, weights: list[float]) -> float:
    """NE of the deepest level's logits, each task calibrated, averaged by weight; NaN where no task has two classes."""
    total, sum_of_weights = 0.0, 0.0
    for k, weight in enumerate(weights):
        known = np.isfinite(scored.label_NK[:, k])
        y, w = scored.label_NK[known, k], scored.weight_N[known].astype(np.float64)
        if not weight or not y.size or y.min() == y.max():
            continue
        logits = scored.logits_LNK[-1][known, k]
        scale, offset = fit_platt(logits, y, w)
        p = 1.0 / (1.0 + np.exp(-(logits.astype(np.float64) * scale + offset)))
        total, sum_of_weights = total + weight * normalized_entropy(y, p, w), sum_of_weights + weight
    return total / sum_of_weights if sum_of_weights else float("nan")
