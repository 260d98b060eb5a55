"""An artifact served in a process of its own, and a client that costs next to nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from depthrank.cli.served_artifact import ServerProcess, free_port


class KeepAliveClient:
    """One connection, as bare as HTTP allows, so that the time is the server's."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = host

    def ask(self, method: str, path: str, body: bytes = b"", media_type: str = "application/json") -> bytes:
        """The body of the answer; raises RuntimeError where it is not a 200."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: {media_type}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        answer = bytearray()
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._received()
        lines = bytes(answer[:end]).decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        while len(answer) < end + 4 + length:
            answer += self._received()
        if " 200" not in lines[0]:
            raise RuntimeError(f"{method} {path}: {bytes(answer).decode(errors='replace')[:1000]}")
        return bytes(answer[end + 4 :])

    def _received(self) -> bytes:
        part = self.socket.recv(1 << 18)
        if not part:
            raise RuntimeError("the server closed the connection")
        return part


@contextmanager
def serving(artifact: str, log: str, threads: int) -> Iterator[str]:
    """``depthrank serve`` in a process of its own; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "depthrank.cli", "serve", artifact, "--port", str(port), "--log", log]
    command += ["--threads", str(threads)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        server = ServerProcess(process, f"http://127.0.0.1:{port}", said)
        try:
            server.wait_until_ready()
            yield server.address
        finally:
            server.stop()
