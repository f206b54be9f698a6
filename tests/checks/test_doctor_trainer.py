"""`check_trainer`: what is proven of a Trainer before its first step, with a control for each fault."""

import random

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.checks import batches, check_trainer, has_error, machine
from tinystories.checks import training_step as step
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import PackedStories, tokenize_stories
from tinystories.tokenization import train_bpe
from tinystories.training import build as training
from tinystories.training.arguments import training_arguments


@pytest.fixture(scope="module")
def stories():
    """The beginnings of sample stories: short enough that many stand in a row."""
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
        options = {name: settings.pop(name) for name in ("compute_loss_func",) if name in settings}
        return Trainer(
            model=network or model(),
            args=TrainingArguments(**settings),
            train_dataset=dataset,
            data_collator=collator,
            processing_class=processing_class,
            **options,
        )

    return make


def by_check(findings):
    return {finding.check: finding for finding in findings}


def errors(findings):
    return {finding.check for finding in findings if finding.status == "error"}


PROVEN = {"labels", "end of text", "padding", "beginning of text", "next token", "looking ahead"}
LEAKS = {"leak between stories (train mode)", "leak between stories (eval mode)"}


def test_a_healthy_trainer_is_proven(trainer):
    found = by_check(check_trainer(trainer()))
    for check in PROVEN | LEAKS | {"vocabulary size", "memory", "disk", "attention kernel"}:
        assert found[check].status == "ok", found[check]
    assert "t+1" in found["next token"].evidence
    assert not has_error(found.values())
    assert not [finding for finding in found.values() if finding.status == "inconclusive"]


def test_the_trainer_of_a_recipe_is_healthy(tiny_recipe):
    recipe = tiny_recipe(max_stories=60, max_length=512, gradient_accumulation_steps=2)
    corpus = load_corpus("sample", max_stories=60, max_validation_stories=10)
    tokenizer = train_bpe(corpus.train["text"][:], 600, progress=False)
    arguments = training_arguments(recipe)
    rows, held_out = training.pack_corpus(corpus, tokenizer, recipe, 0)
    network = TinyLlamaForCausalLM(training.model_config(recipe, tokenizer))
    trainer = training.build_trainer(recipe, arguments, network, tokenizer, rows, held_out)
    found = by_check(check_trainer(trainer))
    assert not errors(found.values())
    for check in PROVEN | LEAKS | {"gradient accumulation"}:
        assert found[check].status == "ok", found[check]


def test_weighted_articles_are_a_note_and_no_fault(tiny_recipe):
    recipe = tiny_recipe(max_stories=60, article_loss_weight=1.5)
    corpus = load_corpus("sample", max_stories=60, max_validation_stories=10)
    tokenizer = train_bpe(corpus.train["text"][:], 600, progress=False)
    rows, held_out = training.pack_corpus(corpus, tokenizer, recipe, 0)
    network = TinyLlamaForCausalLM(training.model_config(recipe, tokenizer))
    trainer = training.build_trainer(recipe, training_arguments(recipe), network, tokenizer, rows, held_out)
    found = by_check(check_trainer(trainer))
    assert found["loss"].status == "note" and "1.5" in found["loss"].evidence
    assert found["next token"].status == "ok" and not errors(found.values())


# Labels


def shifted_once_more(features):
    batch = default_data_collator(features)
    labels = torch.full_like(batch["labels"], -100)
    labels[:, :-1] = batch["input_ids"][:, 1:]
    return {**batch, "labels": labels}


def test_labels_shifted_in_the_data_and_in_the_model_are_a_fault(trainer):
    found = by_check(check_trainer(trainer(collator=shifted_once_more)))
    assert found["next token"].status == "error" and "t+2" in found["next token"].evidence
    assert "once" in found["next token"].advice


def test_labels_shifted_in_the_data_alone_are_right(trainer):
    """What counts is that they are shifted once, not where."""

    def unshifted(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())

    found = by_check(check_trainer(trainer(collator=shifted_once_more, compute_loss_func=unshifted)))
    assert found["next token"].status == "ok" and "once in the data" in found["next token"].evidence
    found = by_check(check_trainer(trainer(compute_loss_func=unshifted)))
    assert found["next token"].status == "error" and "t itself" in found["next token"].evidence


def test_a_loss_that_is_no_cross_entropy_of_any_token_is_a_fault(trainer):
    def tripled(outputs, labels, num_items_in_batch=None):
        flat = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return 3 * torch.nn.functional.cross_entropy(*flat)

    assert "next token" in errors(check_trainer(trainer(compute_loss_func=tripled)))


