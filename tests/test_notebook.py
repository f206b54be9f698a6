"""The example notebook runs from the first cell to the last, with the smallest settings and a Hub on this machine."""

import configparser
import os
import re
from pathlib import Path

import nbformat
import pytest
from hub_server import CLIENT, LocalHub, User
from nbclient import NotebookClient


ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "tinystories.ipynb"
SMALLEST = {
    "max_stories": 300,
    "max_validation_stories": 40,
    "vocab_size": 400,
    "max_length": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "max_steps": 4,
    "eval_steps": 2,
    "warmup_steps": 1,
}


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_has_no_outputs_and_installs_this_package(notebook):
    nbformat.validate(notebook)
    cells = {cell.id: cell for cell in notebook.cells}
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert cells["parameters"].metadata.tags == ["parameters"] and 'REPO_ID = ""' in cells["parameters"].source
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    name, extra = re.search(r'%pip install --quiet "([\w-]+)\[(\w+)\] @ \{SOURCE\}"', cells["pip"].source).groups()
    assert name == setup["metadata"]["name"] and extra in setup["options.extras_require"]


@pytest.mark.slow
def test_it_runs_from_the_first_cell_to_the_last(notebook, tmp_path):
    cells = {cell.id: cell for cell in notebook.cells}
    cells["parameters"].source += f'\nOVERRIDES = {SMALLEST}\nREPO_ID = "ada/notebook"'
    with LocalHub() as hub:
        hub.users["hf_ada"] = User("ada")
        environment = {**os.environ, **CLIENT, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ada"}
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
        client.execute(env=environment)
        files = hub.model("ada/notebook").at("main").files
    text = {
        name: "".join(output.get("text", "") for output in cell.get("outputs", [])) for name, cell in cells.items()
    }
    assert (
        "verdict " in text["run"] and "--- story 3" in text["run"] and "The weights are those of step" in text["run"]
    )
    assert any("image/png" in output.get("data", {}) for output in cells["plot"].outputs)
    assert "bits per byte" in text["report"] and "real stories" in text["report"]
    assert text["pipeline"].count("Once upon a time") == 2
    assert (tmp_path / "runs" / "quickstart.gguf").is_file() and "difference" in text["gguf"]
    assert text["push-cell"].endswith("https://huggingface.co/ada/notebook\n")
    assert {"model.safetensors", "README.md", "modeling_tinyllama.py"} <= files.keys()
    assert any(name.endswith(".gguf") for name in files)
