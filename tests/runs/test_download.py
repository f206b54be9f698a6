"""Models on the Hub, with and without a connection. Each test uses separate processes, because the address of the Hub
is read on import."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path, PureWindowsPath

import pytest
from helpers import ROOT, tinystories
from hub_server import CLIENT, Blob, LocalHub, Repo

from tinystories.cli import main
from tinystories.runs.download import may_be_hub_id


RETRIES = 23  # seconds that `huggingface_hub` retries for
FOLDER = """
import json, sys
from pathlib import Path
from tinystories.runs import download
from tinystories.utils import hub_connection
from tinystories.utils.errors import UserError

hub_connection.CONNECT_TIME = 1
try:
    folder = download.local_folder(sys.argv[1], *sys.argv[2:])
    print(json.dumps([path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]))
except UserError as error:
    print(json.dumps(str(error)))
"""


def closed():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@contextmanager
def no_answer():
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def no_connection():
    """An address at which connections are neither refused nor accepted, because the server's backlog is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def environment(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**inherited, **CLIENT, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def run(environment):
    """Run a command with a Hub, and return its result and the time in seconds."""

    def run(url, *arguments, **changes):
        begun = time.monotonic()
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**environment, "HF_ENDPOINT": url, **changes},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in result.stderr, result.stderr
        return result, time.monotonic() - begun

    return run


@pytest.fixture
def download(run):
    """The files of the folder that a model is downloaded to, or the message of the error."""

    def download(url, *arguments, **changes):
        result, _ = run(url, "-c", FOLDER, *arguments, **changes)
        return json.loads(result.stdout)

    return download


@pytest.fixture
def hub():
    with LocalHub() as hub:
        yield hub


def publish(hub, repo_id, files):
    hub.repos["models", repo_id] = repo = Repo(repo_id)
    repo.commit("main", "first", {name: Blob(data, lfs=name.endswith(".safetensors")) for name, data in files.items()})


# Without a connection


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "owner/name", "Once upon a time"),
        pytest.param(("evaluate", "owner/name"), marks=pytest.mark.slow),
        pytest.param(("serve", "owner/name", "--port", "0"), marks=pytest.mark.slow),
        pytest.param(("export", "owner/name", "out"), marks=pytest.mark.slow),
        pytest.param(("import", "owner/name", "out"), marks=pytest.mark.slow),
        ("doctor", "owner/name"),
        pytest.param(("doctor", "sample", "--tokenizer", "owner/name"), marks=pytest.mark.slow),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_verb_reports_that_the_hub_cannot_be_reached(command, run):
    url = closed()
    result, seconds = run(url, "-m", "tinystories.cli", *command)
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    missing = "There is no folder owner/name and no complete download of the model owner/name"
    assert f"{missing}, and the Hub ({url}) cannot" in line
    assert "refused" in line and seconds < RETRIES


@pytest.mark.parametrize(
    ("hub_at", "reason"),
    [
        (lambda: "http://no-such-host.invalid", "Name or service not known|nodename|getaddrinfo|name resolution"),
        pytest.param(
            no_connection,
            "no connection within 1 seconds",
            marks=pytest.mark.skipif(
                sys.platform == "win32", reason="Windows refuses what does not fit into the queue"
            ),
        ),
        (no_answer, "timed out"),
    ],
    ids=["no name server", "no connection", "no answer"],
)
def test_waiting_for_the_hub_is_limited(hub_at, reason, run):
    with ExitStack() as stack:
        url = hub_at()
        url = url if isinstance(url, str) else stack.enter_context(url)
        result, seconds = run(url, "-c", FOLDER, "owner/name", HF_HUB_ETAG_TIMEOUT="2")
    message = json.loads(result.stdout)
    assert re.search(f"cannot be reached: .*({reason})", message) and seconds < RETRIES


@pytest.mark.slow
def test_a_slow_hub_is_waited_for(hub, download):
    publish(hub, "owner/name", {"config.json": b"{}"})
    hub.fail("HEAD", "^/$", lambda: time.sleep(3) or True)  # longer than CONNECT_TIME, but connected
    assert download(hub.url, "owner/name") == ["config.json"]


