"""`examine` and `tinystories doctor` on recipes, runs, stock models and stories, healthy and broken."""

import json
import os
import re
import shutil

import datasets
import pytest
import torch
from helpers import by_check, errors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from tinystories.checks import examine, vocabulary
from tinystories.checks.loss import check_model_shift
from tinystories.checks.prediction_offset import check_beginning, check_objective
from tinystories.cli import main
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import PackedStories, tokenize_stories
from tinystories.export.wikimini import BLOCK_NAMES
from tinystories.recipe import save_recipe
from tinystories.runs.loading import load_tokenizer
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of short stories: the beginnings of sample stories."""
    folder = tmp_path_factory.mktemp("stories")
    whole = load_corpus("sample", max_stories=400, max_validation_stories=40)
    for split in ("train", "validation"):
        texts = [". ".join(story.split(". ")[:4]) + "." for story in getattr(whole, split)["text"]]
        datasets.Dataset.from_dict({"text": texts}).to_json(folder / f"{split}.jsonl")
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_bpe(load_corpus(str(corpus)).train["text"][:], 500, model_max_length=128, progress=False)


def train_stock(network, rows, tokenizer, folder, collator=default_data_collator, steps=90, **settings):
    """A function that trains a stock model with a stock Trainer and saves it."""
    arguments = {"learning_rate": 1e-2, "max_steps": steps, "logging_steps": 5, "warmup_steps": 5, **settings}
    trainer = Trainer(
        model=network,
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=8,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=rows,
        data_collator=collator,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return folder


def packed(corpus, tokenizer, eos=True):
    stories = tokenize_stories(load_corpus(str(corpus)).train, tokenizer, "doctor")
    if not eos:
        stories = stories.map(lambda row: {"input_ids": row["input_ids"][:-1]})
    return PackedStories(stories, context=128, overlap=16, pad_token_id=1, length=192)


SHAPE = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"max_position_embeddings": 192, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


@pytest.fixture(scope="module")
def shifted_twice(corpus, tokenizer, tmp_path_factory):
    """A Llama whose labels were shifted in the data and again in the model."""

    def collate(features):
        batch = default_data_collator(features)
        labels = torch.full_like(batch["labels"], -100)
        labels[:, :-1] = batch["labels"][:, 1:]
        return {**batch, "labels": labels}

    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=128))
    folder = tmp_path_factory.mktemp("runs") / "shifted"
    return train_stock(network, packed(corpus, tokenizer), tokenizer, folder, collate)


@pytest.fixture(scope="module")
def endless(corpus, tokenizer, tmp_path_factory):
    """A GPT-2 trained without EOS, with a schedule that restarts."""
    torch.manual_seed(0)
    return train_stock(
        GPT2LMHeadModel(GPT2Config(**SHAPE)),
        packed(corpus, tokenizer, eos=False),
        tokenizer,
        tmp_path_factory.mktemp("runs") / "endless",
        lr_scheduler_type="cosine_with_restarts",
        lr_scheduler_kwargs={"num_cycles": 2},
        learning_rate=5e-3,
    )


# Trained models


def test_a_healthy_run_has_no_error(tiny_run):
    found = by_check(examine(tiny_run, quick=True, limit=100))
    assert not errors(found.values())
    for check in ("objective", "label shift in the model", "next token", "end of text", "stopping", "learning rate"):
        assert found[check].status == "ok", found[check]
    for check in ("learning rate and recipe", "best checkpoint", "document masking (train mode)", "padding"):
        assert found[check].status == "ok", found[check]
    assert found["validation curve"].status == "note" and "still falling" in found["validation curve"].evidence
    assert "120 steps" in found["tokens seen"].evidence
    could_not = [finding for finding in found.values() if "the check failed" in finding.evidence]
    assert not could_not


def test_labels_shifted_twice_in_training_are_found_in_the_model(shifted_twice, corpus):
    found = by_check(examine(shifted_twice, corpus=str(corpus), quick=True))
    assert found["objective"].status == "error" and "after the next" in found["objective"].evidence
    assert found["label shift in the model"].status == "ok", "the model is stock: it was the data"
    assert found["settings"].status == "inconclusive" and found["validation curve"].status == "inconclusive"
    assert found["learning rate"].status == "ok"


def test_an_untrained_eos_and_a_restarting_schedule_are_found(endless, corpus):
    found = by_check(examine(endless, corpus=str(corpus), quick=True))
    assert found["objective"].status == "ok"
    assert found["stopping"].status == "error" and "not learnt to stop" in found["stopping"].evidence
    assert found["learning rate"].status == "error" and "restarts" in found["learning rate"].evidence


def test_an_untrained_stock_model_is_inconclusive(corpus, tokenizer, tmp_path):
    torch.manual_seed(0)
    for name, network in (
        ("gpt2", GPT2LMHeadModel(GPT2Config(**SHAPE))),
        ("llama", LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=128, tie_word_embeddings=True))),
    ):
        network.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        found = by_check(examine(tmp_path / name, corpus=str(corpus), quick=True))
        assert found["objective"].status == "inconclusive" and "stopping" not in found
        assert (
            found["training log"].status == "inconclusive" and "trainer_state.json" in found["training log"].evidence
        )
        assert found["label shift in the model"].status == "ok" and not errors(found.values())


def test_a_model_that_repeats_its_input_is_an_error(corpus, tokenizer, tmp_path):
    """A model trained on labels that were never shifted."""

    def loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())

    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=128))
    rows = packed(corpus, tokenizer)
    trainer = Trainer(
        model=network,
        args=TrainingArguments(
            str(tmp_path), max_steps=40, learning_rate=1e-2, report_to="none", disable_tqdm=True, use_cpu=True
        ),
        train_dataset=rows,
        data_collator=default_data_collator,
        compute_loss_func=loss,
    )
    trainer.train()
    stories = load_corpus(str(corpus)).validation["text"][:20]
    [found] = check_objective(network, tokenizer, stories)
    assert found.status == "error" and "predicts the current token" in found.evidence


def test_a_model_that_shifts_labels_twice_is_an_error(tokenizer):
    class Twice(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            moved = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
            return super().forward(input_ids, labels=moved, **kwargs)

    torch.manual_seed(0)
    for kind, status in ((LlamaForCausalLM, "ok"), (Twice, "error")):
        network = kind(LlamaConfig(**SHAPE, intermediate_size=128))
        story = "Once upon a time there was a small red fox. He lived in a wood. One day he saw the moon."
        assert check_model_shift(network, tokenizer, story)[0].status == status


def test_a_start_token_that_prompts_lack_is_a_note(tiny_run):
    network, known = AutoModelForCausalLM.from_pretrained(tiny_run), AutoTokenizer.from_pretrained(tiny_run)
    stories = load_corpus("sample", max_stories=2, max_validation_stories=40).validation["text"][:]
    assert check_beginning(network, known, stories)[0].status == "ok"
    known.backend_tokenizer.post_processor = None
    [found] = check_beginning(network, known, stories)
    assert found.status == "note" and "does not add it in front of prompts" in found.evidence


def test_a_tokenizer_of_another_model_is_an_error(tiny_run, tmp_path):
    larger = train_bpe(load_corpus("sample", max_stories=400).train["text"][:], 2_000, progress=False)
    larger.save_pretrained(tmp_path)
    found = by_check(examine(tiny_run, tokenizer=str(tmp_path), quick=True, limit=50))
    assert found["objective"].status == "error" and "not the tokenizer" in found["objective"].advice
    assert found["vocabulary size"].status == "error"
    # Not looked up: on a GPU, the process could compute nothing afterwards.
    assert "ids that the model does not have" in found["label shift in the model"].evidence


def test_a_checkpoint_of_llm_tinystories_is_examined_with_its_tokenizer(tiny_run, tmp_path):
    """The weights of a healthy run under the names of karthyick/llm_tinystories."""
    network = AutoModelForCausalLM.from_pretrained(tiny_run)
    names = {ours: theirs for theirs, ours in BLOCK_NAMES.items()}
    weights = {}
    for name, tensor in network.state_dict().items():
        name = re.sub(
            r"^model\.layers\.(\d+)\.(.+)\.weight$", lambda at: f"blocks.{at[1]}.{names[at[2]]}.weight", name
        )
        name = name.replace("model.embed_tokens", "token_embedding").replace("model.norm", "final_norm")
        weights[name] = tensor
    config = {"n_heads": 2, "max_seq_len": 128, "rope_percentage": 0.5, "rms_norm_eps": 1e-6, "rope_base": 10_000}
    torch.save({"model_state_dict": weights, "config": {"model": config}}, tmp_path / "model.pth")
    found = by_check(examine(tmp_path / "model.pth", tokenizer=str(tiny_run), quick=True))
    assert found["objective"].status == "ok" and found["stopping"].status == "ok", found
    assert found["corpus"].status == "inconclusive", "no stories were named"


# Runs and recipes


def test_a_checkpoint_that_is_not_the_best_is_an_error(tiny_run):
    found = by_check(examine(tiny_run / "checkpoint-60", quick=True, limit=50))
    assert found["best checkpoint"].status == "error" and "checkpoint-120" in found["best checkpoint"].advice
    assert found["training length"].status == "note"
    assert examine(tiny_run / "checkpoint-120", quick=True, limit=50)[-1].status == "ok"


def test_missing_and_damaged_files_are_inconclusive(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / "trainer_state.json").write_text('{"log_history": [')
    found = by_check(examine(folder, quick=True, limit=50))
    assert found["training log"].status == "inconclusive" and found["objective"].status == "ok"
    (folder / "recipe.yaml").unlink()
    (folder / "trainer_state.json").unlink()
    found = by_check(examine(folder, quick=True, limit=50))
    assert found["settings"].status == found["training log"].status == found["corpus"].status == "inconclusive"
    assert found["objective"].status == "ok" and not errors(found.values())


def test_a_log_that_does_not_match_its_recipe_is_an_error(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.001"))
    found = by_check(examine(folder, quick=True, limit=50))
    assert found["learning rate"].status == "ok"
    assert found["learning rate and recipe"].status == "error"


def test_a_recipe_is_checked_with_memory_disk_and_time(tiny_recipe, tmp_path):
    save_recipe(tiny_recipe(max_length=512, row_length=1024, max_stories=100), tmp_path / "tiny.yaml")
    found = by_check(examine(tmp_path / "tiny.yaml", limit=50))
    assert not errors(found.values())
    for check in ("next token", "document masking (eval mode)", "memory", "disk", "time", "attention kernel"):
        assert found[check].status == "ok", found[check]
    assert str(tmp_path) in found["disk"].evidence
    assert not (tmp_path / "run").exists(), "nothing is written to the output folder"
    assert "time" not in by_check(examine(tmp_path / "tiny.yaml", limit=50, quick=True))


def test_the_length_of_a_run_is_computed_for_the_whole_corpus(tiny_recipe, tmp_path):
    recipe = tiny_recipe(num_train_epochs=2, max_steps=-1, max_stories=300)
    save_recipe(recipe, tmp_path / "tiny.yaml")
    counted = [
        by_check(examine(tmp_path / "tiny.yaml", limit=limit, quick=True))["setting: total tokens"].here
        for limit in (100, 300)
    ]
    sampled, whole = (float(count.split()[0].replace(",", "")) for count in counted)
    assert sampled == pytest.approx(whole, rel=0.1)


def test_an_unavailable_corpus_is_inconclusive(tiny_recipe, tmp_path):
    save_recipe(tiny_recipe(corpus="nobody/no-such-stories", max_steps=-1), tmp_path / "tiny.yaml")
    found = by_check(examine(tmp_path / "tiny.yaml", quick=True, limit=50))
    assert found["corpus"].status == "inconclusive" and "built-in sample stories are used" in found["corpus"].evidence
    assert found["next token"].status == "ok" and found["memory"].status == "ok"
    assert "setting: total tokens" not in found, "of a corpus that is not there, no length is known"
    with pytest.raises(UserError):
        examine(tmp_path / "tiny.yaml", corpus="no/such/folder/at-all")


def test_a_tokenizer_that_pads_with_eos_is_an_error(tiny_recipe, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "pad_token": config["eos_token"]}))
    save_recipe(tiny_recipe(tokenizer=tmp_path / "tokenizer"), tmp_path / "tiny.yaml")
    assert "special tokens" in errors(examine(tmp_path / "tiny.yaml", quick=True, limit=50))


def test_a_tokenizer_without_a_pad_token_is_completed_as_in_training(tiny_recipe, tokenizer, tmp_path):
    """As GPT-2's is saved."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": None}))
    save_recipe(tiny_recipe(tokenizer=tmp_path / "tokenizer", max_stories=100), tmp_path / "tiny.yaml")
    found = by_check(examine(tmp_path / "tiny.yaml", quick=True, limit=50))
    assert not errors(found.values()) and found["padding"].status == found["next token"].status == "ok"
    assert found["special tokens"].status == "note"
    assert "`tinystories train` adds <|padding|>" in found["special tokens"].evidence
    [alone] = vocabulary.check_special_tokens(load_tokenizer(tmp_path / "tokenizer"))
    code = re.search(r"for other trainers, `(.*)`", alone.advice)[1]
    completed = load_tokenizer(tmp_path / "tokenizer")
    eval(code, {"tokenizer": completed})
    assert vocabulary.check_special_tokens(completed)[0].status == "ok"


