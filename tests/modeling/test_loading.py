"""A run folder works with transformers alone, without this package."""

import shutil

import pytest
import torch
from helpers import run_in_clean_process
from transformers import AutoModelForCausalLM, AutoTokenizer


PROMPT = "Once upon a time there was"


@pytest.fixture
def copied(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "elsewhere" / "model")


@pytest.mark.slow
def test_a_clean_process_gets_the_same_tokens(copied, tiny_run, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_run), AutoTokenizer.from_pretrained(tiny_run)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    expected = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0].tolist()
    assert len(expected) > 20

    found = run_in_clean_process(
        f"""
import json
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer({PROMPT!r}, return_tensors="pt")
tokens = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0].tolist()
print(json.dumps([type(model).__module__, type(tokenizer).__name__, tokens]))
""",
        copied,
        tmp_path,
    )
    assert found[0].startswith("transformers_modules.")
    assert found[2] == expected


@pytest.mark.parametrize("part", ["", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_pipeline_writes_a_story_in_a_clean_process(copied, tmp_path, part):
    folder = max(copied.glob("checkpoint-*")) if part else copied
    text, again, batch = run_in_clean_process(
        f"""
import json
from transformers import pipeline, set_seed

storyteller = pipeline("text-generation", model=sys.argv[1], trust_remote_code=True)
texts = []
for _ in range(2):
    set_seed(1)
    texts.append(storyteller({PROMPT!r})[0]["generated_text"])
batch = storyteller([{PROMPT!r}, "One day,"], batch_size=2, max_new_tokens=5)
print(json.dumps([*texts, [story[0]["generated_text"] for story in batch]]))
""",
        folder,
        tmp_path,
    )
    assert text == again and text.startswith(PROMPT) and len(text) > len(PROMPT) + 20
    assert batch[0].startswith(PROMPT) and batch[1].startswith("One day,")


def test_a_pipeline_samples_as_the_balanced_preset_does(tiny_run):
    from transformers import pipeline, set_seed

    from tinystories.generation.generate import generate_story
    from tinystories.runs.loading import load_model

    storyteller = pipeline("text-generation", model=str(tiny_run))
    set_seed(3)
    piped = storyteller(PROMPT, max_new_tokens=60)[0]["generated_text"]
    assert piped == generate_story(*load_model(str(tiny_run)), PROMPT, seed=3, max_new_tokens=60)


def test_prompts_of_different_lengths_are_completed_in_a_batch_as_alone(tiny_run):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_run), AutoTokenizer.from_pretrained(tiny_run)
    prompts = ["One day,", "Once upon a time there was a little girl. She", "The"]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    together = model.generate(**batch, do_sample=False, max_new_tokens=12)[:, -12:]
    for prompt, continued in zip(prompts, together, strict=True):
        alone = tokenizer(prompt, return_tensors="pt")
        assert torch.equal(model.generate(**alone, do_sample=False, max_new_tokens=12)[0, -12:], continued)
