"""What is computed in another way on a GPU than on a CPU; all of it is skipped where there is none."""

import json
import math

import pytest
import torch
from helpers import random_ids, sharpen, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tinyllama import TinyLlamaForCausalLM, TinyLlamaModel
from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.training.arguments import training_arguments


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PACKED = torch.stack(
    [
        torch.arange(40),
        torch.cat([torch.arange(n) for n in (1, 9, 30)]),
        torch.cat([torch.arange(7, 20), torch.arange(26), torch.arange(1)]),
    ]
)


def a_step(model, run=None, **inputs):
    """Loss and gradients under bf16 autocast."""
    model.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = (model if run is None else run)(**inputs, labels=inputs["input_ids"], use_cache=False).loss
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("heads", [4, 2], ids=["", "grouped"])
def test_packed_rows_attend_story_by_story_as_under_a_mask(heads, monkeypatch):
    model = sharpen(TinyLlamaForCausalLM(tiny_config(num_attention_heads=4, num_key_value_heads=heads))).cuda().train()
    inputs = {"input_ids": random_ids(3, 40).cuda(), "position_ids": PACKED.cuda()}
    asked = TinyLlamaModel._attends_within_stories
    seen = []
    monkeypatch.setattr(
        TinyLlamaModel, "_attends_within_stories", lambda self, states: seen.append(asked(self, states)) or seen[-1]
    )
    by_story = a_step(model, **inputs)
    assert seen == [True], "flash attention was there, and was not used"
    monkeypatch.setattr(TinyLlamaModel, "_attends_within_stories", lambda self, states: False)
    torch.testing.assert_close(by_story, a_step(model, **inputs), atol=3e-2, rtol=3e-2)
    monkeypatch.undo()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        joined = model(inputs["input_ids"], use_cache=False).logits
        apart = model(**inputs, use_cache=False).logits
    assert (joined - apart)[1:].abs().max() > 0.1, "the bounds of the stories must count"


def test_float32_has_no_flash_attention_and_takes_the_mask():
    model = sharpen(TinyLlamaForCausalLM(tiny_config())).train()
    inputs = {"input_ids": random_ids(3, 40), "position_ids": PACKED, "use_cache": False}
    with torch.no_grad():
        on_cpu = model(**inputs).logits
        inputs = {name: value.cuda() if torch.is_tensor(value) else value for name, value in inputs.items()}
        torch.testing.assert_close(model.cuda()(**inputs).logits.cpu(), on_cpu, atol=1e-3, rtol=1e-3)


def test_a_compiled_step_is_one_graph_and_the_same_step():
    torch.compiler.reset()
    model = sharpen(TinyLlamaForCausalLM(tiny_config())).cuda().train()
    inputs = {"input_ids": random_ids(3, 40).cuda(), "position_ids": PACKED.cuda(), "skip_logits": True}
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(a_step(model, compiled, **inputs), a_step(model, **inputs), atol=3e-2, rtol=3e-2)


def test_the_loss_without_logits_is_the_standard_one():
    model = sharpen(TinyLlamaForCausalLM(tiny_config())).cuda().train()
    ids = random_ids(3, 50).cuda()
    found = []
    for skip_logits in (True, False):
        model.zero_grad()
        loss = model(ids, labels=ids, skip_logits=skip_logits).loss
        loss.backward()
        found.append((loss.detach(), [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_a_run_on_a_gpu_is_measured_as_on_a_cpu(tiny_recipe):
    """Compiled, in bfloat16, with Muon: and the figure that it reports is that of its weights in float32."""
    recipe = tiny_recipe(torch_compile="auto")
    assert training_arguments(recipe).torch_compile and training_arguments(recipe).bf16
    run = train(recipe)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    stories = load_corpus("sample", max_stories=600, max_validation_stories=40).validation["text"][:]
    reported = json.loads((run / "eval_results.json").read_text())["eval_bits_per_byte"]
    counted = bits_per_byte(score_stories(model, tokenizer, stories, progress=False)).value
    assert reported == pytest.approx(counted, rel=0.01)
    assert counted < math.log2(600) / 2, "it has learnt something"