# The command


@pytest.fixture
def doctor(capsys):
    """Runs the command and returns its exit status, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        status = main(["doctor", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_the_command_exits_with_0_or_1_and_prints_one_line_per_finding(doctor, tiny_run, shifted_twice, corpus):
    status, out, _ = doctor(tiny_run, "--quick", "--limit", 50)
    assert status == 0
    assert "ok            objective: " in out and "llama2.c: github.com/karpathy/llama2.c" in out
    assert re.match(r"[234]\d ok, ", out.splitlines()[-1]) and " 0 error" in out.splitlines()[-1]
    status, out, _ = doctor(shifted_twice, "--corpus", corpus, "--quick", "--limit", 50)
    assert status == 1 and "error         objective: " in out and "1 error" in out


def test_with_json_nothing_else_is_printed(doctor, tiny_run):
    status, out, _ = doctor(tiny_run, "--quick", "--limit", 50, "--json")
    found = json.loads(out)
    assert status == 0 and {"check", "status", "evidence", "advice"} <= set(found[0])
    assert {entry["status"] for entry in found} <= {"ok", "error", "inconclusive", "note"}
    rates = next(entry for entry in found if entry["check"] == "setting: learning rate")
    assert rates["published"]["llama2.c"] == "5e-4"


@pytest.mark.parametrize(
    "arguments",
    [
        ("no/such/recipe.yaml",),
        ("no-such-run",),
        ("no-such.pth",),
        ("here.pth", "--tokenizer", "no/such/tokenizer/at-all"),
        ("here.pth",),
        ("RUN", "--corpus", "no-such-stories.txt"),
        ("RUN", "--tokenizer", "no/such/tokenizer/at-all"),
        ("RUN", "--limit", "0"),
        ("empty",),
        ("unfinished",),
        ("damaged",),
        ("damaged", "--tokenizer", "RUN"),
    ],
)
def test_bad_input_is_one_line_and_status_2(doctor, tiny_run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here.pth").write_bytes(b"not a checkpoint")
    shutil.copytree(tiny_run / "checkpoint-60", tmp_path / "unfinished" / "checkpoint-60")
    shutil.copytree(tiny_run / "checkpoint-60", tmp_path / "damaged")
    os.truncate(tmp_path / "damaged" / "model.safetensors", 10_000)
    status, out, err = doctor(*(str(tiny_run) if argument == "RUN" else argument for argument in arguments))
    messages = [line for line in err.splitlines() if line.startswith("tinystories: ")]
    assert status == 2 and len(messages) == 1 and "Traceback" not in err and not out
    if arguments == ("unfinished",):
        assert "checkpoint-60" in messages[0]


def test_stories_are_checked_and_cleaned(doctor, tmp_path):
    good = [
        f"Once upon a time there was a fox called {name}. He ran and ran, and then he went home to the {place}. He "
        f"said to his mother that it was a good day, and she was happy that he was there with her."
        for name in ("Tim", "Tom", "Sam", "Max", "Ben", "Leo")
        for place in ("wood", "hill", "lake", "farm", "town")
    ]
    stories = tmp_path / "stories"

    def write(*more):
        shutil.rmtree(stories, ignore_errors=True)
        stories.mkdir()
        datasets.Dataset.from_dict({"text": [*good[5:], *more]}).to_json(stories / "train.jsonl")
        datasets.Dataset.from_dict({"text": good[:5]}).to_json(stories / "validation.jsonl")

    write()
    assert doctor(stories)[0] == 0
    # A warning, which is an error with --strict.
    write("Too short. ")
    assert doctor(stories)[0] == 0 and doctor(stories, "--strict")[0] == 1
    broken = good[0].replace("fox", "<b>fox</b>").replace("Tim", "Kim")
    write(broken)
    status, out, _ = doctor(stories, "--limit", 100)
    assert status == 1 and "error         text: html" in out
    status, out, err = doctor(stories, "--clean", tmp_path / "clean", "--json")
    json.loads(out)
    assert re.search(r"clean, train: kept [\d,]+ of [\d,]+ stories; repaired: none; dropped: html 1$", err, re.M)
    assert doctor(tmp_path / "clean")[0] == 0
    assert doctor(stories, "--clean", tmp_path / "clean")[0] == 2, "existing files are not overwritten"
