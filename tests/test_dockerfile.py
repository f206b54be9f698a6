"""The Dockerfile: it copies what an installation needs, and its commands work."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from story_server import running
from test_installed import SOURCES

from tinystories.cli import parse
from tinystories.serving.settings import ServerSettings, read_settings


ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


def instructions(name):
    return re.findall(rf"(?m)^{name} (.*)$", DOCKERFILE)


def test_the_build_context_has_the_files_of_an_installation():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored and kept == {*SOURCES, "constraints.txt"} - {"train_hf.py", "push_to_hub.py"}
    [install] = (line for line in instructions("RUN") if "pip install" in line)
    for name in re.findall(r"/source/(\S+)", install):
        assert name in kept
    assert "'/source[serve]'" in install


def test_the_entry_point_serves_a_folder_or_a_model_of_the_hub():
    [entry], [folder], [port] = map(instructions, ("ENTRYPOINT", "ENV", "EXPOSE"))
    name, _, value = folder.partition("=")
    for arguments, checkpoint in (([], value), (["you/your-model"], "you/your-model")):
        options = parse([*json.loads(entry)[1:], *arguments])
        settings = read_settings(vars(options), {name: value})
        assert (settings.checkpoint, settings.host, settings.port) == (checkpoint, "0.0.0.0", int(port))
    assert int(port) == ServerSettings.port
    [user] = instructions("USER")
    assert user != "0" and f"--uid {user} " in DOCKERFILE


def test_the_commands_of_the_guide_fit_the_image():
    guide = (ROOT / "docs" / "serving.md").read_text("utf-8")
    commands = [shlex.split(line) for line in re.findall(r"(?m)^docker run .*(?:\\\n.*)*", guide)]
    assert len(commands) == 2
    for words in commands:
        image = words.index("tinystories")
        assert f"{ServerSettings.port}:{ServerSettings.port}" in words[words.index("-p") + 1]
        parse([*json.loads(instructions("ENTRYPOINT")[0])[1:], *words[image + 1 :]])
    assert any(word.endswith(f":{instructions('ENV')[0].partition('=')[2]}:ro") for word in commands[0])


def test_the_health_check_asks_the_server(tiny_run):
    [check] = instructions("HEALTHCHECK")
    command = [sys.executable, *json.loads(check.partition("CMD ")[2])[1:]]
    with running(tiny_run) as server:
        healthy = subprocess.run(command, env={**os.environ, "PORT": str(server.port)}, capture_output=True)
        assert healthy.returncode == 0, healthy.stderr
    stopped = subprocess.run(command, env={**os.environ, "PORT": str(server.port)}, capture_output=True)
    assert stopped.returncode != 0
