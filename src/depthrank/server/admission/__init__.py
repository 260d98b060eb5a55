"""Who is served when there is more to do than time: pure decisions, and the one place that carries them out."""

from __future__ import annotations
