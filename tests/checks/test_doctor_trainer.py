"""`check_trainer` on trainers with one error each, and on the same trainers without it."""

import random
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from helpers import by_check, errors
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.checks import check_trainer, has_error, machine, memory
from tinystories.checks.batches import find_stories, take_batches
from tinystories.checks.forward import forward_and_backward
from tinystories.checks.recorder import Recorder
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import PackedStories, tokenize_stories
from tinystories.runs import checkpoints
from tinystories.runs.run_folder import find_checkpoints
from tinystories.tokenization import train_bpe
from tinystories.training import build as training
from tinystories.training.arguments import training_arguments
from tinystories.training.kernels import attention
from tinystories.training.kernels.head_loss import head_loss
from tinystories.training.packed_attention import kernel_name


@pytest.fixture(scope="module")
def stories():
    """The beginnings of sample stories, short enough that a row contains many."""
    whole = load_corpus("sample", max_stories=200, max_validation_stories=10).train["text"]
    return datasets.Dataset.from_dict({"text": [". ".join(story.split(". ")[:3]) + "." for story in whole]})


@pytest.fixture(scope="module")
def tokenizer(stories):
    return train_bpe(stories["text"][:], 500, model_max_length=128, progress=False)


@pytest.fixture(scope="module")
def rows(stories, tokenizer):
    return PackedStories(
        tokenize_stories(stories, tokenizer, "doctor"), context=128, overlap=16, pad_token_id=1, length=256
    )


def model(kind=TinyLlamaForCausalLM, **changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    if kind is not GPT2LMHeadModel:
        shape["intermediate_size"] = 64
    return kind(kind.config_class(**shape, **changes))


@pytest.fixture
def trainer(rows, tokenizer, tmp_path):
    """A function that makes a plain Trainer on packed rows."""

    def make(network=None, collator=default_data_collator, dataset=rows, processing_class=tokenizer, **arguments):
        settings = {"output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "report_to": "none"}
        settings |= {
            "use_cpu": True,
            "max_steps": 4,
            "disable_tqdm": True,
            "save_total_limit": 1,
            "remove_unused_columns": False,
            **arguments,
        }
        options = {name: settings.pop(name) for name in ("compute_loss_func", "eval_dataset") if name in settings}
        return Trainer(
            model=network or model(),
            args=TrainingArguments(**settings),
            train_dataset=dataset,
            data_collator=collator,
            processing_class=processing_class,
            **options,
        )

    return make


SHOWN = {"labels", "end of text", "padding", "beginning of text", "next token", "causal mask"}
LEAKS = {"document masking (train mode)", "document masking (eval mode)"}


def test_a_healthy_trainer_is_ok(trainer):
    found = by_check(check_trainer(trainer()))
    for check in SHOWN | LEAKS | {"vocabulary size", "memory", "disk", "attention kernel"}:
        assert found[check].status == "ok", found[check]
    assert "t+1" in found["next token"].evidence
    assert not has_error(found.values())
    assert not [finding for finding in found.values() if finding.status == "inconclusive"]


@pytest.fixture
def story_trainer(tiny_recipe):
    """A function that makes the trainer of a recipe."""

    def make(kind=TinyLlamaForCausalLM, **changes):
        recipe = tiny_recipe(**{"max_stories": 60, "max_length": 512, **changes})
        corpus = load_corpus(
            "sample", max_stories=recipe.max_stories, max_validation_stories=10, streaming=recipe.streaming
        )
        known = train_bpe((story["text"] for story in corpus.train), 600, progress=False)
        arguments = training_arguments(recipe)
        rows, held_out = training.pack_corpus(corpus, known, recipe, 0)
        return training.build_trainer(
            recipe, arguments, kind(training.model_config(recipe, known)), known, rows, held_out
        )

    return make


def test_the_trainer_of_a_recipe_is_healthy(story_trainer):
    found = by_check(check_trainer(story_trainer(gradient_accumulation_steps=2)))
    assert not errors(found.values())
    for check in SHOWN | LEAKS | {"gradient accumulation"}:
        assert found[check].status == "ok", found[check]


def test_weighted_articles_are_a_note_and_no_error(story_trainer):
    found = by_check(check_trainer(story_trainer(article_loss_weight=1.5)))
    assert found["loss"].status == "note" and "1.5" in found["loss"].evidence
    assert found["next token"].status == "ok" and not errors(found.values())


def test_a_shifted_head_loss_is_an_error(story_trainer):
    """Training computes its loss without logits, so the model's own loss is not sufficient for the check."""
    made = story_trainer()
    assert made._uses_head_loss
    made._head_loss = lambda hidden, head, labels, weights: head_loss(
        hidden, head, torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100), weights
    )
    found = by_check(check_trainer(made))["next token"]
    assert found.status == "error" and "t+2" in found.evidence


# Labels


def shifted_once_more(features):
    batch = default_data_collator(features)
    labels = torch.full_like(batch["labels"], -100)
    labels[:, :-1] = batch["input_ids"][:, 1:]
    return {**batch, "labels": labels}


def test_labels_shifted_in_the_data_and_in_the_model_are_an_error(trainer):
    found = by_check(check_trainer(trainer(collator=shifted_once_more)))
    assert found["next token"].status == "error" and "t+2" in found["next token"].evidence
    assert "once" in found["next token"].advice


def test_labels_shifted_only_in_the_data_are_ok(trainer):
    """Labels may be shifted in the data or in the model, but only once."""

    def unshifted(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())

    found = by_check(check_trainer(trainer(collator=shifted_once_more, compute_loss_func=unshifted)))
    assert found["next token"].status == "ok" and "by 1 in the data" in found["next token"].evidence
    found = by_check(check_trainer(trainer(compute_loss_func=unshifted)))
    assert found["next token"].status == "error" and "t itself" in found["next token"].evidence


def test_a_loss_that_is_not_cross_entropy_is_an_error(trainer):
    def tripled(outputs, labels, num_items_in_batch=None):
        flat = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return 3 * torch.nn.functional.cross_entropy(*flat)

    assert "next token" in errors(check_trainer(trainer(compute_loss_func=tripled)))


def test_label_smoothing_is_taken_into_account(trainer):
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), label_smoothing_factor=0.1)))
    assert found["next token"].status == "ok" and "smoothing" in found["next token"].evidence
    assert by_check(check_trainer(trainer(label_smoothing_factor=0.1)))["next token"].status == "ok"

    # transformers' label smoother shifts labels only for models in a list of names.
    class Unregistered(LlamaForCausalLM): ...

    found = by_check(check_trainer(trainer(model(Unregistered), label_smoothing_factor=0.1)))
    assert found["next token"].status == "error" and "t itself" in found["next token"].evidence


