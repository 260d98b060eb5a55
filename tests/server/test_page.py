"""The page in a real browser: it ranks, a click posts an event, and what moved is shown."""

from __future__ import annotations

import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from live_server import Live, live_server
from starlette.responses import HTMLResponse
from starlette.routing import Route

CHROMIUM = Path("/usr/bin/chromium")
browser = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
PAGE = files("depthrank.server").joinpath("page.html").read_text("utf-8")
LIKE_THE_TENTH = """<script>
const ready = setInterval(() => {
  const like = [...document.querySelectorAll("#ranking button")].filter(b => b.dataset.action === "like")[9];
  if (like) { clearInterval(ready); like.click(); }
}, 20);
</script></body>"""


def dom(live: Live, path: str, profile: Path) -> str:
    """The page's elements after a few seconds of virtual time."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--virtual-time-budget=4000",
    ]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "--dump-dom", live.address + path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_page_needs_nothing_from_elsewhere(live: Live) -> None:
    response = live.client.get("/")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.findall(r"(?:src|href)=[\"']?(?!data:)\w", response.text)
    assert "https://" not in response.text and "innerHTML" not in response.text


@browser
def test_the_page_shows_a_ranking_a_history_and_where_the_time_went(live: Live, tmp_path: Path) -> None:
    live.client.post("/v1/events", json={"user": "a b", "item": "3", "action": "click"})
    shown = dom(live, "/#user=a+b", tmp_path)
    assert shown.count('class="row"') == 20
    assert "Four Rooms 1" in shown and "genres drama, war" in shown
    assert re.search(r"click · just now", shown)
    assert re.search(r"level_0.*?ms", shown)
    assert "40 → 16 candidates scored" in shown and "double · 40 items · click, like" in shown


@browser
def test_a_click_posts_an_event_and_shows_what_moved(tmp_path: Path) -> None:
    async def acted(_http: object) -> HTMLResponse:
        return HTMLResponse(PAGE.replace("</body>", LIKE_THE_TENTH))

    with live_server() as live:
        live.server.config.app.router.routes.append(Route("/acted", acted))  # type: ignore[union-attr]
        shown = dom(live, "/acted#user=u", tmp_path)
        (batch,) = live.ranker.batches
    assert batch.action == ["like"] and batch.position.tolist() == [9]
    first_answer = live.ranker.recorded[0][1]
    assert batch.request_id == [first_answer.request_id] and batch.item == [first_answer.items[9].item]
    assert "is now at 1 (was 10)" in shown
    assert "▲ 9" in shown and "▼ 1" in shown
    assert 'class="row acted"' in shown


@browser
def test_the_page_says_why_where_it_is_asked(tmp_path: Path) -> None:
    ask = """<script>document.getElementsByName("explain")[0].checked = true;
    setTimeout(() => document.getElementById("ask").requestSubmit(), 500);</script></body>"""

    async def asking(_http: object) -> HTMLResponse:
        return HTMLResponse(PAGE.replace("</body>", ask))

    with live_server() as live:
        live.server.config.app.router.routes.append(Route("/asking", asking))  # type: ignore[union-attr]
        shown = dom(live, "/asking#user=u", tmp_path)
    assert "Two levels were asked." in shown
    assert "because of Four Rooms 1 (click) +0.25" in shown


@browser
def test_the_page_tells_what_went_wrong(tmp_path: Path) -> None:
    with live_server() as live:

        def broken() -> None:
            raise RuntimeError("secret")

        live.ranker.rank_fault = broken
        shown = dom(live, "/#user=u", tmp_path)
    assert "finds the reason under the request id" in shown and "secret" not in shown
