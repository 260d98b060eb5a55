"""Training: losses, loop, calibration; ends in an artifact."""

from __future__ import annotations

from depthrank.training.train import TrainReport, train

__all__ = ["TrainReport", "train"]
