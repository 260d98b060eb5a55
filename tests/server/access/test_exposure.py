"""What the network reaches is guarded, or said to be; websites are kept out; TLS comes from files."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from live_server import live_server
from ranker_double import RankerDouble
from starlette.datastructures import Headers

from depthrank.server import ServerSettings
from depthrank.server.access.browsers import host_refused, origin_refused
from depthrank.server.access.exposure import OWN_NAMES, ExposureError, for_listener, is_loopback
from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tls import TlsError, tls_options
from depthrank.server.serve import bind, serve

GRANT = Grant(name="a", scopes=("rank",), sha256="0" * 64)
RANK = {"user": "u", "candidates": ["1"]}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *[(address, True) for address in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1")],
        *[(address, False) for address in ("0.0.0.0", "::", "10.0.0.1", "localhost", "")],
    ],
)
def test_what_loopback_is(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_the_network_is_refused_without_tokens_and_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ExposureError, match="--insecure"):
        serve(str(tmp_path / "no artifact"), host="0.0.0.0", port=0)


def test_tokens_or_insecure_open_a_port_to_the_network(caplog: pytest.LogCaptureFixture) -> None:
    with bind("0.0.0.0", 0) as listener:
        for_listener(AccessSettings(insecure=True), listener)
        assert not caplog.records
        for_listener(AccessSettings(tokens=(GRANT,)), listener)
        assert "in the clear" in caplog.text
        with pytest.raises(ExposureError):
            for_listener(AccessSettings(), listener)


def test_loopback_without_tokens_answers_to_its_own_names_only() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert for_listener(AccessSettings(), listener).allowed_hosts == OWN_NAMES
        assert for_listener(AccessSettings(tokens=(GRANT,)), listener).allowed_hosts == ()
        assert for_listener(AccessSettings(allowed_hosts=("a",)), listener).allowed_hosts == ("a",)


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost:8080", True),
        ("127.0.0.1", True),
        ("127.0.0.9:80", True),
        ("[::1]:8080", True),
        ("evil.example", False),
        ("localhost.evil.example:8080", False),
        ("", False),
    ],
)
def test_a_name_that_a_website_points_at_loopback_is_refused(host: str, passes: bool) -> None:
    assert (host_refused(Headers({"host": host}), OWN_NAMES) is None) is passes
    assert host_refused(Headers({"host": host}), ("*",)) is None
    assert host_refused(Headers({"host": host}), ()) is None


def test_a_write_that_another_site_sends_is_refused_without_tokens() -> None:
    with live_server() as live:
        own = {"Origin": live.address}
        assert live.client.post("/v1/rank", json=RANK, headers=own).status_code == 200
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            refused = live.client.post("/v1/rank", json=RANK, headers={"Origin": origin})
            assert refused.status_code == 403
        assert live.client.get("/health/live", headers={"Origin": "https://evil.example"}).status_code == 200
    assert len(live.ranker.ranked) == 1
    assert origin_refused("GET", Headers({"origin": "x"})) is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the test's certificate, and is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return cert, key


def test_a_certificate_by_file_serves_https_to_who_trusts_it(certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    settings = ServerSettings(access=AccessSettings(tls_cert=cert, tls_key=key))
    with live_server(RankerDouble(), settings) as live:
        address = live.address.replace("http://", "https://")
        with httpx.Client(verify=ssl.create_default_context(cafile=cert)) as client:
            assert client.post(f"{address}/v1/rank", json=RANK).status_code == 200
        with httpx.Client() as stranger, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.get(f"{address}/health/live")
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert", None, "tls_key is missing"),
        (None, "key", "tls_cert is missing"),
        ("none", "key", "cannot read the TLS"),
        ("key", "cert", "belong together"),
    ],
)
def test_wrong_tls_files_are_one_line(
    certificate: tuple[Path, Path], cert: str | None, key: str | None, words: str
) -> None:
    files = {"cert": str(certificate[0]), "key": str(certificate[1]), "none": "/nowhere.pem", None: None}
    with pytest.raises(TlsError, match=words):
        tls_options(AccessSettings(tls_cert=files[cert], tls_key=files[key]))


def test_a_server_that_has_own_names_refuses_foreign_ones() -> None:
    with live_server(settings=ServerSettings(access=AccessSettings(allowed_hosts=OWN_NAMES))) as live:
        assert live.client.get("/health/live").status_code == 200
        refused = live.client.get("/health/live", headers={"Host": f"rebound.example:{live.port}"})
        assert refused.status_code == 403
        assert "rebound.example" in refused.json()["error"]["message"]
