"""Settings from a file, the environment and options: who wins, what is refused, what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from live_server import live_server

from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tokens import hash_of
from depthrank.server.settings import HIDDEN, changed, redacted
from depthrank.server.settings_sources import SettingsError, known_settings, load_settings, variable_of

HASH = hash_of("a secret")


def written(folder: Path, text: str) -> Path:
    file = folder / "server.yaml"
    file.write_text(text)
    return file


def problems(*given: object) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(*given)  # type: ignore[arg-type]
    return {p.path: f"{p.expected} {p.hint or ''}".strip() for p in caught.value.problems}


def test_nothing_given_is_every_default() -> None:
    assert load_settings() == ServerSettings()
    assert changed(ServerSettings()) == []


def test_an_option_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "rank_queue: 1\nlog_queue: 1\nserved_queue: 1\nlimits: {max_top: 1, max_depth: 5}\n")
    environment = {"DEPTHRANK_LOG_QUEUE": "2", "DEPTHRANK_SERVED_QUEUE": "2", "DEPTHRANK_LIMITS__MAX_TOP": "2"}
    found = load_settings(file, environment, {"served_queue": 3, "rank_queue": None})
    assert (found.rank_queue, found.log_queue, found.served_queue) == (1, 2, 3)
    assert (found.limits.max_top, found.limits.max_depth) == (2, 5)
    assert changed(found) == ["limits.max_top", "limits.max_depth", "rank_queue", "log_queue", "served_queue"]


def test_text_in_the_environment_stays_text_and_the_rest_is_yaml() -> None:
    found = load_settings(
        None,
        {
            "DEPTHRANK_ACCESS__TOKENS_FILE": "123",
            "DEPTHRANK_ACCESS__ALLOWED_HOSTS": "[a.example, b.example]",
            "DEPTHRANK_BODY_TIMEOUT_S": "5",
            "DEPTHRANK_ACCESS__QUOTAS__TOKENS": "{shop: {requests_per_s: 10}}",
        },
    )
    assert found.access.tokens_file == "123"
    assert found.access.allowed_hosts == ("a.example", "b.example")
    assert found.body_timeout_s == 5.0
    assert found.access.quotas.tokens["shop"].requests_per_s == 10


def test_every_mistake_is_told_at_once_with_where_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path, "rank_quue: 5\nlog_threads: many\nlimits: {max_top: 5}\n")
    found = problems(file, {"DEPTHRANK_ACCES__INSECURE": "true", "DEPTHRANK_RANK_THREADS": "0"}, {"log_queue": -1})
    assert "did you mean 'rank_queue'?" in found[f"{file}: $.rank_quue"]
    assert found[f"{file}: $.log_threads"].startswith("a whole number")
    assert "did you mean 'DEPTHRANK_ACCESS__INSECURE'?" in found["DEPTHRANK_ACCES__INSECURE"]
    assert "DEPTHRANK_RANK_THREADS" in found
    assert "option log_queue" in found
    assert len(found) == 5


def test_a_file_that_is_not_there_or_not_yaml_is_one_line(tmp_path: Path) -> None:
    for file, words in (
        (tmp_path / "none.yaml", "cannot read the settings"),
        (written(tmp_path, "a: [1"), "is not YAML"),
    ):
        with pytest.raises(SettingsError, match=words):
            load_settings(file)
    with pytest.raises(SettingsError, match="must hold names and values"):
        load_settings(written(tmp_path, "- 1\n"))
    assert "line 2" in problems(written(tmp_path, "rank_queue: 1\nrank_queue: 2\n"))
    assert load_settings(written(tmp_path, "")) == ServerSettings()


def test_what_others_put_into_the_environment_is_left_alone() -> None:
    others = {"DEPTHRANK_DEBUG": "1", "DEPTHRANK_PORT": "tcp://10.0.0.1:8080", "DEPTHRANK_SERVICE_HOST": "10.0.0.1"}
    assert (
        load_settings(None, others | {"PATH": "/bin", "DEPTHRANK_PORT_8080_TCP_ADDR": "10.0.0.1"}) == ServerSettings()
    )


def test_every_setting_has_a_variable_of_its_own() -> None:
    variables = [variable_of(path) for path, _ in known_settings()]
    assert len(set(variables)) == len(variables) > 25


def test_secrets_and_passwords_in_urls_are_not_shown() -> None:
    settings = ServerSettings(
        access=AccessSettings(
            tokens=(Grant(name="shop", scopes=("rank",), sha256=HASH),),
            tokens_file="redis://user:pass-word@host:6379/0",
        )
    )
    shown = redacted(settings)["access"]
    assert shown["tokens"] == [{"name": "shop", "scopes": ["rank"], "sha256": HIDDEN}]
    assert shown["tokens_file"] == f"redis://{HIDDEN}@host:6379/0"


def test_the_endpoint_shows_what_the_server_runs_with() -> None:
    with live_server(settings=ServerSettings(rank_queue=7)) as live:
        told = live.client.get("/v1/settings").json()
    assert told["settings"]["rank_queue"] == 7
    assert told["changed"] == ["rank_queue"]
