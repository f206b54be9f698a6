"""The modules that each command or import loads, each in a separate process."""

import os
import subprocess
import sys

import pytest


def run(code, *arguments, **options):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


def loaded_by(code):
    done = run(f"{code}\nimport sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_model_imports_nothing_that_a_stock_model_does_not():
    ours, stock = (
        {name.partition(".")[0] for name in loaded_by(code)}
        for code in ("import modeling_tinyllama", "from transformers import LlamaForCausalLM, GenerationMixin")
    )
    assert "modeling_tinyllama" in ours
    assert not ours - stock - {"modeling_tinyllama"}


def slow(use):
    return pytest.param(use, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "use",
    [
        "transformers.AutoModelForCausalLM.from_config(config())",
        slow("transformers.AutoModelForCausalLM.from_config(pickle.loads(pickle.dumps(config())))"),
        slow("transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"),
        slow("transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)"),
        slow("transformers.AutoModel.from_pretrained(sys.argv[1])"),
        slow("transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])"),
        slow("transformers.AutoModelForTokenClassification.from_pretrained(sys.argv[1])"),
        slow("transformers.AutoModelForQuestionAnswering.from_pretrained(sys.argv[1])"),
        "transformers.pipeline('text-generation', sys.argv[1]).model",
    ],
)
def test_auto_classes_know_the_models_after_the_import_alone(tiny_run, use):
    code = f"""
import pickle, sys
import modeling_tinyllama
import transformers
from transformers import AutoConfig
shape = dict(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
config = lambda: AutoConfig.for_model('tinyllama', **shape)
print(type({use}).__module__)"""
    done = run(code, str(tiny_run))
    assert done.stdout.strip() == "modeling_tinyllama.modeling_tinyllama", done.stderr


@pytest.mark.slow
def test_a_name_from_the_package_registers_all():
    code = """
from modeling_tinyllama import TinyLlamaConfig
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
print(all(TinyLlamaConfig in auto._model_mapping for auto in (AutoModel, AutoModelForCausalLM,
                                                              AutoModelForSequenceClassification)))"""
    assert run(code).stdout.strip() == "True"


def test_dir_lists_the_public_names():
    import modeling_tinyllama

    assert set(modeling_tinyllama.__all__) <= set(dir(modeling_tinyllama))
    with pytest.raises(AttributeError, match="TinyLlamaForNothing"):
        modeling_tinyllama.TinyLlamaForNothing  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--help", ""),
        ("train --help", ""),
        ("train none.yaml", "There is no recipe none.yaml"),
        ("recipes", ""),
        ("recipes show quickstart", ""),
        ("tokenizer none.txt {new}", "There is no file or folder none.txt"),
        ("tokenizer sample {recipe}/in", "is a file"),
        ("generate runs/none Once", "There is no run folder runs/none"),
        ("generate . Once", "not a run folder"),
        ("generate runs/none Once --preset wild", "wild"),
        ("export runs/none {new}", "There is no run folder runs/none"),
    ],
)
def test_help_and_user_errors_do_not_load_torch(tmp_path, arguments, told):
    code = """
import sys
from tinystories.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as left:
    status = left.code
print(*sys.modules)
sys.exit(status)"""
    (tmp_path / "recipe.yaml").write_text("corpus: sample\ntrainer:\n  max_steps: 1\nmodel:\n  hidden_size: 16\n")
    places = {"recipe": tmp_path / "recipe.yaml", "new": tmp_path / "new"}
    done = run(code, *arguments.format(**places).split(), cwd=tmp_path)
    assert done.returncode == (2 if told else 0) and told in done.stderr, done.stderr
    assert not {"torch", "transformers", "datasets", "numpy"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_waiting_threads_release_their_cores(given, expected):
    """GNU's OpenMP reads the setting once, when torch loads it."""
    code = """
import os, sys
from tinystories.cli import main
main(["recipes"])
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    assert run(code, env=environment | given).stdout.splitlines()[-1] == f"{expected} False"
