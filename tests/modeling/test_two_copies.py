"""The code of several model folders in one process, as a notebook or an evaluation of two runs loads it."""

import shutil

import pytest
from helpers import run_without_us, tiny_model


STEP_WITH_EACH = """
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

folders = sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir())
models = [AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).train() for folder in folders]
ids = torch.arange(3, 67)[None]
positions = torch.cat([torch.arange(30), torch.arange(34)])[None]
losses, gradients = [], []
for model in (*models, *models):
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, position_ids=positions, use_cache=False).loss
    loss.backward()
    losses.append(loss.item())
    gradients.append(sum(parameter.grad.abs().sum().item() for parameter in model.parameters()))
    again = Path(sys.argv[1]) / "again"
    model.save_pretrained(again)
    AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
print(json.dumps([len({type(model).__module__ for model in models}), losses, gradients]))
"""


def losses_of_copies(folder, tmp_path, copies: int) -> None:
    model = tiny_model()
    first = folder / "copy0"
    model.save_pretrained(first)
    for index in range(1, copies):
        shutil.copytree(first, folder / f"copy{index}")
    modules, losses, gradients = run_without_us(STEP_WITH_EACH, folder, tmp_path)
    assert modules == copies
    assert len(set(losses)) == 1 and len(set(gradients)) == 1


def test_a_training_step_with_each_of_eight_folders(tmp_path):
    losses_of_copies(tmp_path / "folders", tmp_path, 8)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(16))
def test_fresh_processes_survive_two_copies(tmp_path, attempt):
    losses_of_copies(tmp_path / "folders", tmp_path, 2)
