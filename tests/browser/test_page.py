"""The operator's page in a browser: what it tells while messages flow, while they do not, and while nobody answers."""

import signal
from typing import Any, Final

import pytest
from playwright.async_api import expect

from demo.rapidpro import Answer, Fault
from tests.browser.conftest import Browser, Scene

PATIENCE: Final = 30_000  # ms
HOSTILE: Final = "<img src=x onerror=alert(1)>\"'&\u202e"
REFUSED: Final = Answer(403, '{"detail": "Invalid token"}', "application/json")


async def shows(page: Any, place: str, text: str) -> None:
    await expect(page.locator(place)).to_contain_text(text, timeout=PATIENCE)


async def test_messages_flow_and_the_page_shows_it_as_it_happens(scene: Scene, browser: Browser) -> None:
    page = await browser.open(scene.url)
    await shows(page, "#connection", "Live")
    await shows(page, "h1", "All flows.")
    doc = await scene.write("+254712345678")
    await scene.write("+254712345001", uuid=HOSTILE + "x" * 5000, doc_id=HOSTILE)
    await scene.write("phone1")
    await scene.receive(HOSTILE, "+254712345222")
    await shows(page, "#events", doc)
    await shows(page, ".flow-wide", "2 / 1")
    await shows(page, ".flow-wide", "2 / 0")
    await shows(page, "#events", "delivered")
    await shows(page, "#events", "<img src=x onerror=alert(1)>\"'&\ufffd")
    await shows(page, "#events", "…678")
    await shows(page, "#events", "…222")
    await shows(page, "#charts", "out 2")
    await shows(page, "#charts", "in 1")
    whole = await page.content()
    assert "254712345" not in whole
    assert "nobody shall see" not in whole
    assert browser.complaints == []


async def test_the_page_shows_an_outage_with_its_remedy_until_its_end(scene: Scene, browser: Browser) -> None:
    page = await browser.open(scene.url)
    await scene.lose_rapidpro()
    await scene.write("+254712345678")
    await shows(page, "#headline", "Degraded")
    await shows(page, "h1", "RapidPro does not answer since ")
    await shows(page, "#headline", "the request is repeated")
    await shows(page, "#dependencies", "does not answer")
    await shows(page, ".flow-wide", "no answer")
    await scene.restore_rapidpro()
    await shows(page, "h1", "All flows.")
    await scene.couchdb.kill()
    await shows(page, "h1", "CouchDB does not answer")
    await scene.receive("41", "+254712345222")
    await shows(page, "#events", "spooled")
    await shows(page, "#headline", "1 incoming message in the spool.")
    await scene.couchdb.start()
    await shows(page, "h1", "All flows.")
    scene.rapidpro.fail(Fault(on="any", do=REFUSED, times=None))
    await scene.write("+254712345679")
    await shows(page, "#headline", "Broken")
    await shows(page, "h1", "RapidPro refuses access since")
    await shows(page, "#spoken", "Broken: RapidPro refuses access")
    assert "refuses access" in await page.title()
    assert browser.complaints == []


async def test_a_daemon_that_hangs_or_ends_is_seen_and_so_is_its_return(scene: Scene, browser: Browser) -> None:
    page = await browser.open(scene.url)
    await shows(page, "#connection", "Live")
    scene.daemon.signal(signal.SIGSTOP)
    await shows(page, "#connection", "Disconnected")
    assert (await page.title()).startswith("Disconnected")
    scene.daemon.signal(signal.SIGCONT)
    await shows(page, "#connection", "Live")
    assert await scene.daemon.stop() == 0
    await shows(page, "#connection", "Disconnected")
    await scene.daemon.start()
    await shows(page, "#connection", "Live")
    assert not any("policy" in complaint.lower() for complaint in browser.complaints)


async def test_without_a_script_it_loads_itself_again(scene: Scene, browser: Browser) -> None:
    page = await browser.open(scene.url, java_script_enabled=False)
    await shows(page, "h1", "All flows.")
    await expect(page.locator("header noscript")).to_be_visible()
    doc = await scene.write("+254712345678")
    await shows(page, "#events", doc)
    assert browser.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_and_a_keyboard_are_enough(scene: Scene, browser: Browser, scheme: str) -> None:
    await scene.write("+254712345678", uuid="m" * 5000, doc_id="d" * 500)
    options = {"viewport": {"width": 320, "height": 640}, "color_scheme": scheme}
    page = await browser.open(scene.url, **options)
    await shows(page, "#events", "ddddd")
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "q"
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await page.keyboard.type("d" * 500)
    await page.keyboard.press("Enter")
    await shows(page, "#found", "…678")
    await page.locator("#q").fill("nobody")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await shows(page, "#found", "Nothing about it")
    assert browser.complaints == []
