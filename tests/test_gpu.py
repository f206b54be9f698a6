"""Computations that differ between GPU and CPU; all tests are skipped without a GPU."""

import json
import math

import pytest
import torch
from helpers import random_ids, sharpen
from packed_rows import MODELS, ROWS, both_losses
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.training import packed_attention as packed
from tinystories.training.arguments import training_arguments
from tinystories.training.kernels.head_loss import head_loss
from tinystories.training.packed_attention import packed_attention


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def training_step(model, run=None, **inputs):
    """Loss and gradients under bf16 autocast."""
    model.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = (model if run is None else run)(**inputs, labels=inputs["input_ids"], use_cache=False).loss
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in model.parameters()]


def on_gpu(name, **changes):
    return sharpen(MODELS[name](**changes)).cuda().train()


def packed_inputs():
    return {"input_ids": random_ids(*ROWS.shape).cuda(), "position_ids": ROWS.cuda()}


@pytest.fixture
def calls(monkeypatch):
    """The number of documents of each call of `varlen_attn`."""
    calls, attend = [], packed.varlen_attn

    def counted(query, key, value, cu_seqlens, *others, **options):
        calls.append(len(cu_seqlens) - 1)
        return attend(query, key, value, cu_seqlens, *others, **options)

    monkeypatch.setattr(packed, "varlen_attn", counted)
    return calls


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("key_value_heads", [4, 2], ids=["", "grouped"])
def test_packed_attention_equals_a_document_mask(name, key_value_heads, calls):
    model, inputs = on_gpu(name, num_key_value_heads=key_value_heads), packed_inputs()
    expected = training_step(model, **inputs)
    with packed_attention(model):
        found = training_step(model, **inputs)
    assert calls == [7, 7]
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16), packed_attention(model):
        joined = model(inputs["input_ids"], use_cache=False).logits
        apart = model(**inputs, use_cache=False).logits
    assert (joined - apart)[1:].abs().max() > 0.1, "documents must not attend to each other"


def test_in_float32_there_is_no_flash_attention_and_the_mask_is_used(calls):
    model, inputs = sharpen(MODELS["TinyLlama"]()), {"input_ids": random_ids(*ROWS.shape), "position_ids": ROWS}
    with torch.no_grad(), packed_attention(model):
        on_cpu = model(**inputs, use_cache=False).logits
    with torch.no_grad(), packed_attention(model.cuda()):
        found = model(**packed_inputs(), use_cache=False).logits.cpu()
    assert not calls
    torch.testing.assert_close(found, on_cpu, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_step_is_one_graph_and_the_same_step(name):
    torch.compiler.reset()
    model, inputs = on_gpu(name), packed_inputs()
    with packed_attention(model):
        found = training_step(model, torch.compile(model, fullgraph=True), **inputs)
        torch.testing.assert_close(found, training_step(model, **inputs), atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_head_loss_is_the_loss_of_the_model(compiled):
    model, ids = on_gpu("TinyLlama"), random_ids(3, 50).cuda()
    loss = torch.compile(head_loss, fullgraph=True) if compiled else head_loss
    torch.testing.assert_close(*both_losses(model, ids, ids, torch.tensor(147), loss), atol=1e-5, rtol=1e-4)


def test_a_run_on_a_gpu_is_measured_as_on_a_cpu(tiny_recipe):
    """Compiled, in bfloat16, with Muon; the metric that it reports is that of its weights in float32."""
    recipe = tiny_recipe(torch_compile="auto")
    assert training_arguments(recipe).torch_compile and training_arguments(recipe).bf16
    run = train(recipe)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    stories = load_corpus("sample", max_stories=600, max_validation_stories=40).validation["text"][:]
    reported = json.loads((run / "eval_results.json").read_text())["eval_bits_per_byte"]
    counted = bits_per_byte(score_stories(model, tokenizer, stories, progress=False)).value
    assert reported == pytest.approx(counted, rel=0.01)
    assert counted < math.log2(600) / 2, "it has learnt something"
