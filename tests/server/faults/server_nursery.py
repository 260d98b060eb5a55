"""Makes real servers fast: everything is imported once, then each line on stdin forks one.

A line is JSON: artifact, log, and optionally obeys_permissions, settings. The answer is a line of JSON
with the child's pid and its address, or why there is none.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from typing import Any

# ruff: noqa: E402 - what torch reads of the environment must be there before it is imported
from depthrank.cli.threads import set_torch_threads

set_torch_threads(1)  # as `depthrank serve` does

import msgspec
import torch._dynamo  # noqa: F401
import uvicorn  # noqa: F401

import depthrank.cli.app
from depthrank.engine import Ranker  # noqa: F401
from depthrank.errors import DepthrankError
from depthrank.server import ServerSettings, serve


def tell(**facts: Any) -> None:
    os.write(1, json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")


def run(wanted: dict[str, Any]) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(0)
    if wanted.get("obeys_permissions"):
        obey_permissions()
    settings = msgspec.convert(wanted.get("settings", {}), ServerSettings)
    try:
        serve(
            wanted["artifact"],
            port=0,
            log=wanted["log"],
            settings=settings,
            on_started=lambda address: tell(address=address),
        )
    except DepthrankError as error:
        tell(error=str(error))
        return 1
    except BaseException as error:
        tell(error=f"not for a person: {error!r}")
        raise
    return 0


def obey_permissions() -> None:
    """Give up the capabilities by which root writes what it may not (Linux: CAP_DAC_OVERRIDE and its like)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    for capability in (1, 2, 3):
        data[0] &= ~(1 << capability)
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())


def main() -> None:
    assert depthrank.cli.app.app
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system
    gc.freeze()  # as `depthrank serve` does after its imports
    tell(ready=True)
    for line in sys.stdin:
        if os.fork() == 0:
            os._exit(run(json.loads(line)))


if __name__ == "__main__":
    main()
