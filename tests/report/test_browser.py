"""The page in a real browser: Chromium, where it and its driver are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_page import SECTIONS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(page: Path, browser: Any) -> Any:
    browser.get(page.as_uri())
    return browser


def test_it_loads_without_complaint_and_asks_nobody(opened: Any) -> None:
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.endswith("report.html") for url in urls)
    assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
    assert len([url for url in urls if url.startswith("file:")]) == 1


def test_every_section_is_seen_and_can_be_reached(opened: Any) -> None:
    links = opened.execute_script(
        "return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))"
    )
    assert links == [f"#{name}" for name in SECTIONS]
    for name in SECTIONS:
        section = opened.find_element("id", name)
        assert section.is_displayed()
        assert section.find_elements("css selector", "table, figure")


def test_every_figure_is_drawn_and_has_words(opened: Any) -> None:
    found = opened.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
    )
    assert len(found) == 21
    assert all(complete and width > 100 and alt for complete, width, alt in found)


@pytest.mark.parametrize("width", [320, 420, 1300])
def test_nothing_runs_over_the_edge(width: int, opened: Any) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert opened.execute_script("return window.innerWidth") == width
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    figures = opened.execute_script(
        "return [...document.querySelectorAll('figure img')].map(i => i.clientWidth)"
    )
    assert min(figures) >= 270
