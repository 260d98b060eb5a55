"""A server of a few lines whose behaviour a test sets, on a real socket, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Queue

GOOD = b'{"items":[{"item":"1","level":1}],"degraded":{"is":false,"reasons":[]},"candidates_scored":[8,4]}'
Answer = Callable[[int], Awaitable[bytes | None]]
"""What is sent for the n-th request, from 0; None: nothing, and the connection is closed."""


def http(body: bytes = GOOD, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


class ScriptedServer:
    """``requests`` counts those that came, ``most_open`` the most connections at once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.address = ""
        self.requests: list[bytes] = []
        self.open = self.most_open = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
                self.requests.append(head + await reader.readexactly(sum(sizes)))
                answer = await self._answer(len(self.requests) - 1)
                if answer is None:
                    break
                writer.write(answer)
        self.open -= 1
        writer.transport.abort()

    async def run(self, started: Callable[[Callable[[], object]], object]) -> None:
        """Serve until what ``started`` is given is called."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn


@contextmanager
def scripted_server(answer: Answer) -> Iterator[ScriptedServer]:
    server = ScriptedServer(answer)
    stops: Queue[Callable[[], object]] = Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(stops.put)))
    thread.start()
    stop = stops.get(timeout=10)
    try:
        yield server
    finally:
        stop()
        thread.join(10)
        assert not thread.is_alive()
