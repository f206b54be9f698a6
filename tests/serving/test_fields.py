"""The fields of an instructed model in `/generate`, `/alternatives` and `/health`."""

# ruff: noqa: E402  what the server needs is installed with an extra

import pytest


for package in ("fastapi", "limits", "uvicorn"):
    pytest.importorskip(package)

from story_server import instructed, running

from tinystories.generation.generate import generate_story
from tinystories.runs.loading import load_model


FIELDS = {"words": "dragon, key", "summary": ""}


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    return instructed(tiny_run, tmp_path_factory.mktemp("runs") / "instructed")


@pytest.fixture(scope="module")
def server(folder):
    with running(folder) as client:
        yield client


def test_a_story_follows_the_fields(server, folder):
    assert server.until(lambda health: health["status"] == "ready")["fields"] == ["words", "summary"]
    for prompt in ("", "One day"):
        story, done = server.generate(prompt, fields=FIELDS, preset="greedy", max_tokens=20).story()
        whole = generate_story(*load_model(str(folder)), prompt, fields=FIELDS, preset="greedy", max_new_tokens=20)
        assert prompt + story == whole and done["completion_tokens"] > 0
        without, _ = server.generate("One day", preset="greedy", max_tokens=20).story()
        assert without != story


def test_alternatives_follow_the_fields(server):
    found = [
        server.ask("/alternatives", {"prompt": "", "word": "One", "fields": fields}).json()
        for fields in (FIELDS, {"summary": "The key is lost."})
    ]
    assert all(answer["alternatives"] for answer in found) and found[0] != found[1]


@pytest.mark.parametrize("path, body", [("/generate", {}), ("/alternatives", {"word": "One"})])
def test_bad_fields_are_refused(path, body, server, tiny_run):
    nothing = server.ask(path, {"prompt": "", **body})
    assert nothing.status == 422 and "give a field: words, summary" in nothing.json()["error"]["message"]
    other = server.ask(path, {"prompt": "One", "fields": {"colour": "red"}, **body})
    assert other.status == 422 and "no field colour" in other.json()["error"]["message"]


def test_a_model_without_a_template(tiny_run):
    with running(tiny_run) as client:
        assert client.until(lambda health: health["status"] == "ready")["fields"] == []
        empty = client.generate("")
        assert empty.status == 422 and "The prompt is empty" in empty.json()["error"]["message"]
        refused = client.generate("One", fields=FIELDS)
        assert refused.status == 422 and "takes no fields" in refused.json()["error"]["message"]
