"""The parts of the page, and its functions in Node; `test_server_page.py` tests it in a browser."""

# ruff: noqa: E402  what the server needs is installed with an extra

import json
import re
import shutil
import subprocess
from decimal import Decimal
from html.parser import HTMLParser

import pytest


for package in ("fastapi", "limits", "uvicorn"):
    pytest.importorskip(package)

from helpers import ROOT

from tinystories.generation.presets import GREEDY, PRESETS
from tinystories.serving.alternatives import WORD
from tinystories.serving.app import _page


FOLDER = ROOT / "tinystories" / "serving" / "page"
SCRIPTS = [FOLDER / "story.js", FOLDER / "page.js"]
STORY = (
    'Once upon a time there was a girl named Lily. "Look at me, I\'m flying!" shouted Léo\u2014her well-known cat.\n\n'
    "One day \u201cit\u2019s 3:05\u201d ... a _b_ na\u0303ive 日本 \U0001f98a  end"
)


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.all = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def elements():
    return Elements(_page()[0]).all


def test_the_page_loads_nothing_else(elements):
    page, policy = _page()
    assert "{{" not in page and policy.count("sha256-") == 2 and "unsafe" not in policy
    for tag, attributes in elements:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert name not in ("src", "style") and not name.startswith("on"), (tag, name)
            assert name != "href" or value.startswith("data:")
    css, script = (
        (FOLDER / "page.css").read_text(encoding="utf-8"),
        "".join(path.read_text(encoding="utf-8") for path in SCRIPTS),
    )
    assert "url(" not in css and "@import" not in css and "</" not in css
    assert "</script" not in script and "innerHTML" not in script and "://" not in script
    presets = re.search(r'<script type="application/json" id="presets">(.*?)</script>', page)[1]
    assert json.loads(presets) == {**PRESETS, GREEDY: {}}


def test_elements_named_in_script_and_labels_exist(elements):
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'\$\("([\w-]+)"\)', SCRIPTS[1].read_text(encoding="utf-8")))
    assert named and named <= set(ids)
    styled = set(re.findall(r"#([a-z][\w-]*)(?=[^;{}]*\{)", (FOLDER / "page.css").read_text(encoding="utf-8")))
    assert styled <= set(ids)
    labelled = {attributes.get("for") for tag, attributes in elements if tag == "label"}
    for tag, attributes in elements:
        if tag in ("input", "textarea", "select"):
            assert attributes["id"] in labelled
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) in (None, *ids)


def test_the_temperature_slider_can_show_every_preset(elements):
    slider = next(attributes for _, attributes in elements if attributes.get("id") == "temperature")
    least, most, step = (Decimal(slider[name]) for name in ("min", "max", "step"))
    temperatures = [*(preset["temperature"] for preset in PRESETS.values()), 0.65, 0.75]
    for temperature in map(Decimal, map(str, temperatures)):
        assert least <= temperature <= most and (temperature - least) % step == 0, temperature


@pytest.fixture(scope="module")
def evaluate():
    """A function that evaluates an expression with the functions of `story.js` in Node."""
    node = shutil.which("node")
    if not node:
        pytest.skip("the functions of the page are tested in Node.js, which is not installed")

    def evaluate(expression, **values):
        code = (
            f"{SCRIPTS[0].read_text(encoding='utf-8')}\nconst v = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
        )
        code += f"process.stdout.write(JSON.stringify({expression}));"
        result = subprocess.run(
            [node, "-e", code], input=json.dumps(values), capture_output=True, text=True, encoding="utf-8"
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return evaluate


def test_the_script_can_be_parsed(evaluate, tmp_path):
    script = tmp_path / "page.js"
    script.write_text("".join(path.read_text(encoding="utf-8") for path in SCRIPTS), encoding="utf-8")
    subprocess.run([shutil.which("node"), "--check", str(script)], check=True)


def test_words_are_those_of_the_server(evaluate):
    words = evaluate("splitWords(v.text)", text=STORY)
    assert "".join(word["space"] + word["word"] for word in words) == STORY
    utf16 = STORY.encode("utf-16-le")
    assert [utf16[: 2 * word["start"]].decode("utf-16-le") for word in words] == [
        STORY[: match.start()] for match in WORD.finditer(STORY)
    ]


def test_an_address_is_read_as_it_was_written(evaluate):
    request = {
        "prompt": 'The "cat" & the dog: 100% + #1\n\né 🦊', "text": "The cat\nsat", "preset": "plain",
        "temperature": "0.6", "max_tokens": "100", "seed": "0", "post_process": "true", "model": "a/b c",
    }  # fmt: skip
    address = evaluate("toAddress(v.request)", request=request)
    assert re.fullmatch(r"#[\w=&+%*.-]+", address)
    assert evaluate("fromAddress(v.address)", address=address) == request
    assert evaluate("toBody(v.request)", request=request) == {
        "prompt": "The cat\nsat", "preset": "plain", "temperature": 0.6, "max_tokens": 100, "seed": 0,
        "post_process": True,
    }  # fmt: skip
    short = {"prompt": "Once", "seed": "7"}
    assert evaluate("toAddress(v.request)", request={**short, "preset": "", "text": None}) == "#prompt=Once&seed=7"
    assert evaluate("fromAddress(v.address)", address="#prompt=Once&seed=7&other=1&preset=") == short
    assert evaluate("toBody(v.request)", request={**short, "preset": "", "post_process": ""}) == {
        "prompt": "Once",
        "seed": 7,
        "post_process": False,
    }
    asked = {"prompt": "", "fields": '{"words":"dragon, key"}', "seed": "7"}
    assert evaluate("fromAddress(toAddress(v.request))", request=asked) == asked
    assert evaluate("toBody(v.request)", request=asked)["fields"] == {"words": "dragon, key"}
    for damaged in ("{", "null", '{"words":1}'):
        assert evaluate("readFields(v.request)", request={"fields": damaged}) is None
    for nothing in ("", "#", "#seed=7", "#prompt="):
        assert evaluate("fromAddress(v.address)", address=nothing) is None


def test_twenty_stories_are_kept(evaluate):
    stories = [{"address": f"#{number}", "text": str(number)} for number in range(20)]

    def keep(address, continued=None):
        kept = evaluate("keepStory(v.s, {address: v.a, text: 'new'}, v.c)", s=stories, a=address, c=continued)
        assert kept[0] == {"address": address, "text": "new"}
        return [story["address"] for story in kept[1:]]

    assert keep("#new") == [f"#{number}" for number in range(19)]
    assert keep("#3") == [f"#{number}" for number in range(20) if number != 3]
    assert keep("#new", continued="#5") == [f"#{number}" for number in range(20) if number != 5]


def test_percentages(evaluate):
    given = [1, 0.5, 0.1, 0.0996, 0.0994, 0.01, 0.001, 0.0009, 0]
    assert evaluate("v.given.map(toPercent)", given=given) == [
        "100%", "50%", "10%", "10%", "9.9%", "1.0%", "0.1%", "<0.1%", "<0.1%"
    ]  # fmt: skip