def test_scrambled_and_missing_labels_are_errors(trainer):
    def scrambled(features):
        batch = default_data_collator(features)
        return {**batch, "labels": batch["labels"].flip(0)}

    assert "labels" in errors(check_trainer(trainer(collator=scrambled)))

    def unlabelled(features):
        batch = default_data_collator(features)
        return {"input_ids": batch["input_ids"]}

    assert "labels" in errors(check_trainer(trainer(collator=unlabelled)))


def test_a_model_that_ignores_num_items_in_batch_is_an_error_with_accumulation(trainer):
    class Forgetful(LlamaForCausalLM):
        def forward(self, *args, num_items_in_batch=None, **kwargs):
            return super().forward(*args, **kwargs)

    def checked(kind):
        return by_check(check_trainer(trainer(model(kind), gradient_accumulation_steps=4)))["gradient accumulation"]

    assert checked(LlamaForCausalLM).status == "ok"
    assert checked(Forgetful).status == "error"


# The end of text, and padding


def test_a_missing_end_of_text_is_an_error(trainer, stories, tokenizer):
    whole = tokenize_stories(stories, tokenizer, "doctor")
    cut = whole.map(lambda row: {"input_ids": row["input_ids"][:-1]})
    dataset = PackedStories(cut, context=128, overlap=16, pad_token_id=1, length=256)
    found = by_check(check_trainer(trainer(dataset=dataset)))
    assert found["end of text"].status == "error" and "labels are all -100" in found["end of text"].evidence


def test_an_end_of_text_missing_in_half_of_the_stories_is_an_error(trainer, stories, tokenizer):
    whole = tokenize_stories(stories, tokenizer, "doctor")
    cut = whole.map(lambda row, at: {"input_ids": row["input_ids"][: -1 if at % 2 else None]}, with_indices=True)
    dataset = PackedStories(cut, context=128, overlap=16, pad_token_id=1, length=256)
    assert "end of text" in errors(check_trainer(trainer(dataset=dataset)))


def one_a_row(stories, tokenizer):
    """Stories as for most Trainers: one per row, with EOS after each."""
    return stories.map(
        lambda batch: tokenizer([text + tokenizer.eos_token for text in batch["text"]], truncation=True),
        batched=True,
        remove_columns=["text"],
    )