def test_label_smoothing_is_taken_into_account(trainer):
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), label_smoothing_factor=0.1)))
    assert found["next token"].status == "ok" and "smoothing" in found["next token"].evidence
    assert by_check(check_trainer(trainer(label_smoothing_factor=0.1)))["next token"].status == "ok"

    # transformers' label smoother shifts for the models that it knows by name.
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


def test_a_model_that_drops_the_count_of_tokens_is_a_fault_under_accumulation(trainer):
    class Forgetful(LlamaForCausalLM):
        def forward(self, *args, num_items_in_batch=None, **kwargs):
            return super().forward(*args, **kwargs)

    def checked(kind):
        return by_check(check_trainer(trainer(model(kind), gradient_accumulation_steps=4)))["gradient accumulation"]

    assert checked(LlamaForCausalLM).status == "ok"
    assert checked(Forgetful).status == "error"


# The end of text, and padding


def test_a_dropped_end_of_text_is_a_fault(trainer, stories, tokenizer):
    whole = tokenize_stories(stories, tokenizer, "doctor")
    cut = whole.map(lambda row: {"input_ids": row["input_ids"][:-1]})
    dataset = PackedStories(cut, context=128, overlap=16, pad_token_id=1, length=256)
    found = by_check(check_trainer(trainer(dataset=dataset)))
    assert found["end of text"].status == "error" and "never trained" in found["end of text"].evidence


def test_an_end_of_text_that_half_of_the_stories_lack_is_a_fault(trainer, stories, tokenizer):
    whole = tokenize_stories(stories, tokenizer, "doctor")
    cut = whole.map(lambda row, at: {"input_ids": row["input_ids"][: -1 if at % 2 else None]}, with_indices=True)
    dataset = PackedStories(cut, context=128, overlap=16, pad_token_id=1, length=256)
    assert "end of text" in errors(check_trainer(trainer(dataset=dataset)))


def one_a_row(stories, tokenizer):
    """Stories as most people give them to a Trainer: one a row, an end of text behind each."""
    return stories.map(
        lambda batch: tokenizer([text + tokenizer.eos_token for text in batch["text"]], truncation=True),
        batched=True,
        remove_columns=["text"],
    )


def test_one_story_a_row_with_a_mask_is_proven_too(trainer, stories, tokenizer):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    for kind in (LlamaForCausalLM, GPT2LMHeadModel):
        found = by_check(check_trainer(trainer(model(kind), collator, one_a_row(stories, tokenizer))))
        for check in PROVEN | LEAKS:
            assert found[check].status == "ok", found[check]
        assert not errors(found.values())


def test_padding_with_the_end_of_text_is_a_fault(trainer, stories, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    careless = type(tokenizer).from_pretrained(tmp_path / "tokenizer")
    careless.pad_token = careless.eos_token
    collator = DataCollatorForLanguageModeling(careless, mlm=False)
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), collator, one_a_row(stories, careless), careless)))
    assert found["end of text"].status == "error" and found["padding"].status == "error"


def test_scored_padding_is_a_fault(trainer):
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


def test_first_tokens_that_are_scored_behind_another_story_are_a_note(trainer):
    def all_scored(features):
        batch = default_data_collator(features)
        labels = batch["input_ids"].masked_fill(batch["input_ids"] == 1, -100)
        return {**batch, "labels": labels}

    found = check_trainer(trainer(collator=all_scored))
    assert any("continuation of another story" in finding.evidence for finding in found)
    assert not errors(found)


# Who sees whom


def with_mask(features):
    batch = default_data_collator(features)
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def test_a_mask_of_ones_over_packed_rows_is_a_leak_in_a_stock_model(trainer):
    healthy = check_trainer(trainer(model(LlamaForCausalLM)))
    assert not errors(healthy) and by_check(healthy)["leak between stories (train mode)"].status == "ok"
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), with_mask)))
    for check in LEAKS:
        assert found[check].status == "error" and "attention_mask" in found[check].evidence, found[check]


def test_a_cache_is_a_leak_in_a_stock_model_and_none_in_ours(trainer):
    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), use_cache=True)))
    assert found["leak between stories (eval mode)"].status == "error"
    assert "use_cache" in found["leak between stories (eval mode)"].evidence
    assert not errors(check_trainer(trainer(use_cache=True)))


def test_stories_behind_one_another_without_positions_are_a_note(trainer):
    def joined(features):
        batch = default_data_collator(features)
        return {name: batch[name] for name in ("input_ids", "labels")}

    found = by_check(check_trainer(trainer(model(LlamaForCausalLM), joined)))
    assert found["leak between stories (train mode)"].status == "note"
    assert "attention_mask" in found["leak between stories (train mode)"].advice


