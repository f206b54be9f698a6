"""The loss that never stores all logits equals each model's own in value and gradients, and `StoryTrainer` uses it."""

import pytest
import torch
from helpers import random_ids, sharpen, tiny_config
from packed_rows import MODELS, ROWS, both_losses
from torch import nn
from transformers import CohereConfig, CohereForCausalLM, GPT2Config, GPT2LMHeadModel

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.recipe import load_recipe
from tinystories.runs.loading import load_model
from tinystories.training import trainer as trainers
from tinystories.training.arguments import training_arguments
from tinystories.training.build import build_trainer
from tinystories.training.kernels import head_loss as kernel
from tinystories.training.kernels.head_loss import head_loss, supports_head_loss


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 positions, the last of them shorter."""
    monkeypatch.setattr(kernel, "LOGITS_AT_A_TIME", {"cpu": 1})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", MODELS)
def test_it_equals_the_loss_of_the_model(name, tied, small_chunks):
    model = sharpen(MODELS[name](tie_word_embeddings=tied)).train()
    assert supports_head_loss(model)
    ids = random_ids(3, 50)
    labels = ids.clone()
    labels[0, :20], labels[2] = -100, -100
    torch.testing.assert_close(*both_losses(model, labels, ids, torch.tensor(50)), atol=1e-6, rtol=1e-5)


def test_it_equals_the_loss_of_the_model_under_autocast():
    model, ids = sharpen(MODELS["TinyLlama"]()).train(), random_ids(2, 30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, own = both_losses(model, ids, ids, torch.tensor(58))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, own, atol=3e-2, rtol=3e-2)


def test_it_can_be_compiled():
    torch.compiler.reset()
    model, ids = sharpen(MODELS["TinyLlama"]()).train(), random_ids(2, 30)
    compiled = torch.compile(head_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*both_losses(model, ids, ids, torch.tensor(58), compiled), atol=1e-5, rtol=1e-5)


def test_weights_of_tokens_multiply_their_losses(small_chunks):
    hidden, head = torch.randn(2, 70, 16, requires_grad=True), nn.Linear(16, 96, bias=False)
    labels, weights = random_ids(2, 70), torch.rand(2, 70)
    labels[:, 5:9] = -100
    results = []
    for fused in (True, False):
        hidden.grad = head.weight.grad = None
        if fused:
            loss = head_loss(hidden, head, labels, weights)
        else:
            losses = nn.functional.cross_entropy(head(hidden)[:, :-1].mT, labels[:, 1:], reduction="none")
            loss = (losses * weights[:, 1:]).sum()
        (2 * loss).backward()
        results.append((loss.detach(), hidden.grad, head.weight.grad))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_models_with_another_loss_are_not_supported():
    small = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert not supports_head_loss(CohereForCausalLM(CohereConfig(**small, intermediate_size=32, logit_scale=0.5)))
    model = TinyLlamaForCausalLM(tiny_config())
    assert supports_head_loss(model)
    model.loss_function = lambda logits, labels, **kwargs: logits.sum()
    assert not supports_head_loss(model)
    model = TinyLlamaForCausalLM(tiny_config())
    model.lm_head = nn.Linear(32, 96, bias=True)
    assert not supports_head_loss(model)


def test_models_of_other_architectures_are_supported():
    model = sharpen(GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2)))
    assert supports_head_loss(model)
    ids = random_ids(2, 30)
    torch.testing.assert_close(*both_losses(model, ids, ids, torch.tensor(58)), atol=1e-5, rtol=1e-4)


def trainer_of(run, tmp_path, model, **settings):
    recipe = load_recipe(run / "recipe.yaml")
    recipe.trainer |= {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, **settings}
    _, tokenizer = load_model(str(run))
    rows = Rows()
    return build_trainer(recipe, training_arguments(recipe), model.train(), tokenizer, rows, rows)


class Rows(torch.utils.data.Dataset):
    """Packed rows of random ids."""

    bytes, tokens_per_row = 1, 40

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, row):
        ids = random_ids(*ROWS.shape)[row]
        return {"input_ids": ids, "labels": ids, "position_ids": ROWS[row]}


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_equals_that_of_a_plain_trainer(name, settings, tiny_run, tmp_path, monkeypatch):
    """Packed attention and the loss together, compared with the model's own attention and loss."""
    model = sharpen(MODELS[name]())
    trainer = trainer_of(tiny_run, tmp_path, model, **settings)
    batch = {key: torch.stack([row[key] for row in Rows()]) for key in ("input_ids", "labels", "position_ids")}
    seen = []
    monkeypatch.setattr(trainer, "_head_loss", lambda *args: seen.append(args[0].shape) or head_loss(*args))
    model.config.use_cache = False
    results = []
    for plain in (False, True):
        if plain:
            trainer._uses_head_loss = False
            monkeypatch.setattr(trainers, "packed_attention", lambda model: torch.enable_grad())
        model.zero_grad()
        loss = trainer.training_step(model, dict(batch), num_items_in_batch=torch.tensor(100))
        results.append((loss, [weight.grad.clone() for weight in model.parameters()]))
    assert seen == [(3, 40, 64)]
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_a_bf16_trainer_computes_the_logits_in_bf16(tiny_run, tmp_path, monkeypatch):
    model = sharpen(MODELS["TinyLlama"]())
    trainer = trainer_of(tiny_run, tmp_path, model, bf16=True)
    batch = {key: torch.stack([row[key] for row in Rows()]) for key in ("input_ids", "labels", "position_ids")}
    dtypes, apply = [], kernel.HeadLoss.apply
    monkeypatch.setattr(kernel.HeadLoss, "apply", lambda *args: dtypes.append(args[-1]) or apply(*args))
    trainer.model_wrapped = trainer.accelerator.prepare_model(model)  # as `train()` does; it adds autocast
    trainer.training_step(trainer.model_wrapped, dict(batch), num_items_in_batch=torch.tensor(100))
    assert dtypes == [torch.bfloat16]


def test_label_smoothing_and_outputs_use_the_logits(tiny_run, tmp_path, monkeypatch):
    batch = {key: torch.stack([row[key] for row in Rows()]) for key in ("input_ids", "labels", "position_ids")}
    smoothed = trainer_of(tiny_run, tmp_path, MODELS["TinyLlama"](), label_smoothing_factor=0.1)
    assert not smoothed._uses_head_loss
    trainer = trainer_of(tiny_run, tmp_path, MODELS["TinyLlama"]())
    loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert outputs.logits.shape == (3, 40, 96)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), loss, atol=1e-5, rtol=1e-5)
