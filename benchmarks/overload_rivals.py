"""The same model behind FastAPI, LitServe and Ray Serve, with the settings that their first example has.

    python benchmarks/overload_rivals.py fastapi PORT ARTIFACT LOG

Each answers POST /v1/rank by ``Ranker.rank`` in the process that serves; ``bench_overload`` starts them on the core
that its own server had.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

import depthrank

READY_S = 120


@contextmanager
def rival(name: str, python: str, artifact: Path, log: str, core: int) -> Iterator[str]:
    """A rival's server on a core; yields its address when it answers."""
    from depthrank.cli.served_artifact import free_port

    port = free_port()
    started = [str(Path(__file__).with_name("rival_litserve.py"))] if name == "litserve" else [__file__, name]
    command = ["taskset", "-c", str(core), python, *started, str(port), str(artifact), log]
    found = os.pathsep.join(str(folder) for folder in (Path(__file__).parent, Path(depthrank.__file__).parents[1]))
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": found}
    with open(f"/tmp/overload_{name}.log", "wb") as said:
        process = subprocess.Popen(command, env=settings, stdout=said, stderr=said, start_new_session=True)
        try:
            _until_it_answers(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    body = {"user": "1", "candidates": "all", "top": 10, "mode": "router"}
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise SystemExit(f"the rival ended with code {process.returncode}: see /tmp/overload_*.log")
        with suppress(httpx.TransportError):
            if httpx.post(f"{address}/v1/rank", json=body, timeout=10).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"the rival did not answer within {READY_S} s: see /tmp/overload_*.log")


class Model:
    """The ranker, and what a request becomes."""

    def __init__(self, artifact: str, log: str) -> None:
        import torch

        from depthrank.engine import Ranker
        from depthrank.events import open_log

        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
        self._ranker = Ranker.load(artifact, open_log(log, read_only=True))
        self._ranker.warm()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Rank at the depth asked for; such a server knows no deadlines."""
        import msgspec

        from depthrank.schema import Request

        body = {name: value for name, value in body.items() if name != "deadline_ms"}
        found: dict[str, Any] = msgspec.to_builtins(self._ranker.rank(Request(**body)))
        return found


def serve_fastapi(port: int, artifact: str, log: str) -> None:
    """A plain function as endpoint, which runs in FastAPI's thread pool."""
    import uvicorn
    from fastapi import Body, FastAPI

    app, model = FastAPI(), Model(artifact, log)

    def rank(body: Any = Body()) -> Any:  # noqa: B008 - how FastAPI is told
        return model.answer(body)

    app.post("/v1/rank")(rank)
    uvicorn.run(app, port=port, log_level="warning")


def serve_ray(port: int, artifact: str, log: str) -> None:
    """A deployment of one replica, by its defaults."""
    import ray
    from ray import serve

    @serve.deployment
    class Ranking:
        def __init__(self) -> None:
            from overload_rivals import Model as RankingModel  # found by its path, not pickled

            self.model = RankingModel(artifact, log)

        async def __call__(self, request: Any) -> Any:
            import asyncio

            body = await request.json()
            return await asyncio.to_thread(self.model.answer, body)

    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Ranking.bind(), route_prefix="/v1/rank")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    servers = {"fastapi": serve_fastapi, "ray": serve_ray}
    servers[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:5])
