"""Engine processes: one front, N engines, answers that do not depend on how many."""

from __future__ import annotations
