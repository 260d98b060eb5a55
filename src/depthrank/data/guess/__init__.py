"""A first ``ranking.yaml`` guessed from the files of a folder: names, types and values say what a column may be."""

from __future__ import annotations

from depthrank.data.guess.first_spec import FirstSpec, first_spec
from depthrank.data.guess.main_file import Named

__all__ = ["FirstSpec", "Named", "first_spec"]
