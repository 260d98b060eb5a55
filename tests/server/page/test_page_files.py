"""What the page is made of: nothing inline, nothing from elsewhere, fetched again only when it has changed."""

from __future__ import annotations

import gzip
import re

import pytest
from live_server import Live

from depthrank.server.page.endpoint import NAMES


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline(live: Live) -> None:
    response = live.client.get("/")
    policy = response.headers["Content-Security-Policy"]
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert set(re.findall(r"(?:src|href)=\"([^#\"]+)\"", response.text)) == {"data:,", "page/page.css", "page/page.js"}
    assert not re.findall(r"\son\w+=|\sstyle=|<style|<script>", response.text)


@pytest.mark.parametrize("name", NAMES)
def test_its_files_are_fetched_again_only_when_they_have_changed(live: Live, name: str) -> None:
    response = live.client.get(f"/page/{name}")
    assert response.status_code == 200 and response.headers["X-Content-Type-Options"] == "nosniff"
    assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in response.text
    assert "innerHTML" not in response.text and "eval(" not in response.text
    again = live.client.get(f"/page/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304 and not again.content


def test_the_charting_library_comes_from_the_installed_package_and_is_compressed(live: Live) -> None:
    packed = live.client.get("/page/plotly.min.js")
    assert packed.headers["Content-Encoding"] == "gzip" and b"plotly.js v" in packed.content[:200]
    assert len(gzip.compress(packed.content, 6)) < 2_000_000
    plain = live.client.get("/page/plotly.min.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers and plain.content == packed.content
    again = live.client.get("/page/plotly.min.js", headers={"If-None-Match": packed.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("name", ["endpoint.py", "..%2Fendpoint.py", "page.html", "plotly_js.py"])
def test_no_other_file_can_be_had(live: Live, name: str) -> None:
    assert live.client.get(f"/page/{name}").status_code == 404
