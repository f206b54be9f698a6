"""The page in a real browser: Debian's `chromium`, or the one of `playwright install chromium`."""

# ruff: noqa: E402  what the server needs is installed with an extra

import json
import re
import shutil
import time

import pytest


for package in ("fastapi", "limits", "uvicorn", "playwright"):
    pytest.importorskip(package)

from playwright.sync_api import Error, expect, sync_playwright
from story_server import PROMPT, running

from tinystories.serving.serve import load


SIZES = {"desktop": (1280, 860), "phone": (390, 844), "small phone": (320, 568)}
CONTRAST = """() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => parts(color).slice(0, 3)
        .map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return parts(color)[3] === 0 && node.parentElement ? ground(node.parentElement) : color;
    };
    const nodes = document.querySelectorAll("h1, p, label, legend, summary, output, button, textarea, select, #story");
    return [...nodes].filter((node) => node.offsetParent && !node.disabled && node.textContent.trim()).map((node) => {
        const [a, b] = [luminance(getComputedStyle(node).color), luminance(ground(node))].sort((x, y) => y - x);
        return [node.id || node.textContent.trim().slice(0, 20), (a + 0.05) / (b + 0.05)];
    });
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no browser: {error}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tiny_run):
    with running(tiny_run, slow=0.005) as client:
        yield client


@pytest.fixture
def visit(browser):
    """A function that opens a server's page, ready to write; every complaint of the browser fails the test."""
    contexts, complaints = [], []

    def visit(client, size="desktop", scheme="dark", wait=True, **options):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size != "desktop", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((client.url, "data:")) or complaints.append(request.url),
        )
        page.goto(client.url)
        if wait:
            expect(page.locator("#write")).to_be_enabled(timeout=20_000)
        return page

    visit.complaints = complaints
    yield visit
    for context in contexts:
        context.close()
    assert not complaints


def story(page):
    """The story's text, once it is written."""
    expect(page.locator("#story")).to_have_attribute("aria-busy", "false", timeout=20_000)
    return page.locator("#story").text_content()


def test_a_story_appears_as_it_is_written(server, visit):
    page = visit(server)
    assert "tiny" in page.inner_text("#model") and "120,640" in page.inner_text("#model")
    page.fill("#prompt", PROMPT)
    page.fill("#seed", "12")
    page.locator("#length").fill("100")
    page.click("#write")
    expect(page.locator("#story")).to_have_attribute("aria-busy", "true")
    lengths = []
    while page.get_attribute("#story", "aria-busy") == "true":
        lengths.append(len(page.locator("#story").text_content()))
    assert len(set(lengths)) > 5 and lengths == sorted(lengths)
    text, done = server.generate(seed=12, max_tokens=100, temperature=0.8).story()
    assert story(page) == PROMPT + text
    status = page.inner_text("#status")
    assert "100 tokens" in status and "seed 12" in status and "maximum length" in status
    page.click("#again")  # another seed, in its field since there was one
    assert story(page) != PROMPT + text
    assert page.input_value("#seed") != "12"


def test_stop(server, visit):
    page = visit(server)
    page.locator("#length").fill("100")
    for stop in (
        lambda: page.click("#write"),
        lambda: page.keyboard.press("Escape"),
        lambda: page.locator("#foot").get_by_role("button", name="Stop").click(),
    ):
        page.click("#write")
        expect(page.locator("#write")).to_have_text("Stop")
        expect(page.locator("#story")).to_have_text(re.compile(f"{PROMPT}.+", re.DOTALL))
        stop()
        expect(page.locator("#write")).to_have_text("Generate a story")
        assert page.inner_text("#status") == "Stopped."
        server.until(lambda report: report["running"] == 0, seconds=0.5)
        assert story(page).startswith(PROMPT)
    expect(page.locator("#copy")).to_be_enabled()


def test_settings_are_sent(server, visit):
    page = visit(server)

    def sent():
        with page.expect_request("**/generate") as request:
            page.click("#write")
        story(page)
        return json.loads(request.value.post_data)

    page.locator("#length").fill("50")
    plain = sent()
    assert plain == {"prompt": PROMPT, "max_tokens": 50, "post_process": False, "temperature": 0.8}
    page.select_option("#preset", "plain")
    assert page.input_value("#temperature") == "0.6"
    page.locator("#temperature").fill("1.3")
    page.fill("#seed", "7")
    page.check("#post-process")
    page.get_by_role("button", name="A bear").click()
    assert sent() == {
        "prompt": "Deep in the forest, an old bear", "max_tokens": 50, "post_process": True, "preset": "plain",
        "temperature": 1.3, "seed": 7,
    }  # fmt: skip
    page.select_option("#preset", "greedy")
    expect(page.locator("#temperature")).to_be_disabled()
    assert "temperature" not in sent()


def test_post_processing_and_copying(server, visit):
    page = visit(server, permissions=["clipboard-read", "clipboard-write"])
    page.fill("#prompt", "once there  was")
    page.check("#post-process")
    page.locator("#length").fill("50")
    page.click("#write")
    text = story(page)
    assert text.startswith("Once there was ")
    page.click("#copy")
    expect(page.locator("#status")).to_have_text("Copied.")
    assert page.evaluate("() => navigator.clipboard.readText()") == text


