"""Serve a ranking model of LLM-scale complexity over thousands of candidates, at the cost of a small one.

The names below are loaded when they are first used, so that ``import depthrank`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthrank.artifact import inspect_artifact, verify_artifact
    from depthrank.client import AsyncClient, Client
    from depthrank.engine import Ranker
    from depthrank.errors import DepthrankError
    from depthrank.evaluate import evaluate as evaluate_artifact
    from depthrank.events import EventBatch, EventLog
    from depthrank.schema import Answer, Request, Spec
    from depthrank.sharing import share
    from depthrank.training import train

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "DepthrankError",
    "EventBatch",
    "EventLog",
    "Ranker",
    "Request",
    "Spec",
    "evaluate_artifact",
    "inspect_artifact",
    "share",
    "train",
    "verify_artifact",
]

# evaluate_artifact, not evaluate: a room has that name, and importing it would replace the function.
_HOME = {
    "Answer": "depthrank.schema:Answer",
    "AsyncClient": "depthrank.client:AsyncClient",
    "Client": "depthrank.client:Client",
    "DepthrankError": "depthrank.errors:DepthrankError",
    "EventBatch": "depthrank.events:EventBatch",
    "EventLog": "depthrank.events:EventLog",
    "Ranker": "depthrank.engine:Ranker",
    "Request": "depthrank.schema:Request",
    "Spec": "depthrank.schema:Spec",
    "evaluate_artifact": "depthrank.evaluate:evaluate",
    "inspect_artifact": "depthrank.artifact:inspect_artifact",
    "share": "depthrank.sharing:share",
    "train": "depthrank.training:train",
    "verify_artifact": "depthrank.artifact:verify_artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'depthrank' has no attribute {name!r}; it offers {', '.join(__all__)}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
