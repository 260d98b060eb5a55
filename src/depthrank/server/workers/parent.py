"""An engine process does not outlive its front, however the front ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
LOOK_EVERY_S = 0.5


def end_with(parent: int, *, by_signal: bool) -> None:
    """End this process when ``parent`` is gone: looked at twice a second, and by the kernel where ``by_signal``.

    The kernel's signal comes when the *thread* that started this process ends, so it is asked for only by a front that
    starts its engines from its main thread. The end of the connection ends an idle engine at once; this is for one that
    is busy or hangs.
    """
    if by_signal and sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)
