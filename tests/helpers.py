"""Small models, commands in this and in other processes, and a process that cannot import this project."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.cli import main


ROOT = Path(__file__).parents[1]
PROMPT = "Once upon a time"
TINY_RECIPE = {
    "corpus": "sample",
    "max_stories": 600,
    "max_validation_stories": 40,
    "vocab_size": 600,
    "optimizer": "muon",
    "max_length": 128,
    "prompts": ["Once upon a time there was"],
    "model": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.1,
    },
    "trainer": {
        "max_steps": 120,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 5,
        "eval_steps": 60,
        "logging_steps": 20,
        "disable_tqdm": True,
    },
}

HIDE_PACKAGE = """
import sys

class HidingFinder:
    def find_spec(self, name, path=None, target=None):
        if name in ("modeling_tinyllama", "tokenization", "tinystories"):
            raise ImportError(name)

sys.meta_path.insert(0, HidingFinder())
try:
    import modeling_tinyllama
except ImportError:
    pass
else:
    raise SystemExit("the package can be imported, so this shows nothing")
"""


def tiny_config(**changes) -> TinyLlamaConfig:
    """A configuration with two layers, four query heads and two key/value heads; the first half of each is rotated."""
    settings = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }
    return TinyLlamaConfig(**settings)


def sharpen(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model random weights as large as those of a trained one, in evaluation mode.

    With initial weights (0.02), attention is nearly uniform, and many errors would be below the tolerance.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def tiny_model(model_class=TinyLlamaForCausalLM, seed: int = 0, **changes) -> nn.Module:
    return sharpen(model_class(tiny_config(**changes)), seed)


def edit_weights(folder: Path, change) -> None:
    """Call `change` with the weights in a model folder by name, and save the changed weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def random_ids(batch: int, length: int, seed: int = 0) -> torch.LongTensor:
    """Random token ids, none of them PAD or EOS."""
    return torch.randint(2, 96, (batch, length), generator=torch.Generator().manual_seed(seed))


def run_in_clean_process(code: str, folder: Path, tmp_path: Path):
    """Run `code`, with `folder` as `sys.argv[1]`, in a process that cannot import this project, and return the JSON in
    its last line of output."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", HIDE_PACKAGE + code, str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def without_package(monkeypatch, package: str, *importers: str):
    """Make `package` fail to import within the block; the modules that import it are imported again."""
    monkeypatch.setitem(sys.modules, package, None)
    for name in importers:
        monkeypatch.delitem(sys.modules, name, raising=False)


def tinystories_process(*arguments):
    command = [sys.executable, "-m", "tinystories.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def tinystories(*arguments, cwd=ROOT):
    """The same in this process, where the libraries, which take seconds to load, are already loaded."""
    command, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd):
        try:
            status = main(command)
        except SystemExit as left:
            status = left.code
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def fails_with_one_line(result, *words):
    """Exit status 2, and a last line that names the mistake, with no traceback before it."""
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last, last


def by_check(findings):
    """Findings of `tinystories doctor` by the name of the check."""
    return {finding.check: finding for finding in findings}


def errors(findings):
    """Names of the checks that found an error."""
    return {finding.check for finding in findings if finding.status == "error"}
