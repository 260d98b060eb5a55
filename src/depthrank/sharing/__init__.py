"""The request-sharing compiler: any PyTorch ranker computes what depends on the request once per request.

``share(module, example, request_inputs=[...])`` captures a module written for (request, candidate) pairs, finds what
each value depends on, and emits a form with the same outputs in which no request-side value is replicated. The
pipeline, in order: ``capture`` (torch.export), ``normal_form`` (batch-first nodes; row mixing is refused),
``rewrites`` (values stay uncomputed until needed), ``program`` (request, item and candidate parts), ``verify``.
"""

from __future__ import annotations

from depthrank.sharing.entry import share
from depthrank.sharing.refusal import Refused
from depthrank.sharing.report import Report
from depthrank.sharing.shared import BoundShared, RequestState, Shared
from depthrank.sharing.storage import load_shared

__all__ = ["BoundShared", "Refused", "Report", "RequestState", "Shared", "load_shared", "share"]
