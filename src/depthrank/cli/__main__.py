"""``python -m depthrank.cli``: the same as the command ``depthrank``."""

from __future__ import annotations

from depthrank.cli.app import main

main()
