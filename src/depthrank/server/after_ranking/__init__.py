"""Between the ranking and the answer: filters, caps, diversity, exploration. All off by default, all told."""

from __future__ import annotations

from depthrank.server.after_ranking.pipeline import AfterRanking
from depthrank.server.after_ranking.settings import AfterSettings, DiversitySettings, ExplorationSettings

__all__ = ["AfterRanking", "AfterSettings", "DiversitySettings", "ExplorationSettings"]