def test_by_keyboard_alone(server, visit):
    page = visit(server)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            "() => { const node = document.activeElement; const style = getComputedStyle(node);"
            " return [node.id || node.textContent, style.outlineStyle, parseFloat(style.outlineWidth)]; }"
        )
        if focus[0] in reached or focus[0].strip().startswith("Tiny stories"):
            break
        reached.append(focus[0])
        assert focus[1] == "solid" and focus[2] >= 2, focus
    assert set(reached) >= {"prompt", "A bear", "write", "preset", "temperature", "length", "seed", "post-process"}
    page.focus("#length")
    page.keyboard.press("Home")
    assert page.input_value("#length") == "50"
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("The cat")
    page.keyboard.press("Control+Enter")
    assert story(page).startswith("The cat")
    page.focus("#again")
    page.keyboard.press("Enter")
    expect(page.locator("#write")).to_be_focused()
    story(page)
    assert page.locator("#story").get_attribute("aria-live") == "polite"


def test_the_page_can_do_nothing_else(server, visit, tiny_run):
    """The policy at work: no foreign host, no script that is not the page's own."""
    page = visit(server)
    page.evaluate(
        "() => { window.violations = []; addEventListener('securitypolicyviolation',"
        " (event) => window.violations.push(event.effectiveDirective)); }"
    )
    assert page.evaluate("() => fetch('/health').then((answer) => answer.status)") == 200
    with running(tiny_run) as other:
        assert page.evaluate("(url) => fetch(url).then(() => 'let through', () => 'stopped')", other.url) == "Stopped."
        page.evaluate(
            """(url) => {
                const script = document.createElement("script");
                script.textContent = "window.stolen = true";
                document.body.append(script);
                const image = new Image();
                image.src = url;
                document.body.append(image);
                document.body.insertAdjacentHTML("beforeend", "<p style='color: red' onclick='stolen = true'>");
            }""",
            other.url,
        )
        page.wait_for_timeout(200)
    assert page.evaluate("() => window.stolen") is None
    violations = set(page.evaluate("() => window.violations"))
    assert {"connect-src", "script-src-elem", "img-src", "style-src-attr"} <= violations
    assert visit.complaints  # the browser reports each violation
    visit.complaints.clear()


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_and_both_themes_can_be_read(size, scheme, server, visit):
    page = visit(server, size, scheme)
    if size != "desktop":
        page.click("summary")
    page.locator("#length").fill("50")
    page.click("#write")
    story(page)
    page.wait_for_timeout(400)  # after the animation
    assert page.evaluate("() => document.documentElement.scrollWidth") == SIZES[size][0]
    too_weak = [pair for pair in page.evaluate(CONTRAST) if pair[1] < 4.5]
    assert not too_weak
    ground = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
    if size != "desktop":
        assert all(box["height"] >= 44 for box in (button.bounding_box() for button in page.locator("button").all()))
        page.evaluate("() => scrollTo(0, 0)")
        page.click("#again")
        story(page)
        assert page.locator("#story").bounding_box()["y"] < SIZES[size][1]


def test_errors_are_shown(tiny_run, visit):
    with running(tiny_run, rate_limit="3/minute") as client:
        page = visit(client)
        page.locator("#length").fill("500")  # above the remaining context length, so it is requested again with less
        page.click("#write")
        before = story(page)
        assert "tokens" in page.inner_text("#status")
        page.fill("#prompt", "zq" * 300)
        page.click("#write")
        expect(page.locator("#status")).to_have_class("error")
        assert "128" in page.inner_text("#status") and "shorten" in page.inner_text("#status")
        page.click("#write")
        expect(page.locator("#status")).to_have_text(re.compile("Too many requests.*Try again in \\d+ seconds"))
    page.click("#write")
    expect(page.locator("#status")).to_have_text("The server cannot be reached.")
    assert story(page) == before
    visit.complaints.clear()  # the browser reports each error response


def test_a_lost_connection(tiny_run, visit):
    with running(tiny_run, slow=0.03) as client:
        page = visit(client)
        page.locator("#length").fill("100")
        page.click("#write")
        expect(page.locator("#story")).to_have_text(re.compile(f"{PROMPT}.+", re.DOTALL))
        for connection in list(client.server.server_state.connections):
            connection.loop.call_soon_threadsafe(connection.transport.abort)
        expect(page.locator("#status")).to_have_text("The connection to the server was lost.")
        assert story(page).startswith(PROMPT)
        expect(page.locator("#copy")).to_be_enabled()
        visit.complaints.clear()


def test_the_story_is_followed_on_a_phone(server, visit):
    """The button that stops it stays in sight."""
    page = visit(server, "small phone")
    page.locator("#prompt").fill(PROMPT + " a dog" * 20)
    page.click("summary")
    page.locator("#length").fill("60")
    page.click("#write")
    expect(page.locator("#story")).to_have_text(re.compile(".{200}", re.DOTALL))
    for _ in range(2):  # while it is written, and when it is
        box = page.locator("#again").bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= SIZES["small phone"][1] and box["height"] < 50
        story(page)


def test_the_page_waits_for_the_model(tiny_run, visit):
    began = time.monotonic()

    def late(settings):
        time.sleep(max(0, began + 2 - time.monotonic()))
        return load(settings)

    with running(tiny_run, wait=False, loader=late) as client:
        page = visit(client, wait=False)
        expect(page.locator("#write")).to_be_disabled()
        assert "Loading" in page.inner_text("#model")
        expect(page.locator("#write")).to_be_enabled(timeout=10_000)
        visit.complaints.clear()  # 503, as long as it loads