def test_one_story_per_row_with_an_attention_mask_is_ok(trainer, stories, tokenizer):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    for kind in (LlamaForCausalLM, GPT2LMHeadModel):
        found = by_check(check_trainer(trainer(model(kind), collator, one_a_row(stories, tokenizer))))
        for check in SHOWN | LEAKS:
            assert found[check].status == "ok", found[check]
        assert not errors(found.values())


def test_padding_with_eos_is_an_error(trainer, stories, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    careless = type(tokenizer).from_pretrained(tmp_path / "tokenizer")
    careless.pad_token = careless.eos_token
    collator = DataCollatorForLanguageModeling(careless, mlm=False)
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), collator, one_a_row(stories, careless), careless)))
    assert found["end of text"].status == "error" and found["padding"].status == "error"


def test_scored_padding_is_an_error(trainer):
    def scored(features):
        batch = default_data_collator(features)
        batch["input_ids"][:, -5:] = 1
        return {**batch, "labels": batch["input_ids"].clone()}

    assert "padding" in errors(check_trainer(trainer(collator=scored)))


def test_stories_that_begin_unlike_prompts_are_a_note(trainer, stories, tokenizer):
    bare = stories.map(
        lambda batch: tokenizer([text + tokenizer.eos_token for text in batch["text"]], add_special_tokens=False),
        batched=True,
        remove_columns=["text"],
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    found = check_trainer(trainer(model(LlamaForCausalLM), collator, bare))
    assert [finding for finding in found if finding.check == "beginning of text" and finding.status == "note"]


def test_a_story_scored_as_the_continuation_of_another_is_a_note(trainer):
    def all_scored(features):
        batch = default_data_collator(features)
        labels = batch["input_ids"].masked_fill(batch["input_ids"] == 1, -100)
        return {**batch, "labels": labels}

    found = check_trainer(trainer(collator=all_scored))
    assert any("continuation of another story" in finding.evidence for finding in found)
    assert not errors(found)


# Document masking


def with_mask(features):
    batch = default_data_collator(features)
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def test_an_attention_mask_over_packed_rows_leaks_in_a_stock_model(trainer):
    healthy = check_trainer(trainer(model(LlamaForCausalLM)))
    assert not errors(healthy) and by_check(healthy)["document masking (train mode)"].status == "ok"
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), with_mask)))
    for check in LEAKS:
        assert found[check].status == "error" and "attention_mask" in found[check].evidence, found[check]


def test_a_cache_leaks_in_a_stock_model_and_not_in_ours(trainer):
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), use_cache=True)))
    assert found["document masking (eval mode)"].status == "error"
    assert "use_cache" in found["document masking (eval mode)"].evidence
    assert not errors(check_trainer(trainer(use_cache=True)))


def test_packed_rows_without_position_ids_are_a_note(trainer):
    def joined(features):
        batch = default_data_collator(features)
        return {name: batch[name] for name in ("input_ids", "labels")}

    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), joined)))
    assert found["document masking (train mode)"].status == "note"
    assert "attention_mask" in found["document masking (train mode)"].advice


MASK = "document masking (attention mask)"
SHORT = {"max_length": 128, "row_length": 256}


def test_packed_attention_and_the_mask_are_both_tested(trainer, story_trainer):
    found = by_check(check_trainer(story_trainer()))
    for check in LEAKS:
        assert "story_varlen" in found[check].evidence
    assert found[MASK].status == "ok" and "sdpa" in found[MASK].evidence
    # A plain Trainer, and a model that packed attention does not support, use only the mask.
    for made in (trainer(), story_trainer(attention_dropout=0.1, **SHORT)):
        found = by_check(check_trainer(made))
        assert MASK not in found and "sdpa" in found["document masking (train mode)"].evidence


def test_a_leak_of_packed_attention_is_an_error(story_trainer, monkeypatch):
    def one_document_per_row(starts):
        return torch.arange(0, starts.numel() + 1, starts.shape[1], dtype=torch.int32)

    monkeypatch.setattr(attention, "cu_seqlens", one_document_per_row)
    found = by_check(check_trainer(story_trainer()))
    for check in LEAKS:
        assert found[check].status == "error" and "story_varlen" in found[check].evidence
    assert found[MASK].status == "ok"


def test_a_leak_of_the_mask_alone_is_a_note(story_trainer):
    class Leaking(TinyLlamaForCausalLM):
        def forward(self, input_ids=None, position_ids=None, **kwargs):
            if self.config._attn_implementation == "sdpa":
                position_ids = None
            return super().forward(input_ids, position_ids=position_ids, **kwargs)

    findings = check_trainer(story_trainer(Leaking))
    assert by_check(findings)[MASK].status == "note" and "plain Trainer" in by_check(findings)[MASK].advice
    assert not errors(findings), "this run does not use the mask"