def test_a_model_that_sees_the_future_is_a_fault(trainer):
    class Seeing(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            length = input_ids.shape[1]
            return super().forward(
                input_ids,
                attention_mask=torch.zeros(len(input_ids), 1, length, length),
                labels=labels,
                use_cache=False,
            )

    assert "looking ahead" in errors(check_trainer(trainer(model(Seeing))))


def test_dropout_is_no_leak(trainer):
    found = by_check(check_trainer(trainer(model(attention_dropout=0.3))))
    assert found["leak between stories (train mode)"].status == "ok", found
    assert not errors(found.values())


# Vocabulary, machine, and what cannot be told


def test_a_vocabulary_larger_than_the_model_is_a_fault(trainer):
    network = model()
    network.resize_token_embeddings(400)
    found = check_trainer(trainer(network))
    assert "vocabulary size" in errors(found)


def test_a_trainer_without_a_tokenizer_is_checked_as_far_as_it_can_be(trainer):
    found = by_check(check_trainer(trainer(processing_class=None)))
    assert found["end of text"].status == "inconclusive"
    assert found["next token"].status == "ok" and found["leak between stories (train mode)"].status == "ok"


def test_what_breaks_in_a_check_is_something_that_cannot_be_told(trainer):
    class Broken(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            raise RuntimeError("no such kernel")

    found = by_check(check_trainer(trainer(model(Broken))))
    assert found["next token"].status == "inconclusive" and "no such kernel" in found["next token"].evidence
    assert found["labels"].status == "ok"


def test_too_little_memory_or_disk_is_a_fault(trainer, monkeypatch):
    monkeypatch.setattr(step, "free_memory", lambda device: 2**20)
    usage = type("usage", (), {"free": 10_000})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: usage)
    assert {"memory", "disk"} <= errors(check_trainer(trainer()))


def test_memory_grows_with_the_batch_and_states_with_the_optimizer(trainer):
    def bytes_of(count):
        made = trainer(per_device_train_batch_size=count)
        rows = batches.find_stories(batches.take_batches(made)[0], 0, 1)
        return step.peak_bytes(made, rows, step.forward_and_backward, count, whole=True)[0]

    assert bytes_of(8) - bytes_of(4) == pytest.approx(4 * (bytes_of(2) - bytes_of(1)), rel=0.01)
    made = trainer()
    weights = sum(weight.numel() * 4 for weight in made.model.parameters())
    assert step.optimizer_bytes(made.model, made.args, None) == 2 * weights
    assert weights < step.optimizer_bytes(made.model, made.args, "muon") < 2 * weights


def test_without_quick_real_steps_are_measured_and_leave_nothing_behind(trainer):
    made = trainer()
    before = {name: weight.clone() for name, weight in made.model.named_parameters()}
    found = by_check(check_trainer(made, quick=False))
    assert found["time"].status == "ok" and "estimate" in found["time"].evidence
    assert "time" not in by_check(check_trainer(made))
    assert made.optimizer is None
    assert all(torch.equal(weight, before[name]) for name, weight in made.model.named_parameters())


# Nothing is left behind


def test_everything_is_left_as_it_was(trainer):
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


def test_training_after_the_check_is_training_without_it(trainer):
    losses = []
    for checked in (False, True):
        torch.manual_seed(3)
        made = trainer(model(attention_dropout=0.2), logging_steps=1, gradient_accumulation_steps=2)
        if checked:
            check_trainer(made)
        made.train()
        losses.append([entry["loss"] for entry in made.state.log_history if "loss" in entry])
    assert len(losses[0]) == 4 and losses[0] == losses[1]


def test_a_stream_is_checked_and_begins_again(tiny_recipe):
    recipe = tiny_recipe(max_stories=200, max_length=512, streaming=True, max_steps=4)
    corpus = load_corpus("sample", max_stories=200, max_validation_stories=10, streaming=True)
    tokenizer = train_bpe((story["text"] for story in corpus.train), 600, progress=False)
    rows, held_out = training.pack_corpus(corpus, tokenizer, recipe, 0)
    network = TinyLlamaForCausalLM(training.model_config(recipe, tokenizer))
    trainer = training.build_trainer(recipe, training_arguments(recipe), network, tokenizer, rows, held_out)
    first = next(iter(rows))["input_ids"]
    found = by_check(check_trainer(trainer))
    assert not errors(found.values()) and found["leak between stories (train mode)"].status == "ok"
    assert "setting: epochs" not in found, "a stream has no known length"
    assert torch.equal(next(iter(rows))["input_ids"], first)
