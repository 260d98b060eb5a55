"""Training: losses, loop, calibration; ends in an artifact."""

from __future__ import annotations

from depthrank.training.train import TrainReport, default_log_url, train

__all__ = ["TrainReport", "default_log_url", "train"]
