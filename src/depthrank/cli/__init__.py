"""The command line: one file a verb. Start-up is light: a verb loads what it needs when it runs."""

from __future__ import annotations

from depthrank.cli.app import main

__all__ = ["main"]
