"""The page in a real browser: Debian's `chromium`, or the one of `playwright install chromium`."""

# ruff: noqa: E402  what the server needs is installed with an extra

import json
import re
import shutil
import time

import pytest


for package in ("fastapi", "limits", "uvicorn"):
    pytest.importorskip(package)
pytest.importorskip("playwright", reason="tests in a browser need `pip install playwright`, and Chromium")

from playwright.sync_api import Error, expect, sync_playwright
from story_server import PROMPT, instructed, running

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
            pytest.skip(f"tests in a browser need Chromium, such as Debian's package: {error}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tiny_run):
    with running(tiny_run, slow=0.005) as client:
        yield client


@pytest.fixture
def visit(browser):
    """A function that opens a server's page and waits for the model; every browser error fails the test."""
    contexts, complaints = [], []

    def visit(client, size="desktop", scheme="dark", wait=True, address="", **options):
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
        page.goto(client.url + address)
        if wait:
            expect(page.locator("#write")).to_be_enabled(timeout=20_000)
        return page

    visit.complaints = complaints
    yield visit
    for context in contexts:
        context.close()
    assert not complaints


def story(page):
    """The text of the story after it is complete."""
    expect(page.locator("#story")).to_have_attribute("aria-busy", "false", timeout=20_000)
    return page.locator("#story").text_content()


def test_a_story_appears_while_it_is_generated(server, visit):
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
    page.click("#again")  # another seed, which replaces the one in its field
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
        assert re.fullmatch(r"Stopped\.( · seed \d+)?", page.inner_text("#status"))
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
    plain, again = sent(), sent()
    assert plain.pop("seed") != again.pop("seed")
    assert plain == {"prompt": PROMPT, "max_tokens": 50, "post_process": False, "temperature": 0.8}
    page.select_option("#preset", "plain")
    assert page.input_value("#temperature") == "0.6"
    page.locator("#temperature").fill("1.3")
    page.fill("#seed", "7")
    page.check("#post-process")
    page.get_by_role("button", name="A bear", exact=True).click()
    assert sent() == {
        "prompt": "Deep in the forest, an old bear", "max_tokens": 50, "post_process": True, "preset": "plain",
        "temperature": 1.3, "seed": 7,
    }  # fmt: skip
    page.select_option("#preset", "greedy")
    expect(page.locator("#temperature")).to_be_disabled()
    assert "temperature" not in sent()
    page.keyboard.press("Escape")
    page.locator("#length").fill("130")  # the end of the slider
    expect(page.locator("#length-value")).to_have_text("until the context is full")
    assert "max_tokens" not in sent()


def test_post_processing_and_copying(server, visit):
    page = visit(server, permissions=["clipboard-read", "clipboard-write"])
    page.fill("#prompt", "once there  was")
    page.fill("#seed", "4")
    page.check("#post-process")
    page.locator("#length").fill("50")
    page.click("#write")
    text = story(page)
    options = {"seed": 4, "max_tokens": 50, "temperature": 0.8, "post_process": True}
    assert text == server.generate("once there  was", **options).story()[1]["text"].rstrip()
    assert text.startswith("Once there was")
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


def test_the_content_security_policy(server, visit, tiny_run):
    """The Content-Security-Policy blocks other hosts and other scripts."""
    page = visit(server)
    page.evaluate(
        "() => { window.violations = []; addEventListener('securitypolicyviolation',"
        " (event) => window.violations.push(event.effectiveDirective)); }"
    )
    assert page.evaluate("() => fetch('/health').then((answer) => answer.status)") == 200
    with running(tiny_run) as other:
        assert page.evaluate("(url) => fetch(url).then(() => 'let through', () => 'stopped')", other.url) == "stopped"
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
def test_every_size_and_both_themes_are_readable(size, scheme, server, visit):
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
        assert all(button.bounding_box()["height"] >= 44 for button in page.locator("button:visible").all())
        page.evaluate("() => scrollTo(0, 0)")
        page.click("#again")
        story(page)
        assert page.locator("#story").bounding_box()["y"] < SIZES[size][1]


def test_errors_are_shown(tiny_run, visit):
    with running(tiny_run, rate_limit="3/minute") as client:
        page = visit(client)
        page.fill("#prompt", PROMPT + " a dog" * 5)
        page.locator("#length").fill("120")  # above the remaining context length, so it is requested again with less
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
    """The Stop button stays visible."""
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


def requests_of(page):
    """The bodies of requests for stories, as they are sent from now on."""
    bodies = []
    page.on("request", lambda request: request.url.endswith("/generate") and bodies.append(request.post_data_json))
    return bodies


def test_a_story_is_as_long_as_the_context_allows(server, visit):
    page = visit(server)
    page.fill("#seed", "4")
    page.click("#write")
    assert story(page) == PROMPT + server.generate(seed=4, temperature=0.8).story()[0].rstrip()
    expect(page.locator("#status")).to_contain_text("the context of 128 tokens is full: the story cannot be continued")
    expect(page.locator("#continue")).to_be_hidden()


def test_a_story_continues_where_it_was_cut_off(server, visit):
    page = visit(server)
    bodies = requests_of(page)
    page.fill("#seed", "4")
    page.locator("#length").fill("50")
    page.click("#write")
    before = story(page)
    expect(page.locator("#status")).to_contain_text("maximum length reached")
    page.fill("#prompt", "Another beginning")  # applies to the next story
    page.click("#continue")
    after = story(page)
    assert after.startswith(before) and len(after) > len(before) + 50
    assert (bodies[1]["prompt"].rstrip(), bodies[1]["seed"], bodies[1]["max_tokens"]) == (before, 4, 50)
    page.locator("#length").fill("130")
    page.click("#continue")
    full = story(page)
    assert full.startswith(after) and full == (bodies[2]["prompt"] + server.generate(**bodies[2]).story()[0]).rstrip()
    expect(page.locator("#continue")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("is full")
    expect(page.locator("#kept-stories li")).to_have_count(1)  # it is one story


def test_a_stopped_story_continues(server, visit):
    page = visit(server)
    page.click("#write")
    expect(page.locator("#story")).to_have_text(re.compile(f"{PROMPT}.+", re.DOTALL))
    page.keyboard.press("Escape")
    before = story(page)
    page.click("#continue")
    expect(page.locator("#again")).to_be_focused()
    assert story(page).startswith(before) and "is full" in page.inner_text("#status")


def test_a_story_that_ended_does_not_continue(tiny_run, visit):
    with running(tiny_run) as client:
        ended = next(seed for seed in range(30) if client.generate(seed=seed).story()[1]["finish_reason"] == "stop")
        page = visit(client, address=f"#prompt={PROMPT}&temperature=0.8&seed={ended}")
        expect(page.locator("#story")).to_have_class("ended")
        expect(page.locator("#continue")).to_be_hidden()


def test_a_full_context_is_an_error_of_one_line(server, visit):
    """For a stopped story, the page has no token count, so only the server detects it."""
    page = visit(server, address="#prompt=Once&seed=1&text=Once" + "+upon+a+time" * 50)
    expect(page.locator("#status")).to_have_text("The context of 128 tokens is full: the story cannot be continued.")
    visit.complaints.clear()  # the browser reports the error response


def test_an_address_gives_the_same_story(server, visit):
    page = visit(server)
    page.fill("#prompt", 'The "cat" & the dog: 100% + #1\n\nOnce')
    page.select_option("#preset", "creative")
    page.locator("#temperature").fill("1.2")
    page.locator("#length").fill("60")
    page.click("#write")
    first, address = story(page), page.url
    seed = re.search(r"seed=(\d+)", address)[1]
    assert f"seed {seed}" in page.inner_text("#status") and page.input_value("#seed") == ""
    page.reload()
    expect(page.locator("#status")).to_contain_text(f"seed {seed}")
    assert story(page) == first and page.url == address and page.input_value("#seed") == seed
    other = visit(server, "phone", address=address.removeprefix(server.url).removeprefix("/"))
    expect(other.locator("#status")).to_contain_text(f"seed {seed}")
    assert story(other) == first
    assert (other.input_value("#preset"), other.input_value("#length")) == ("creative", "60")
    page.fill("#seed", "5")
    page.click("#write")
    assert story(page) != first
    page.go_back()
    expect(page.locator("#status")).to_contain_text(f"seed {seed}")
    assert story(page) == first and page.input_value("#seed") == seed
    page.goto(server.url)
    expect(page.locator("#write")).to_be_enabled()
    assert page.locator("#story").text_content() == ""


def test_an_address_of_another_model_says_so(server, visit):
    page = visit(server, address="#prompt=Once&seed=1&max_tokens=50&model=huge")
    expect(page.locator("#status")).to_contain_text("the link was created with the model huge: the story may differ")


@pytest.mark.parametrize(
    ("name", "value"), [("preset", "wild"), ("seed", "99999999999"), ("seed", "x"), ("temperature", "9")]
)
def test_an_invalid_address_is_an_error_of_one_line(name, value, server, visit):
    page = visit(server, address=f"#prompt=Once&{name}={value}")
    expect(page.locator("#status")).to_have_text(f"The value of {name} in the address is not valid.")
    assert page.locator("#story").text_content() == ""


def test_stories_are_kept_in_the_browser(server, visit):
    page = visit(server)
    page.locator("#length").fill("50")
    stories = {}
    for seed in ("1", "2", "3"):
        page.fill("#seed", seed)
        page.click("#write")
        stories[seed] = story(page)
    expect(page.locator("#kept-title")).to_have_text("Last stories (3)")
    page.reload()  # which generates the last one again and does not add a story
    expect(page.locator("#status")).to_contain_text("seed 3")
    kept = page.locator("#kept-stories li")
    expect(kept).to_have_count(3)
    bodies = requests_of(page)
    kept.nth(2).get_by_role("button").first.click()
    expect(page.locator("#status")).to_contain_text("seed 1")
    assert story(page) == stories["1"] and "seed=1" in page.url and not bodies
    page.click("#continue")
    assert story(page).startswith(stories["1"])
    expect(kept).to_have_count(3)
    page.get_by_role("button", name="Delete: ").nth(1).click()
    expect(kept).to_have_count(2)
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("^Delete: "))
    page.click("#delete-all")
    expect(page.locator("#kept")).to_be_hidden()
    assert page.evaluate("() => localStorage.getItem('tinystories')") == "[]"


def test_a_browser_without_storage(server, visit):
    page = visit(server)
    page.evaluate("() => { Storage.prototype.getItem = Storage.prototype.setItem = () => { throw new Error(); }; }")
    page.locator("#length").fill("50")
    page.click("#write")
    assert len(story(page)) > len(PROMPT)
    expect(page.locator("#kept")).to_be_hidden()


def test_another_word_can_be_chosen(server, visit):
    page = visit(server)
    bodies = requests_of(page)
    page.fill("#seed", "6")
    page.locator("#length").fill("50")
    page.click("#write")
    before = story(page)
    word = page.locator(".word").nth(4)
    prefix = before[: int(word.get_attribute("data-start"))]
    assert prefix.startswith(PROMPT)
    own = re.match(r"\s*([\w'’-]+|[^\w\s]+)", before[len(prefix) :])[0]
    expected = server.ask("/alternatives", {"prompt": prefix, "word": own, "n": 8}).json()
    word.click()
    buttons = page.locator("#words button")
    expect(buttons.first).to_be_focused()
    texts = [one["text"] for one in expected["alternatives"] if one["text"]]
    assert [text.lstrip("…") for text in page.locator("#words button .word").all_text_contents()] == [
        text.strip() for text in texts
    ]
    assert "%" in page.inner_text("#instead") and own.strip() in page.inner_text("#instead")
    choice = next(place for place, text in enumerate(texts) if text != own)
    buttons.nth(choice).click()
    expect(page.locator("#alternatives")).to_be_hidden()
    after = story(page)
    assert after.startswith(prefix + texts[choice])
    assert bodies[1]["prompt"] == prefix + texts[choice] and bodies[1]["seed"] == 6
    expect(page.locator("#kept-stories li")).to_have_count(2)  # both can be read again
    address = page.url
    page.reload()
    expect(page.locator("#status")).to_contain_text("seed 6")
    assert story(page) == after and page.url == address and page.input_value("#prompt") == PROMPT


def test_another_word_can_be_chosen_with_the_keyboard(server, visit):
    page = visit(server)
    page.locator("#length").fill("50")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    before = story(page)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.matches('.word')"):
            break
    words = page.locator(".word")
    expect(words.first).to_be_focused()
    assert words.first.get_attribute("role") == "button"
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        expect(words.nth(place)).to_be_focused()
    page.keyboard.press("Enter")
    buttons = page.locator("#words button")
    expect(buttons.first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#alternatives")).to_be_hidden()
    expect(words.nth(1)).to_be_focused()
    page.keyboard.press("Space")
    expect(buttons.first).to_be_focused()
    page.keyboard.press("Tab")
    expect(buttons.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#again")).to_be_focused()
    start = int(words.nth(1).get_attribute("data-start"))
    assert story(page)[:start] == before[:start] and "text=" in page.url


def test_only_complete_words_are_shown(tiny_run, visit):
    with running(tiny_run, slow=0.03) as client:
        page = visit(client)
        page.locator("#length").fill("60")
        page.click("#write")
        texts = set()
        while page.get_attribute("#story", "aria-busy") == "true":
            texts.add(page.locator("#story").text_content())
        whole = story(page)
        assert len(texts) > 10
        for text in texts:
            assert whole.startswith(text) and not re.match(r"\w\w", whole[len(text) - 1 :][:2]), text


def test_the_alternatives_are_those_of_the_last_word(server, visit):
    """Also if the response for another word arrives later."""
    page = visit(server, address=f"#prompt={PROMPT}&seed=6&max_tokens=50")
    whole = story(page)
    words = page.locator(".word")
    held = []
    page.route("**/alternatives", lambda route: held.append(route) if not held else route.continue_())
    words.nth(3).click()
    words.nth(6).click()
    expect(page.locator("#words button").first).to_be_visible()
    rows = page.locator("#words").inner_text()
    with page.expect_response("**/alternatives"):
        held[0].continue_()
    page.wait_for_timeout(200)
    assert page.locator("#words").inner_text() == rows
    expect(page.locator(".word.open")).to_have_count(1)
    assert f"“{words.nth(6).text_content()}”" in page.inner_text("#instead")
    page.keyboard.press("Escape")
    expect(page.locator(".word.open")).to_have_count(0)
    assert story(page) == whole


def test_the_fields_of_an_instructed_model(tiny_run, visit, tmp_path):
    with running(instructed(tiny_run, tmp_path / "instructed"), slow=0.005) as client:
        page = visit(client)
        bodies = requests_of(page)
        page.fill("#prompt", "")
        page.get_by_label("Words", exact=True).fill("dragon, key")
        page.click("#write")
        first = story(page)
        assert first and (bodies[-1]["prompt"], bodies[-1]["fields"]) == ("", {"words": "dragon, key"})
        with page.expect_request("**/alternatives") as request:
            page.locator(".word").nth(2).click()
        assert request.value.post_data_json["fields"] == {"words": "dragon, key"}
        expect(page.locator("#words button").first).to_be_visible()
        address = page.url.removeprefix(client.url)
        page = visit(client, address=address)
        assert story(page) == first and page.get_by_label("Words", exact=True).input_value() == "dragon, key"
        page = visit(client, address="/#fields=%7B&seed=1")
        expect(page.locator("#status")).to_have_text("The value of fields in the address is not valid.")


@pytest.mark.parametrize("size", ["phone", "small phone"])
def test_alternatives_fit_a_phone(size, server, visit):
    page = visit(server, size)
    page.click("#write")
    story(page)
    page.locator(".word").nth(8).click()
    expect(page.locator("#words button").first).to_be_visible()
    panel, word = page.locator("#alternatives").bounding_box(), page.locator(".word.open").bounding_box()
    assert panel["x"] >= 0 and panel["x"] + panel["width"] <= SIZES[size][0]
    assert panel["y"] + panel["height"] <= SIZES[size][1]
    assert 0 <= word["y"] and word["y"] + word["height"] <= panel["y"]
    assert page.evaluate("() => document.documentElement.scrollWidth") == SIZES[size][0]
    assert not [pair for pair in page.evaluate(CONTRAST) if pair[1] < 4.5]


def test_errors_of_alternatives_are_one_line(tiny_run, visit):
    with running(tiny_run, rate_limit="1/minute") as client:
        page = visit(client)
        page.locator("#length").fill("50")
        page.click("#write")
        story(page)
        page.locator(".word").first.click()
        expect(page.locator("#instead")).to_contain_text("Too many requests")
        page.keyboard.press("Escape")
    page.locator(".word").first.click()
    expect(page.locator("#instead")).to_have_text("The server cannot be reached.")
    visit.complaints.clear()  # the browser reports each error response
