"""LitServe with its defaults: one worker, no batching. Its workers import this file, so its API stands at the top.

python benchmarks/rival_litserve.py PORT ARTIFACT LOG
"""

from __future__ import annotations

import sys
from typing import Any

import litserve

from overload_rivals import Model


class Ranking(litserve.LitAPI):  # type: ignore[misc]
    """``given``: artifact and log."""

    given: tuple[str, str]

    def setup(self, device: str) -> None:
        """In the worker."""
        self.ranking = Model(*self.given)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads annotations
        """The JSON body as it is."""
        return request

    def predict(self, x: Any) -> Any:
        """Rank."""
        return self.ranking.answer(x)

    def encode_response(self, output: Any) -> Any:
        """The answer as it is."""
        return output


if __name__ == "__main__":
    api = Ranking(api_path="/v1/rank")
    api.given = sys.argv[2], sys.argv[3]
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
