"""Commands, Python blocks, files and options in README.md and docs/ are real."""

import argparse
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from tinystories.cli import parse
from tinystories.commands.serve import add_arguments
from tinystories.commands.train import names_stories
from tinystories.recipe import build_recipe, load_recipe, parse_overrides, save_recipe
from tinystories.serving.settings import ServerSettings
from tinystories.utils.errors import UserError


ROOT = Path(__file__).parent.parent
PAGES = {page.name: page.read_text("utf-8") for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def blocks(language):
    for name, text in PAGES.items():
        for number, block in enumerate(re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)):
            yield f"{name}-{number}", block


def commands():
    for name, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield pytest.param(words, id=f"{name} {' '.join(words[:3])}")


@pytest.mark.parametrize("words", commands())
def test_commands_parse(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [word.replace("FOLDER", "my_stories").replace("my.yaml", "quickstart") for word in words]
    words = words[: words.index(">")] if ">" in words else words
    script = next((word for word in words if word.endswith(".py")), "")
    assert not script or (ROOT / script).exists()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif "train_hf.py" in words or words[:2] == ["tinystories", "train"]:
        recipe, *overrides = words[words.index("train_hf.py" if "train_hf.py" in words else "train") + 1 :]
        if names_stories(recipe, parse_overrides(overrides)):
            build_recipe({"corpus": recipe}, parse_overrides(overrides))
        else:
            load_recipe(recipe, overrides)
    elif words[0] == "tinystories":
        parse(words[1:])
    elif not script:
        pytest.skip("a command of another tool")


@pytest.mark.parametrize("name, code", [pytest.param(*block, id=block[0]) for block in blocks("python")])
def test_python_runs(name, code, tiny_run, tiny_recipe, tmp_path, monkeypatch, capsys):
    code = code.replace("runs/quickstart", str(tiny_run)).replace("runs/plain", str(tmp_path / "plain"))
    save_recipe(tiny_recipe(max_steps=2, max_stories=100, output_dir=tmp_path / "run"), tmp_path / "my.yaml")
    monkeypatch.chdir(tmp_path)
    if "http://127.0.0.1:7779" in code:
        from story_server import running

        with running(tiny_run) as server:
            code = code.replace(":7779", f":{server.port}").replace('"quickstart"', '"tiny"')
            exec(compile(code, name, "exec"), {})
    else:
        exec(compile(code, name, "exec"), {})
    assert capsys.readouterr().out.strip() or "print" not in code


def test_named_files_exist():
    folders = "configs|tinystories|tokenization|modeling_tinyllama|benchmarks|metrics|tests|docs"
    for page, text in PAGES.items():
        for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_link_targets_exist():
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else ROOT / "docs"
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
            generated = target == "changelog.md"
            assert generated or not target or (folder / target).exists(), f"{page}: {target}{anchor}"


def test_named_options_exist():
    sources = [
        path.read_text("utf-8") for folder in ("tinystories", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    options = re.findall(r'"--([\w-]+)"', "".join(sources))
    for page, text in PAGES.items():
        for name in re.findall(r"`--([\w-]+)", text):
            if name not in options:
                try:
                    build_recipe({}, {name.replace("-", "_"): "1"})
                except UserError as error:
                    assert "no setting" not in str(error), f"{page}: --{name}"


def test_the_serving_guide_describes_every_option():
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    defaults = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
    rows = dict(re.findall(r"(?m)^\| `(--[\w-]+)` \| (.*?) \|", PAGES["serving.md"]))
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    assert rows.keys() == options.keys()
    for option, name in options.items():
        default = defaults[name]
        if default not in (None, ()):
            assert rows[option] == (f"{default:g}" if isinstance(default, float) else str(default)), option


def test_readme_is_short():
    lines = PAGES["README.md"].splitlines()
    assert len(lines) < 200
    assert len(PAGES["README.md"].split()) < 1_300
