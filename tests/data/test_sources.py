import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from story_files import STORIES, jsonl, parquet, txt

import tinystories
from tinystories.data.sources import open as opening
from tinystories.data.sources.split_names import split_names
from tinystories.utils.errors import UserError


COMMIT = "a" * 40


# Files and folders


def test_links_to_folders_are_followed_once(write, texts, tmp_path, caplog):
    write("in/a/1.jsonl", b'{"text": "A"}')
    write("elsewhere/deep/2.jsonl", b'{"text": "B"}')
    write("elsewhere/.hidden/3.jsonl", b'{"text": "C"}')
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")  # a cycle
    (tmp_path / "in/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/same.jsonl").symlink_to(tmp_path / "in/a/1.jsonl")
    (tmp_path / "in/gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    (tmp_path / "in/gone").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path / "in") == ["A", "B"]
    for message in (
        "in/a/up: skipped, because it links to a folder that has been read already",
        "in/linked: skipped, because it links to a folder",
        "in/same.jsonl: skipped, because it is the same file as",
        f"in/gone.jsonl: skipped, because it is a broken link to {tmp_path}/nowhere.jsonl",
        f"in/gone: skipped, because it is a broken link to {tmp_path}/nowhere",
    ):
        assert message in caplog.text
    assert texts(tmp_path / "in/linked") == ["B"]
    with pytest.raises(UserError, match="gone is a broken link to"):
        texts(tmp_path / "in/gone")


def test_patterns_match_folders_and_follow_links(write, texts, tmp_path):
    write("in/a/1.jsonl", b'{"text": "A"}')
    write("elsewhere/2.jsonl", b'{"text": "B"}')
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    assert texts(tmp_path / "in/*") == texts(tmp_path / "in/**/*.jsonl") == texts(tmp_path / "in/**") == ["A", "B"]
    write("by/train/1.jsonl", b'{"text": "A"}')
    write("by/dev/1.jsonl", b'{"text": "B"}')
    assert texts(tmp_path / "by/*/*.jsonl", "validation") == ["B"]


def test_an_unreadable_folder_is_an_error(write, texts, tmp_path, monkeypatch):
    write("in/a.jsonl", b'{"text": "A"}')
    write("in/closed/b.jsonl", b'{"text": "B"}')
    scan = os.scandir

    def scandir(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="in/closed cannot be read: Permission denied"):
        texts(tmp_path / "in")


@pytest.mark.parametrize(
    "name, command",
    [
        ("a.docx", "pandoc .*a.docx -o a.txt"),
        ("a.epub", "pandoc .*a.epub -o a.txt"),
        ("a.mobi", "ebook-convert a.mobi a.txt"),
        ("a.pdf", "pdftotext a.pdf a.txt"),
        ("a.zip", "unzip"),
        ("a.tar.gz", "tar -xf a.tar.gz"),
    ],
)
def test_documents_are_refused_with_a_command_to_convert_them(name, command, write, texts, tmp_path, caplog):
    path = write(f"in/{name}", b"x")
    for source in path, tmp_path / "in":
        with pytest.raises(UserError, match=f"{name} cannot be read directly; convert it first: `{command}"):
            texts(source)
    write("in/b.jsonl", jsonl(STORIES))
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path / "in") == STORIES
    assert f"{name} cannot be read directly; convert it first" in caplog.text


