"""The page in a real browser: live figures, a ranking that a click changes, hostile ids, a keyboard, a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chromium import CHROMIUM, Tab, chromium
from live_server import Live, live_server
from ranker_double import RankerDouble, small_spec
from test_server_limits import until

from depthrank.catalogue import Catalogue
from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tokens import hash_of, new_token

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(2)</script>',
    "javascript:alert(3)",
    "' onmouseover='alert(4)",
)
READY = "document.querySelectorAll('#ranking .row').length > 0"
POLLED = "document.querySelector('#phase').textContent === 'ready'"
SCREENS = [(360, 740, False), (360, 740, True), (1280, 800, False), (1280, 800, True)]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        browser.look(1280, 800)
        yield browser


@contextmanager
def served(
    tab: Tab, ranker: RankerDouble | None = None, settings: ServerSettings | None = None, *, faultless: bool = True
) -> Iterator[Live]:
    """A server to open the page from; ``faultless``: the page must have had no error and broken no policy."""
    tab.problems.clear()
    with live_server(ranker, settings) as live:
        yield live
        tab.open("about:blank")  # it would go on polling a server that has ended
        tab.until("location.href === 'about:blank'")
    assert not faultless or tab.problems == []


def test_a_click_posts_an_event_and_the_order_changes(tab: Tab) -> None:
    with served(tab) as live:
        tab.open(live.address + "/#user=u")
        tab.until(READY)
        item = tab.ask("document.querySelectorAll('#ranking .row')[9].dataset.item")
        tab.ask("document.querySelectorAll('#ranking .row')[9].querySelector('[data-action=like]').click()")
        tab.until("document.querySelector('#moved').textContent.includes('places changed')")
        (batch,) = live.ranker.batches
        assert (batch.user, batch.item, batch.action, batch.position.tolist()) == (["u"], [item], ["like"], [9])
        until(lambda: bool(live.ranker.recorded))  # behind the answer
        assert batch.request_id == [live.ranker.recorded[0][1].request_id]
        assert tab.ask("document.querySelector('#ranking .row').dataset.item") == item
        shown = tab.text()
        assert "is now at 1 (was 10)" in shown and "▲ 9" in shown and "▼ 1" in shown
        assert tab.ask("document.querySelector('#ranking .acted').dataset.item") == item
        assert tab.ask("document.activeElement.dataset.item") == item, "the focus stays on what was pressed"
        tab.until("document.querySelector('#history').innerText.includes('like · just now')")


def test_live_figures_and_stories_of_recent_requests_are_shown(tab: Tab) -> None:
    with served(tab) as live:
        live.client.post("/v1/rank", json={"user": "somebody", "candidates": list(range(30))})
        tab.open(live.address + "/#user=u")
        tab.until(POLLED)
        tab.until("document.querySelector('#recent').innerText.includes('somebody')")
        tab.until("document.querySelectorAll('.tile .value')[0].textContent !== '0/s'")
        tab.ask("[...document.querySelectorAll('#recent details')].forEach(d => { d.open = true; })")
        story = tab.ask("document.querySelector('#recent').innerText")
        assert "Level 0 (the router) scored 30" in story and "Level 1 scored 16" in story
        assert "double" in tab.ask("document.querySelector('#versions').innerText")
        assert "40 items · click, like" in tab.ask("document.querySelector('#model-line').textContent")
        tab.until("document.querySelector('#plot-rate .main-svg') !== null")  # plotly.js, from the installed package
        assert "Requests a second" in tab.ask("document.querySelector('#plot-rate').ariaLabel")


def test_the_page_says_why_where_it_is_asked(tab: Tab) -> None:
    with served(tab) as live:
        tab.open(live.address + "/#user=u")
        tab.until(READY)
        tab.ask("document.getElementsByName('explain')[0].click(), document.getElementById('ask').requestSubmit()")
        tab.until("!document.querySelector('#story-card').hidden")
        assert "Two levels were asked." in tab.text()
        assert "because of Four Rooms 1 (click) +0.25" in tab.text()


def test_the_page_tells_what_went_wrong_and_recovers(tab: Tab) -> None:
    with served(tab, faultless=False) as live:  # the browser notes the 500

        def broken() -> None:
            raise RuntimeError("secret")

        live.ranker.rank_fault = broken
        tab.open(live.address + "/#user=u")
        tab.until("document.querySelector('#notice').innerText.includes('finds the reason under the request id')")
        assert "secret" not in tab.text()
        live.ranker.rank_fault = lambda: None
        tab.ask("document.getElementById('ask').requestSubmit()")
        tab.until(READY)
        assert tab.ask("document.querySelector('#notice').hidden")


def test_hostile_ids_are_text_and_never_markup(tab: Tab) -> None:
    ranker = RankerDouble()
    ids = [*HOSTILE, "plain"]
    ranker.generation.items = Catalogue.build("item", ids, {"title": [*HOSTILE, "Plain"]})
    ranker.spec = small_spec({"column": "time", "unit": "ms"})
    with served(tab, ranker) as live:
        live.client.post("/v1/rank", json={"user": HOSTILE[0], "candidates": ids})
        live.client.post("/v1/events", json={"user": HOSTILE[1], "item": HOSTILE[2], "action": "click"})
        tab.open(live.address + "/")
        tab.ask("window.alerts = 0, window.alert = () => { window.alerts += 1; }")
        tab.until(READY)
        tab.ask(f"document.getElementsByName('user')[0].value = {HOSTILE[1]!r}")
        tab.ask("document.getElementById('ask').requestSubmit()")
        tab.until("document.querySelector('#history').innerText.includes('javascript:alert(3)')")
        tab.until("document.querySelector('#recent').innerText.includes('<img src=x')")
        assert tab.ask("document.querySelectorAll('main img, main script, [onerror], [onmouseover]').length") == 0
        assert tab.ask("window.alerts") == 0
        assert "<img src=x onerror=alert(1)>" in tab.ask("document.querySelector('#ranking').innerText")


def test_a_keyboard_reaches_everything_and_is_not_caught(tab: Tab) -> None:
    with served(tab) as live:
        tab.open(live.address + "/#user=u")
        tab.until(READY)
        tab.until(POLLED)
        tab.ask("document.body.focus(), document.activeElement.blur()")
        seen = []
        for _ in range(60):
            tab.press("Tab")
            seen.append(tab.ask("((e) => e.id || e.name || e.dataset.action || e.tagName)(document.activeElement)"))
            if seen[-1] == "SUMMARY":
                break
        wanted = ["A", "pause", "user", "top", "mode", "deadline", "explain", "click", "like", "history", "SUMMARY"]
        order = [seen.index(name) for name in wanted]
        assert order == sorted(order), seen
        tab.press("Enter")
        tab.until("document.activeElement.closest('details').open")
        unnamed = tab.ask(
            "[...document.querySelectorAll('button, input, select, a, summary')].filter(e => !e.hidden && "
            "!(e.ariaLabel || e.innerText.trim() || (e.labels && e.labels.length))).length"
        )
        assert unnamed == 0


def test_with_tokens_the_page_asks_for_one_and_keeps_it_in_the_tab(tab: Tab) -> None:
    token = new_token()
    grant = Grant(name="page", scopes=("admin",), sha256=hash_of(token))
    settings = ServerSettings(access=AccessSettings(tokens=(grant,)))
    with served(tab, settings=settings, faultless=False) as live:  # the browser notes the 401
        tab.open(live.address + "/#user=u")
        tab.until("!document.querySelector('#access').hidden")
        tab.ask(
            f"document.querySelector('#token').value = {token!r}, document.querySelector('#access').requestSubmit()"
        )
        tab.until(READY)
        tab.until(POLLED)
        assert token not in tab.ask("document.documentElement.outerHTML")
        assert tab.ask("localStorage.length") == 0


@pytest.mark.parametrize("width, height, dark", SCREENS)
def test_it_fits_a_phone_and_a_desk_in_dark_and_light(
    tab: Tab, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    with served(tab) as live:
        tab.look(width, height, dark=dark)
        try:
            tab.open(live.address + "/#user=u")
            tab.until(READY)
            tab.until(POLLED)
            assert tab.ask("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways for"
            background = tab.ask("getComputedStyle(document.body).backgroundColor")
            red = int(re.findall(r"\d+", background)[0])
            assert (red < 60) == dark
            small = (
                "[...document.querySelectorAll('#ranking button, #ask button')].filter(e => e.offsetHeight < 34).length"
            )
            assert tab.ask(small) == 0, "a finger hits what is 34 pixels high or more"
            tab.screenshot(tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png")
        finally:
            tab.look(1280, 800)