def test_the_attention_that_runs_is_named(trainer, story_trainer):
    packed = by_check(check_trainer(story_trainer(bf16="false", **SHORT)))["attention kernel"].evidence
    assert kernel_name(torch.device("cpu"), torch.float32, 32) in packed
    assert "story_varlen" in packed and "without a mask" in packed and "documents in 4 rows of" in packed
    masked = by_check(check_trainer(trainer()))["attention kernel"].evidence
    assert "document mask of [4, 1, 256, 256]" in masked and "story_varlen" not in masked
    dropout = by_check(check_trainer(story_trainer(attention_dropout=0.1, **SHORT)))["attention kernel"]
    assert dropout.status == "note" and "attention dropout" in dropout.evidence


def test_a_model_without_a_causal_mask_is_an_error(trainer):
    class Seeing(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            length = input_ids.shape[1]
            return super().forward(
                input_ids,
                attention_mask=torch.zeros(len(input_ids), 1, length, length),
                labels=labels,
                use_cache=False,
            )

    assert "causal mask" in errors(check_trainer(trainer(model(Seeing))))


def test_dropout_is_not_a_leak(trainer):
    found = by_check(check_trainer(trainer(model(attention_dropout=0.3))))
    assert found["document masking (train mode)"].status == "ok", found
    assert not errors(found.values())


# Vocabulary, machine, and inconclusive checks


def test_a_vocabulary_larger_than_the_embeddings_is_an_error(trainer):
    network = model()
    network.resize_token_embeddings(400)
    found = check_trainer(trainer(network))
    assert "vocabulary size" in errors(found)


def test_a_trainer_without_a_tokenizer(trainer):
    found = by_check(check_trainer(trainer(processing_class=None)))
    assert found["end of text"].status == "inconclusive"
    assert found["next token"].status == "ok" and found["document masking (train mode)"].status == "ok"


def test_an_adapter_of_peft_is_checked_like_its_model(trainer):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    found = check_trainer(trainer(peft.get_peft_model(model(LlamaForCausalLM), settings)), quick=False)
    assert not {finding.status for finding in found} & {"error", "inconclusive"}


def test_a_model_that_fails_is_inconclusive(trainer):
    class Broken(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            raise RuntimeError("no such kernel")

    found = by_check(check_trainer(trainer(model(Broken))))
    assert found["next token"].status == "inconclusive" and "no such kernel" in found["next token"].evidence
    assert found["labels"].status == "ok"


def test_too_little_memory_or_disk_is_an_error(trainer, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**20)
    usage = type("usage", (), {"free": 10_000})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: usage)
    assert {"memory", "disk"} <= errors(check_trainer(trainer()))


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"max_steps": 9, "save_steps": 2, "save_total_limit": None}, 5),
        ({"max_steps": 9, "save_steps": 0.3, "save_total_limit": None}, 3),
        ({"max_steps": 9, "save_steps": 2, "save_total_limit": 2}, 3),
        ({"max_steps": 9, "save_steps": 5, "save_total_limit": 2}, 2),
        ({"max_steps": -1, "num_train_epochs": 2.5, "save_strategy": "epoch", "save_total_limit": None}, 3),
        ({"max_steps": 9, "save_strategy": "epoch", "save_total_limit": None}, None),
        ({"max_steps": 9, "save_strategy": "no"}, 0),
    ],
    ids=str,
)
def test_most_checkpoints_on_the_disk(trainer, settings, most):
    args = trainer(**settings).args
    assert machine.checkpoints_at_once(args, args.max_steps)[1] == most


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("ours", [False, True])
def test_the_best_checkpoint_is_counted_as_each_trainer_keeps_it(
    trainer, story_trainer, rows, monkeypatch, limit, ours
):
    """The loss falls, and the highest loss counts as the best, so the best checkpoint is the first one."""
    settings = {"max_steps": 5, "eval_steps": 1, "save_steps": 1, "save_total_limit": limit, "learning_rate": 1e-3}
    settings |= {"eval_strategy": "steps", "load_best_model_at_end": True, "greater_is_better": True}
    held_out = torch.utils.data.Subset(rows, range(8))
    made = story_trainer(**settings, **SHORT) if ours else trainer(**settings, eval_dataset=held_out)
    owner, name = (checkpoints, "delete_oldest") if ours else (transformers.trainer, "rotate_checkpoints")
    delete, counts = getattr(owner, name), []

    def count_and_delete(*args, **kwargs):
        counts.append(len(find_checkpoints(Path(made.args.output_dir))))
        delete(*args, **kwargs)

    monkeypatch.setattr(owner, name, count_and_delete)
    made.train()
    assert made.state.best_global_step == 1
    assert max(counts) == machine.checkpoints_at_once(made.args, 5, best_beside=ours)[1]