def test_home_folder(write, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("tales/a.jsonl", jsonl(STORIES))
    assert texts("~/tales") == texts("~/tales/*.jsonl") == texts("~/tales/a.jsonl") == STORIES


SPLIT_NAMES = {
    "The dev.txt": None,
    "Test of courage.txt": None,
    "the-test-of-time.txt": None,
    "The_dev.txt": None,
    "test-of-courage.txt": None,
    "spelling-test.txt": None,
    "val-runs-home.txt": None,
    "A train ride.txt": None,
    "My dev set.txt": None,
    "contest.txt": None,
    "validity.txt": None,
    "train.txt": "train",
    "Validation.csv": "validation",
    "dev.jsonl.gz": "validation",
    "test (1).txt": "test",
    "validation-00000-of-00004.parquet": "validation",
    "test-00000-of-00001-0123abcd4567ef89.parquet": "test",
    "stories-validation.txt": "validation",
    "val_stories.json": "validation",
    "TinyStoriesV2-GPT4-valid.txt": "validation",
    "tales.dev.txt": "validation",
    "test-data.csv": "test",
}


@pytest.mark.parametrize("name", SPLIT_NAMES)
def test_splits_are_found_in_data_file_names_and_not_in_titles(name):
    assert split_names([Path("A tale.txt"), Path(name)])[1] == (SPLIT_NAMES[name] or "train")


def test_a_file_for_another_split_confirms_a_split_name():
    names = ["en-train.txt", "en-test.txt", "tom-test.txt"]
    assert split_names([Path(name) for name in names]) == ["train", "test", "train"]
    assert split_names([Path("tom.txt"), Path("tom-dev.txt")]) == ["train", "validation"]
    assert split_names([Path("train/a.txt"), Path("val/the test.txt")]) == ["train", "validation"]


def test_the_files_of_each_split_are_logged(write, load, tmp_path, caplog):
    for name in ("The dev.txt", "Test of courage.txt", "b.txt"):
        write(f"in/{name}", txt([*STORIES, ""]))
    with caplog.at_level(logging.INFO):
        load(tmp_path / "in", validation_fraction=0.1)
    assert "in: files used for train: Test of courage.txt, The dev.txt, b.txt" in caplog.text
    assert "in: 270 training stories, 10 validation stories held out from the training stories" in caplog.text
    write("in/stories-dev.txt", txt(["New one.", ""]))
    with caplog.at_level(logging.INFO):
        load(tmp_path / "in")
    assert "b.txt; validation: stories-dev.txt" in caplog.text
    assert "1 validation story from a separate split" in caplog.text


# The sample


def test_sample(load, texts):
    found = load("sample")
    assert "synthetic" in found.name
    train, validation = found.train["text"][:], found.validation["text"][:]
    assert (len(train), len(validation)) == (20_000, 1_000)
    assert len({*train, *validation}) == 21_000
    assert all(story and story == story.strip() for story in [*train, *validation])
    assert texts("sample", "validation") == validation and texts("sample", max_stories=9) == train[:9]


def test_the_seed_chooses_the_sample(load, monkeypatch):
    monkeypatch.setattr(opening, "SAMPLE_STORIES", 50)
    monkeypatch.setattr(opening, "SAMPLE_VALIDATION_STORIES", 5)
    assert load("sample").fingerprint == load("sample").fingerprint != load("sample", seed=1).fingerprint


# A local server with the part of the Hub's API that `datasets` uses


REPOS = {
    "owner/stories": {
        "data/train-00000-of-00001.parquet": parquet(STORIES),
        "data/validation-00000-of-00001.parquet": parquet([STORIES[0], "New one."]),
    },
    "owner/unsplit": {"stories.jsonl": jsonl(STORIES, "story")},
    "owner/lines": {"stories.txt": txt(STORIES)},
    "owner/table": {"a.csv": b"id,text\n1,A cat\n2,NA\n", "b.csv": b'text,more\n"One\rday, x",0.5\n'},
    "owner/ragged": {"a.csv": b"id,text\n1,One day, Tom ran home.\n"},
}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/":
            return self.answer(200)
        kind, repo, rest = re.fullmatch(
            r"(/api/datasets|/datasets|)/([^/]+/[^/]+)/?(.*)", unquote(urlsplit(self.path).path)
        ).groups()
        files = REPOS.get(repo, {})
        action, _, path = rest.partition("/")
        revision, _, path = path.partition("/")
        if repo == "owner/gated":
            self.answer(403, **{"X-Error-Code": "GatedRepo"})
        elif not files:
            self.answer(404, **{"X-Error-Code": "RepoNotFound"})
        elif revision not in ("", "main", COMMIT):
            self.answer(404, **{"X-Error-Code": "RevisionNotFound"})
        elif action == "resolve" and path in files:
            self.answer_file(files[path])
        elif action == "tree":
            entries = [entry for entry in self.entries(files) if os.path.dirname(entry["path"]) == path]
            self.answer(200, entries) if entries else self.answer(404, **{"X-Error-Code": "EntryNotFound"})
        elif kind == "/api/datasets" and action in ("", "revision"):
            self.answer(200, {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        else:
            self.answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    do_HEAD = do_POST = do_GET

    @staticmethod
    def entries(files):
        for path, content in files.items():
            yield {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for folder in {os.path.dirname(path) for path in files} - {""}:
            yield {"type": "directory", "path": folder, "size": 0, "oid": "0"}

    def answer_file(self, content):
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if wanted := self.headers.get("Range"):
            start, end = (int(end or len(content) - 1) for end in wanted.removeprefix("bytes=").split("-"))
            end = min(end, len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self.answer(206, content[start : end + 1], **headers)
        else:
            self.answer(200, content, **headers)

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


CLIENT = """
import json, sys
from tinystories.data.corpus import UserError, load_corpus
for source, options in json.loads(sys.argv[1]):
    try:
        found = load_corpus(source, **options)
        result = [[row["text"] for row in found.train], found.validation["text"][:], found.name, found.fingerprint]
    except UserError as error:
        result = str(error)
    print("RESULT", json.dumps(result), flush=True)
"""


def client(endpoint, home, calls, **environment):
    """A function that runs code in a separate process, because the address of the Hub is read on import."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    here = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path(tinystories.__file__).parents[1])}
    environment = {**inherited, **here, "HF_UPDATE_DOWNLOAD_COUNTS": "0", **environment}
    command = [sys.executable, "-c", CLIENT, json.dumps(calls)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(process):
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return [json.loads(line.removeprefix("RESULT ")) for line in out.splitlines() if line.startswith("RESULT ")]


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_hub(hub, tmp_path):
    found, pinned, unsplit, lines, table, *errors = results(
        client(
            hub,
            tmp_path,
            [
                ("owner/stories", {}),
                ("owner/stories:default@main", {"max_stories": 5}),
                ("owner/unsplit", {}),
                ("owner/lines", {"validation_fraction": 0.1}),
                ("owner/table", {"validation_fraction": 0.1}),
                ("owner/ragged", {}),
                ("owner/missing", {}),
                ("owner/gated", {}),
                ("owner/stories@v9", {}),
                ("owner/stories:nope", {}),
                ("owner/stories", {"text_column": "tale"}),
            ],
        )
    )
    assert found[:3] == [STORIES[1:], [STORIES[0], "New one."], "owner/stories"]
    assert pinned[:3] == [STORIES[1:6], [STORIES[0], "New one."], "owner/stories:default@main"]
    assert len(unsplit[0]) == 90 and len(unsplit[1]) == 10 and {*unsplit[0], *unsplit[1]} == set(STORIES)
    assert len(lines[0]) == 90 and {*lines[0], *lines[1]} == set(STORIES)
    assert sorted([*table[0], *table[1]]) == ["A cat", "NA", "One\nday, x"]
    messages = [
        r"owner/ragged/a.csv, row 1 \(line 2\): 3 fields, but the header has 2",
        "'owner/missing' doesn't exist on the Hub .* no file or folder of that name",
        "'owner/gated' is a gated dataset .*ask for access.*hf auth login",
        "Revision 'v9' doesn't exist",
        "owner/stories cannot be loaded: .*'nope' not found. Available: .*default",
        "owner/stories/data/train-00000-of-00001.parquet has no column tale: .*: text, n.$",
    ]
    for error, message in zip(errors, messages, strict=True):
        assert re.search(message, error.rstrip(".")) and "\n" not in error

    calls = [("owner/stories", {}), ("owner/other", {})]
    offline, error = results(client(hub, tmp_path, calls, HF_HUB_OFFLINE="1"))
    assert offline == found
    assert re.search("There is no file or folder owner/other, and the Hub cannot be reached.*HF_HUB_OFFLINE", error)


@pytest.mark.slow
def test_hub_stream(hub, tmp_path):
    found, other, unsplit, again, table, lines, ragged, short = results(
        client(
            hub,
            tmp_path,
            [
                ("owner/stories", {"streaming": True}),
                ("owner/stories", {"streaming": True, "max_stories": 5}),
                ("owner/unsplit", {"streaming": True, "max_validation_stories": 7}),
                ("owner/unsplit", {"streaming": True, "max_validation_stories": 7}),
                ("owner/table", {"streaming": True, "max_validation_stories": 1}),
                ("owner/lines", {"streaming": True, "max_validation_stories": 1}),
                ("owner/ragged", {"streaming": True}),
                ("owner/unsplit", {"streaming": True}),
            ],
        )
    )
    assert found[:3] == [STORIES[1:], [STORIES[0], "New one."], "owner/stories"]
    assert other[:2] == [STORIES[1:6], found[1]] and other[3] != found[3]
    assert unsplit[:2] == [STORIES[7:], STORIES[:7]] and again == unsplit
    assert table[:2] == [["NA", "One\nday, x"], ["A cat"]]
    assert lines[:2] == [STORIES[1:], STORIES[:1]]
    assert re.search(r"owner/ragged/a.csv, row 1 \(line 2\): 3 fields", ragged)
    assert "owner/unsplit has no stories besides the 100 validation stories" in short


def test_an_unreachable_hub_is_an_error(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    process = client(endpoint, tmp_path, [("owner/stories", {})])
    begun = time.monotonic()
    (error,) = results(process)
    assert time.monotonic() - begun < 23  # seconds that huggingface_hub retries for
    assert re.search("There is no file or folder owner/stories, and the Hub cannot be reached: .*refused", error)
    assert "\n" not in error
