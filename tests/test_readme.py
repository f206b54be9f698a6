"""What the README shows is what works."""

import re
import shlex
from pathlib import Path

import pytest
from test_server import running

from tinystories.cli import parse
from tinystories.recipe import build_recipe, load_recipe
from tinystories.utils.errors import UserError


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield pytest.param(words, id=" ".join(words[:3]))


@pytest.mark.parametrize("words", commands())
def test_commands_are_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif "train_hf.py" in words:
        recipe, *overrides = words[words.index("train_hf.py") + 1 :]
        load_recipe(recipe, overrides)
    elif words[0] == "tinystories":
        parse(words[1:])
    else:
        pytest.skip("a command of another tool")


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number, tiny_run, capsys):
    code = blocks("python")[number]
    if "http://127.0.0.1:7779" in code:
        with running(tiny_run) as server:
            code = code.replace(":7779", f":{server.port}").replace('"quickstart"', '"tiny"')
            exec(compile(code, f"README block {number}", "exec"), {})
        assert capsys.readouterr().out.strip()
        return
    assert "runs/quickstart" in code
    exec(compile(code.replace("runs/quickstart", str(tiny_run)), f"README block {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_files_and_settings_that_are_named_exist():
    for name in re.findall(r"`((?:configs|tinystories|tokenization|modeling_tinyllama|benchmarks)/[\w./-]+)`", README):
        assert (ROOT / name).exists(), name
    verbs = (ROOT / "tinystories" / "commands").glob("*.py")
    options = [option for verb in verbs for option in re.findall(r'"--([\w-]+)"', verb.read_text())]
    for name in re.findall(r"`--([\w-]+)", README):
        if name not in options:
            try:
                build_recipe({}, {name.replace("-", "_"): "1"})
            except UserError as error:
                assert "there is no setting" not in str(error), name
