"""SIGHUP: tokens, quotas and TLS files are read again; what is wrong changes nothing."""

from __future__ import annotations

import logging
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from live_server import Live, live_server
from ranker_double import RankerDouble
from test_server_life import line, process

from depthrank.errors import DepthrankError
from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings, Grant, QuotaRates, QuotaSettings
from depthrank.server.access.tokens import hash_of
from depthrank.server.reload import Reload
from depthrank.server.serve import bind

RANK = {"user": "u", "candidates": ["1"]}


def with_access(**fields: object) -> ServerSettings:
    return ServerSettings(access=AccessSettings(**fields))  # type: ignore[arg-type]


def token(name: str) -> Grant:
    return Grant(name=name, scopes=("rank",), sha256=hash_of(name))


def reload_of(live: Live, read: Callable[[], ServerSettings] | None = None) -> None:
    with bind("127.0.0.1", 0) as listener:
        reload = Reload(live.server.config.app, listener, read)  # type: ignore[arg-type]
        reload.tls = live.server.config.ssl
        reload.now()


def status(live: Live, name: str = "") -> int:
    headers = {"Authorization": f"Bearer {name}"} if name else {}
    return live.client.post("/v1/rank", json=RANK, headers=headers).status_code


def test_tokens_and_quotas_are_those_of_the_settings_as_they_are_now(caplog: pytest.LogCaptureFixture) -> None:
    rare = QuotaSettings(default=QuotaRates(requests_per_s=0.01), burst_s=100)
    with live_server(RankerDouble(), with_access(tokens=(token("old"),))) as live:
        assert [status(live, name) for name in ("old", "old", "new")] == [200, 200, 401]
        with caplog.at_level(logging.INFO):
            reload_of(live, lambda: with_access(tokens=(token("new"),), quotas=rare))
        assert [status(live, name) for name in ("old", "new", "new")] == [401, 200, 429]
        assert "SIGHUP: read again: tokens, quotas" in caplog.text and "restart" not in caplog.text
        assert live.service.settings.access.quotas == rare, "as GET /v1/settings shows it"


def test_what_cannot_change_while_it_runs_is_named(caplog: pytest.LogCaptureFixture) -> None:
    any_host = AccessSettings(allowed_hosts=("*",))
    with live_server(RankerDouble(), ServerSettings(access=any_host)) as live:
        reload_of(
            live,
            lambda: ServerSettings(rank_queue=7, access=msgspec.structs.replace(any_host, max_connections=9)),
        )
        assert "a restart is needed for rank_queue, access.max_connections" in caplog.text
        assert live.service.settings.rank_queue == ServerSettings().rank_queue


def refused() -> ServerSettings:
    raise DepthrankError("the settings have a wrong field")


@pytest.mark.parametrize("read", [refused, lambda: with_access(tokens=(token("a"), token("a")))])
def test_what_is_wrong_is_told_and_changes_nothing(
    read: Callable[[], ServerSettings], caplog: pytest.LogCaptureFixture
) -> None:
    with live_server(RankerDouble(), with_access(tokens=(token("old"),))) as live:
        before = live.service.settings
        reload_of(live, read)
        assert "SIGHUP: everything stays as it was" in caplog.text
        assert live.service.settings == before and status(live, "old") == 200


def make_certificate(folder: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)


def test_a_renewed_certificate_serves_and_a_broken_one_does_not_replace_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the test's certificate, and is not installed")
    make_certificate(tmp_path)
    settings = with_access(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key"))
    with live_server(RankerDouble(), settings) as live:

        def trusts(cafile: str) -> bool:
            with httpx.Client(verify=ssl.create_default_context(cafile=cafile)) as client:
                try:
                    return client.get(live.address.replace("http:", "https:") + "/health/live").status_code == 200
                except httpx.ConnectError:
                    return False

        old = shutil.copy(tmp_path / "cert", tmp_path / "old")
        make_certificate(tmp_path)
        new = str(tmp_path / "cert")
        assert trusts(str(old)) and not trusts(new), "until it is told"
        reload_of(live)
        assert trusts(new) and not trusts(str(old))
        good = shutil.copy(new, tmp_path / "good")
        (tmp_path / "cert").write_text("no certificate")
        reload_of(live)
        assert "everything stays as it was" in caplog.text and trusts(str(good))


def test_the_signal_ends_nothing() -> None:
    with process() as running:
        address = line(running)
        running.send_signal(signal.SIGHUP)
        assert httpx.get(f"{address}/health/live").status_code == 200
        assert running.poll() is None


def test_settings_equal_to_those_running_need_no_restart() -> None:
    from depthrank.server.settings import changed

    settings = with_access(tls_cert="a")
    assert changed(settings, msgspec.structs.replace(settings)) == []
    assert changed(settings) == ["access.tls_cert"], "the control"