@pytest.mark.slow
def test_a_downloaded_model_needs_no_connection(hub, tiny_run, run, tmp_path):
    publish(hub, "owner/name", {path.name: path.read_bytes() for path in tiny_run.iterdir() if path.is_file()})
    command = ("-m", "tinystories.cli", "generate", "owner/name", "Once", "--max-new-tokens", "8", "--seed", "1")
    online, _ = run(hub.url, *command)
    assert online.returncode == 0 and online.stdout == tinystories(*command[2:3], tiny_run, *command[4:]).stdout
    offline, seconds = run(closed(), *command)
    assert offline.stdout == online.stdout and seconds < RETRIES
    assert "owner/name: the Hub cannot be reached" in offline.stderr and "downloaded earlier" in offline.stderr
    shutil.rmtree(tmp_path / "hf")
    asked = len(hub.requests)
    unset, _ = run(hub.url, *command, HF_HUB_OFFLINE="1")
    assert unset.returncode == 2 and "cannot be reached: HF_HUB_OFFLINE is set" in unset.stderr
    assert len(hub.requests) == asked


# Which files are downloaded


def test_only_what_is_needed_is_downloaded(hub, download):
    texts = ["config.json", "merges.txt", "tokenizer.json", "tokenizer.model"]
    others = ["README.md", "modeling.py", "onnx/config.json", "phi3/model.safetensors", "training_args.bin"]
    weights = ["model.safetensors", "pytorch_model.bin"]
    publish(hub, "owner/both", dict.fromkeys([*texts, *others, *weights], b"{}"))
    publish(hub, "owner/pickle", dict.fromkeys([*texts, *others, "pytorch_model.bin"], b"{}"))
    kinds = ("*.safetensors", "pytorch_model*.bin")
    assert download(hub.url, "owner/both") == texts
    assert sorted(download(hub.url, "owner/both", *kinds)) == sorted([*texts, "model.safetensors"])
    assert download(hub.url, "owner/pickle", kinds[0]) == texts
    assert sorted(download(hub.url, "owner/pickle", *kinds)) == sorted([*texts, "pytorch_model.bin"])


def test_an_incomplete_download_is_not_used(hub, download):
    publish(hub, "owner/name", {"config.json": b"{}", "model.safetensors": b"{}"})
    assert download(hub.url, "owner/name") == ["config.json"]
    assert "no complete download of the model" in download(closed(), "owner/name", "*.safetensors")


HUB_IDS = ["owner/name", "openai-community/gpt2", "a/b", "some.one/a-model_1.0"]
PATHS = [
    "name",
    "owner/",
    "/name",
    "./name",
    "~/name",
    "../name",
    "a/b/c",
    "/abs/name",
    "owner/with space",
    "runs/new",
]
PATHS += ["models/tiny.bin", "models/tiny.GGUF", "models/tokenizer.json", "here/name", "C:/name", "owner/na--me", ""]


def test_which_names_may_be_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "name").mkdir(parents=True)
    assert [name for name in (*HUB_IDS, *PATHS) if may_be_hub_id(name)] == HUB_IDS
    assert may_be_hub_id(PureWindowsPath(r"owner\name")) and may_be_hub_id(Path("owner/name"))


@pytest.mark.parametrize("name", ["none", "runs/none", "models/none.bin", "a/b/c"])
def test_a_mistyped_path_is_not_looked_up_on_the_hub(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tinystories.utils.hub_connection.get_session", lambda: pytest.fail("asked the Hub"))
    for arguments in (["generate", name, "Once"], ["serve", name], ["import", name, "out"], ["doctor", name]):
        assert main(arguments) == 2
        assert re.search(r"^tinystories: There is no .*" + name, capsys.readouterr().err, re.MULTILINE), arguments


def test_an_invalid_name_is_one_line(hub, download):
    assert "the Hub has no model of that name" in download(hub.url, "owner/missing")
    hub.fail("GET", "/api/models/owner/down", 503, times=9)
    publish(hub, "owner/down", {"config.json": b"{}"})
    assert "cannot be loaded from the Hub" in download(hub.url, "owner/down")
    for name in ("no/such/folder", "runs/a b"):
        message = download(closed(), name)
        assert message.startswith(f"There is no folder {name}, and it is not the id of") and "\n" not in message
