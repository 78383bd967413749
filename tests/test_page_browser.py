"""The page and a report in a real browser: headless Chromium, driven by playwright."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from alexnet.report.contents import gather
from alexnet.report.document import write_report
from test_page import SVG, Server, bomb, picture

WAIT = 60_000  # milliseconds: the machine may be busy
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt install chromium"),
]
driver = pytest.importorskip("playwright.sync_api", reason="no playwright here: it comes with the dev group")


@pytest.fixture(scope="module")
def browser():
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with driver.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield found
        found.close()


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    found = Server(shutil.copytree(finished.path, tmp_path_factory.mktemp("browser") / "run"))
    yield found
    assert found.stop()[0] == 0


@pytest.fixture
def tab(browser):
    """A tab in which nothing may go wrong unseen."""
    page = browser.new_page(viewport={"width": 400, "height": 800})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda problem: said.append(str(problem)))
    yield page
    page.close()
    assert [line for line in said if "status of 41" not in line] == []  # a refusal stands in the console too


def choose(tab, content, name="it.png"):
    tab.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def test_a_picture_is_answered(tab, server):
    tab.goto(server.url)
    assert not tab.is_visible("#results")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "file"
    choose(tab, picture())
    tab.wait_for_selector("#classes li >> nth=4")
    rows = tab.locator("#classes li").all_inner_texts()
    assert len(rows) == 5
    assert all(row.rstrip().endswith("%") for row in rows)
    name = rows[0].split()[0]
    driver.expect(tab.locator("#told")).to_contain_text("relu5", timeout=WAIT)
    assert f"Most probable: {name}" in tab.inner_text("#status")
    assert tab.get_attribute("#status", "aria-live") == "polite"
    for image in ("seen", "heat", "maps"):
        assert tab.evaluate(f"document.getElementById('{image}').naturalWidth") > 0
        assert tab.get_attribute(f"#{image}", "alt")
    tab.wait_for_selector("#nearest li >> nth=5", timeout=60_000)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400


def test_layers_are_chosen_by_keyboard(tab, server):
    tab.goto(server.url)
    choose(tab, picture())
    driver.expect(tab.locator("#maps")).to_have_attribute("alt", re.compile("relu5: "), timeout=WAIT)
    before = tab.get_attribute("#maps", "src")
    tab.focus("#layer")
    tab.keyboard.type("conv1")
    driver.expect(tab.locator("#maps")).to_have_attribute("alt", re.compile("conv1: "), timeout=WAIT)
    assert tab.get_attribute("#maps", "src") != before


@pytest.mark.parametrize("content", [SVG, bomb()], ids=["svg", "bomb"])
def test_what_is_refused_is_said_and_the_page_lives(tab, server, content):
    tab.goto(server.url)
    choose(tab, content)
    tab.wait_for_selector("#status.bad")
    assert ("megapixels" in tab.inner_text("#status")) == (content != SVG)
    assert not tab.is_visible("#classes")
    choose(tab, picture())
    tab.wait_for_selector("#classes li")
    assert tab.locator("#status.bad").count() == 0


def test_a_picture_can_be_dropped_and_pasted(tab, server):
    tab.goto(server.url)
    make = """([content, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(content)], "it.png", { type: "image/png" }));
        const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                                      : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
        document.body.dispatchEvent(event);
    }"""
    seen = set()
    for seed, kind in enumerate(("drop", "paste")):
        tab.evaluate(make, [list(picture(seed)), kind])
        for before in seen or {""}:
            driver.expect(tab.locator("#seen")).not_to_have_attribute("src", before, timeout=WAIT)
        driver.expect(tab.locator("#seen")).to_have_attribute("src", re.compile("data:"), timeout=WAIT)
        seen.add(tab.get_attribute("#seen", "src"))
    assert len(seen) == 2


@pytest.mark.parametrize("width", [400, 1400])
def test_a_report_fits_and_breaks_no_policy(tab, finished, tmp_path, width):
    write_report([gather(finished, "a run")], tmp_path / "report.html")
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("getComputedStyle(document.body).maxWidth") == "1240px"  # the policy lets the style through
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
