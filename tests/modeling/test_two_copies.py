"""Code of several model folders in one process, as in a notebook or in an evaluation of two runs."""

import os
import shutil

import pytest
from helpers import run_in_clean_process, tiny_model


STEP_WITH_EACH = """
import json
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

def step_with_each(root):
    folders = sorted(path for path in root.iterdir() if path.name.startswith("copy"))
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
        model.save_pretrained(root / "again")
        AutoModelForCausalLM.from_pretrained(root / "again", trust_remote_code=True)
    return [len({type(model).__module__ for model in models}), losses, gradients]
"""

ONCE = STEP_WITH_EACH + "print(json.dumps(step_with_each(Path(sys.argv[1]))))"
# Forked before any model's code is loaded, so that each attempt loads it anew.
IN_FORKS = (
    STEP_WITH_EACH
    + """
statuses = []
for _ in range(16):
    if (process := os.fork()) == 0:
        modules, losses, gradients = step_with_each(Path(sys.argv[1]))
        os._exit(not (modules == 2 and len(set(losses)) == 1 and len(set(gradients)) == 1))
    statuses.append(os.waitpid(process, 0)[1])
print(json.dumps(statuses))
"""
)


def copies_of_a_model(root, number: int):
    tiny_model().save_pretrained(root / "copy0")
    for index in range(1, number):
        shutil.copytree(root / "copy0", root / f"copy{index}")
    return root


def test_a_training_step_with_each_of_eight_folders(tmp_path):
    modules, losses, gradients = run_in_clean_process(ONCE, copies_of_a_model(tmp_path / "folders", 8), tmp_path)
    assert modules == 8
    assert len(set(losses)) == 1 and len(set(gradients)) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_two_folders_in_each_of_several_new_processes(tmp_path):
    assert run_in_clean_process(IN_FORKS, copies_of_a_model(tmp_path / "folders", 2), tmp_path) == [0] * 16
