"""The first page of the README, in an empty folder and an environment with only the wheel of this project.

The wheel is built from the repository or, in slow tests, from the source distribution.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from tinystories.recipe import recipe_names


ROOT = Path(__file__).parent.parent
SOURCES = ("configs", "metrics", "modeling_tinyllama", "tinystories", "tokenization", "setup.cfg", "pyproject.toml",
           "README.md", "LICENSE", "train_hf.py", "push_to_hub.py")  # fmt: skip
METRICS = sorted(path.parent.name for path in (ROOT / "metrics").glob("*/README.md"))
TINY = {
    "max_validation_stories": 40,
    "vocab_size": 400,
    "max_length": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "max_steps": 4,
    "eval_steps": 2,
    "warmup_steps": 1,
}
# All in one process, since each process takes seconds to import torch.
FIRST_PAGE = """
import contextlib, io, json, sys
import evaluate
import tinystories
from tinystories import generate_story, load_model, metric_path
from tinystories.cli import main

commands, metrics = json.loads(sys.argv[1])
results = []
for arguments in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    results.append([status, out.getvalue(), err.getvalue()])
model, tokenizer = load_model("runs/quickstart")
story = generate_story(model, tokenizer, "The cat", max_new_tokens=5, seed=1)
loaded = [evaluate.load(metric_path(name)).name for name in metrics]
print(json.dumps([tinystories.__file__, results, story, loaded]))
"""


def build(source: Path, kind: str, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module", params=["wheel", pytest.param("sdist", marks=pytest.mark.slow)])
def wheel(request, tmp_path_factory) -> Path:
    """The wheel, built from the repository or from its source distribution."""
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    if request.param == "sdist":
        archive = build(source, "sdist", folder / "sdist")
        shutil.unpack_archive(archive, folder / "unpacked", filter="data")
        (source,) = (folder / "unpacked").iterdir()
    return build(source, "wheel", folder / "wheel")


class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path):
        environment = folder / "environment"
        venv.create(environment)
        self.bin = Path(sysconfig.get_path("scripts", "venv", {"base": str(environment)}))
        self.site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        self.python = self.bin / Path(sys.executable).name
        install = ("pip", "--python", str(self.python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
        subprocess.run([sys.executable, "-m", *install], check=True)
        # The dependencies are those of this environment; its .pth files, one of which leads to the repository, have no
        # effect here.
        (self.site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        self.folder = folder / "empty"
        self.folder.mkdir()
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, *command: str | Path) -> str:
        """Run a program of the environment, and return what it printed."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, encoding="utf-8", timeout=240
        )
        assert result.returncode == 0, f"{command}: {result.stderr[-3000:]}"
        return result.stdout

    def tinystories(self, *arguments: str) -> str:
        return self.run(self.bin / "tinystories", *arguments)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture(scope="module")
def run_folder(installed) -> Path:
    """The folder of a run from a recipe that was shown, changed and trained."""
    recipe = installed.tinystories("recipes", "show", "quickstart")
    for name, value in TINY.items():
        recipe, count = re.subn(rf"(?m)^(\s*{name}:) \S+", rf"\1 {value}", recipe)
        assert count == 1, name
    (installed.folder / "my.yaml").write_text(f"max_stories: 300\n{recipe}")
    printed = installed.tinystories("train", "my.yaml")
    assert "--- story 3" in printed and "The model is in runs/quickstart" in printed
    return installed.folder / "runs" / "quickstart"


def test_the_wheel_has_two_packages_and_every_recipe_and_metric(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"modeling_tinyllama", "tinystories"}
    for folder in ("configs", "metrics"):
        expected = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"}
        assert {name.removeprefix("tinystories/") for name in names if f"/{folder}/" in name} == expected
    for package in ("modeling_tinyllama", "tinystories"):
        expected = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.*") if path.suffix != ".pyc"}
        assert expected <= set(names)


def test_recipes_are_found_by_name(installed):
    assert [line.split()[0] for line in installed.tinystories("recipes").splitlines()] == recipe_names()
    code = "import importlib.resources as r; print((r.files('tinystories.configs') / 'race' / '5.yaml').read_text())"
    assert installed.run(installed.python, "-c", code).strip() == (ROOT / "configs/race/5.yaml").read_text().strip()
    failed = subprocess.run(
        [installed.bin / "tinystories", "train", "configs/quickstart.yaml"],
        cwd=installed.folder, env=installed.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert failed.returncode == 2 and "did you mean quickstart?" in failed.stderr


def test_the_first_page_of_the_readme(installed, run_folder):
    commands = [
        ["generate", "Once upon a time", "--max-new-tokens", "10"],
        ["generate", "runs/quickstart", "Once upon a time", "--max-new-tokens", "10"],
        ["doctor", "runs/quickstart", "--quick"],
        ["doctor", "race/5", "--corpus", "sample", "--limit", "50", "--quick"],
        ["evaluate", "runs/quickstart", "--limit", "4", "--presets", "greedy"],
        ["export", "runs/quickstart", "exported"],
        ["push", "runs/quickstart", "--repo-id", "you/quickstart", "--dry-run"],
    ]
    printed = installed.run(installed.python, "-c", FIRST_PAGE, json.dumps([commands, METRICS]))
    place, results, story, metrics = json.loads(printed.splitlines()[-1])
    assert Path(place).is_relative_to(installed.site_packages)
    assert story.startswith("The cat") and metrics == METRICS
    builtin, generated, doctor, recipe, evaluated, exported, pushed = results
    for status, text, _ in (builtin, generated):
        assert status == 0 and text.startswith("Once upon a time")
    assert doctor[0] in (0, 1) and "objective:" in doctor[1], doctor
    assert recipe[0] in (0, 1) and "training arguments" in recipe[1], recipe
    assert evaluated[0] == 0 and "bits per byte" in evaluated[1], evaluated
    assert exported[0] == 0 and (installed.folder / "exported" / "config.json").exists(), exported
    assert pushed[0] == 0, pushed
    assert sorted(path.name for path in installed.folder.iterdir()) == ["exported", "my.yaml", "runs"]


@pytest.mark.parametrize(
    "model", [pytest.param(["runs/quickstart"], marks=pytest.mark.slow), []], ids=["run", "built-in model"]
)
def test_serve_answers(model, installed, run_folder):
    server = subprocess.Popen(
        [installed.bin / "tinystories", "serve", *model, "--port", "0"],
        cwd=installed.folder, env=installed.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        assert health(address)["status"] == "ready"
    finally:
        server.terminate()
        server.wait(timeout=60)


def health(address: str) -> dict:
    """The response of /health when the model is loaded; before that, the status is 503."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            assert error.code == 503
            time.sleep(0.1)
    raise AssertionError("the model was not loaded within a minute")
