"""Runs a server over the double in a process of its own; talks with the test by lines on stdin and stdout."""

from __future__ import annotations

import sys
import threading
from typing import Any

from ranker_double import RankerDouble

from depthrank.errors import DepthrankError
from depthrank.schema import Answer, Request
from depthrank.server import ServerSettings
from depthrank.server.serve import bind, run


def say(*words: object) -> None:
    print(*words, flush=True)


class Telling(RankerDouble):
    """Says when it is entered; goes on when a line arrives."""

    def rank(self, request: Request, **options: Any) -> Answer:
        say("entered")
        return super().rank(request, **options)


def main() -> int:
    ranker = Telling()
    ranker.gate.clear()

    def open_gate() -> None:
        sys.stdin.readline()
        ranker.gate.set()

    threading.Thread(target=open_gate, daemon=True).start()
    try:
        with bind("127.0.0.1", int(sys.argv[1])) as listener:
            run(ranker, listener, ServerSettings(), on_started=lambda address: say(address))
    except DepthrankError as error:
        print(error, file=sys.stderr)
        return 1
    say("recorded", len(ranker.recorded))
    return 0


if __name__ == "__main__":
    sys.exit(main())
