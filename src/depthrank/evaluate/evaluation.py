"""The result of an evaluation, and its JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.evaluate.about import About
from depthrank.evaluate.absent import absent_figures
from depthrank.evaluate.collected import TOP, Collected
from depthrank.evaluate.figures import (
    Plain,
    Rows,
    depth_gain,
    interval_figures,
    ranking_figures,
    recall_figures,
    reliability_figures,
    task_figures,
)
from depthrank.evaluate.report import render
from depthrank.evaluate.slices import slice_figures
from depthrank.metrics import GAUC_LABEL


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one split: plain data, NaN where a figure has no meaning."""

    about: About
    figures: Plain

    def to_json(self) -> dict[str, Any]:
        """``{"tasks", "ranking", "levels", ...}`` as in the design; a figure without meaning is null."""
        plain = _without_nan(self.figures)
        assert isinstance(plain, dict)
        return plain

    def write_html(self, path: str | Path) -> None:
        """One self-contained page with all figures and plots."""
        Path(path).write_text(render(self.about, self.figures), encoding="utf-8")


def evaluation_of(
    about: About, collected: Collected, popularity: npt.NDArray[np.int64], *, replicates: int = 1000
) -> Evaluation:
    """All figures of what was collected. ``popularity`` int64 [V]: training positives of each catalogue row."""
    rows = Rows.of(collected, about.tasks)
    levels: list[Plain] = [
        {
            "level": i,
            "tasks": task_figures(rows, i),
            "ranking": ranking_figures(level, popularity),
            "recall@k": recall_figures(level, int(rows.num_candidates.max(initial=0))),
        }
        for i, level in enumerate(collected.levels)
    ]
    figures: Plain = {
        "tasks": levels[-1]["tasks"],
        "ranking": levels[-1]["ranking"],
        "levels": levels,
        "intervals": interval_figures(collected, rows, replicates),
        "deepest_over_router": depth_gain(collected, rows, replicates),
        "reliability": reliability_figures(rows),
        "slices": slice_figures(collected, rows, popularity),
        "absent": absent_figures(rows, levels[-1]),
        "about": {
            "name": about.name,
            "model": about.model,
            "split": about.split,
            "candidates": about.candidates,
            "requests": collected.num_requests,
            "requests_ranked": levels[-1]["ranking"]["requests"],
            "users": int(rows.user.max(initial=-1)) + 1,
            "candidates_per_request": float(rows.num_candidates.mean()) if collected.num_requests else math.nan,
            "rows_of_task_metrics": len(rows.label),
            "gauc": GAUC_LABEL,
            "relevant": "a positive of any task with a weight in the value; requests with relevant candidates only, or "
            "with none, are left out of ranking figures",
            "recall@k": f"share of the deepest level's top {TOP} among this level's top k",
            "long_tail_share": f"share of places in the top {TOP} held by items outside the most popular fifth "
            "(training positives)",
        },
    }
    return Evaluation(about, figures)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return value