def test_memory_grows_with_the_batch_and_states_with_the_optimizer(trainer):
    def bytes_of(count):
        made = trainer(per_device_train_batch_size=count)
        rows = find_stories(take_batches(made)[0], 0, 1)
        return memory.peak_bytes(made, rows, forward_and_backward, count, whole=True)[0]

    assert bytes_of(8) - bytes_of(4) == pytest.approx(4 * (bytes_of(2) - bytes_of(1)), rel=0.01)
    made = trainer()
    weights = sum(weight.numel() * 4 for weight in made.model.parameters())
    assert memory.optimizer_bytes(made.model, made.args, muon=False) == 2 * weights
    assert weights < memory.optimizer_bytes(made.model, made.args, muon=True) < 2 * weights


def test_bf16_fragments_more_memory_on_a_cpu(trainer):
    figures = {bf16: by_check(check_trainer(trainer(bf16=bf16)))["memory"].evidence for bf16 in (False, True)}
    assert "plus 30% for the allocator" in figures[False] and "plus 80% for the allocator" in figures[True]


def test_memory_is_that_of_a_loss_without_logits(trainer, story_trainer):
    """With few rows, the loss stores all logits at once, so that each further row would seem to add its logits."""
    made = story_trainer(per_device_train_batch_size=48, row_length=512, max_stories=300)
    rows = find_stories(take_batches(made)[0], 0, 1).select(range(48))
    estimated, _ = memory.peak_bytes(made, rows, forward_and_backward, 48, whole=True)
    with Recorder([*made.model.parameters(), *rows.inputs.values()]) as recorder:
        forward_and_backward(made, rows.inputs)
    assert recorder.attends_per_document
    assert estimated == pytest.approx(recorder.peak, rel=0.05)
    assert "without storing all logits" in by_check(check_trainer(made))["memory"].evidence
    assert "with all logits" in by_check(check_trainer(trainer()))["memory"].evidence


def test_time_is_measured_with_packed_attention_and_leaves_no_gradients(story_trainer):
    made = story_trainer()
    model, rows = made.model, find_stories(take_batches(made)[0], 0, 1)
    with Recorder() as recorder:
        machine.measure_step(made, rows)
    assert recorder.attends_per_document
    assert made.model is model and made.optimizer is None
    assert all(weight.grad is None for weight in model.parameters())


def test_without_quick_steps_are_timed_on_a_copy(trainer):
    made = trainer()
    before = {name: weight.clone() for name, weight in made.model.named_parameters()}
    found = by_check(check_trainer(made, quick=False))
    assert found["time"].status == "ok" and "estimate" in found["time"].evidence
    assert "time" not in by_check(check_trainer(made))
    assert made.optimizer is None
    assert all(torch.equal(weight, before[name]) for name, weight in made.model.named_parameters())


# The trainer after the checks


def test_the_trainer_is_unchanged(trainer):
    made = trainer(model(attention_dropout=0.2))
    made.model.eval()
    made.model.model.layers[0].train()
    weights = {name: value.clone() for name, value in made.model.state_dict().items()}
    modes = [module.training for module in made.model.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    check_trainer(made, quick=False)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [module.training for module in made.model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in made.model.state_dict().items())
    assert all(weight.grad is None for weight in made.model.parameters())
    assert made.accelerator._dataloaders == [] and made.optimizer is None
    assert not made.accelerator.gradient_state.in_dataloader


def test_training_after_the_checks_is_the_same_as_without(trainer):
    losses = []
    for checked in (False, True):
        torch.manual_seed(3)
        made = trainer(model(attention_dropout=0.2), logging_steps=1, gradient_accumulation_steps=2)
        if checked:
            check_trainer(made)
        made.train()
        losses.append([entry["loss"] for entry in made.state.log_history if "loss" in entry])
    assert len(losses[0]) == 4 and losses[0] == losses[1]


def test_a_stream_is_checked_and_begins_again(story_trainer):
    made = story_trainer(streaming=True, max_steps=4)
    first = next(iter(made.train_dataset))["input_ids"]
    found = by_check(check_trainer(made))
    assert not errors(found.values()) and found["document masking (train mode)"].status == "ok"
    assert "setting: epochs" not in found, "a stream has no known length"
    assert torch.equal(next(iter(made.train_dataset))["input_ids"], first)
