"""Prompts never end with a token that ends a document, whatever the tokenizer appends by itself."""

import json
import shutil

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from tinystories.decoding import load_model, load_tokenizer, tell_story
from tinystories.doctor.text import check_prompt_ends
from tinystories.errors import UserError
from tinystories.prompts import added_tokens, encode_prompt, keep_prompts_open
from tinystories.scoring import start_tokens
from tinystories.storytelling import tell_stories
from tinystories.tokenization import train_bpe


PROMPT = "Once upon a time there was"
END = "<|endoftext|>"


def template(single: str):
    return processors.TemplateProcessing(single=single, special_tokens=[(END, 0)])


@pytest.fixture
def appending(tiny_run, tmp_path):
    """A run folder whose tokenizer frames every text in end-of-text tokens."""
    folder = shutil.copytree(tiny_run, tmp_path / "appending")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = template(f"{END} $A {END}")
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"][-1] == 0
    return folder


@pytest.mark.parametrize(
    ("single", "front", "behind"),
    [("$A", 0, 0), (f"{END} $A", 1, 0), (f"$A {END}", 0, 1), (f"{END} $A {END}", 1, 1)],
)
def test_the_prompt_keeps_its_front_and_loses_its_end(single, front, behind):
    tokenizer = train_bpe([PROMPT] * 3, 262, progress=False)
    tokenizer.backend_tokenizer.post_processor = template(single)
    bare = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in added_tokens(tokenizer)] == [front, behind]
    assert encode_prompt(tokenizer, PROMPT) == [0] * front + bare
    assert check_prompt_ends(tokenizer).status == ("fault" if behind else "ok")
    keep_prompts_open(tokenizer)
    assert tokenizer(PROMPT)["input_ids"] == [0] * front + bare


def test_an_end_that_stands_in_the_prompt_itself_is_removed():
    tokenizer = train_bpe([PROMPT] * 3, 262, progress=False)
    assert encode_prompt(tokenizer, PROMPT + END + END) == encode_prompt(tokenizer, PROMPT)
    assert encode_prompt(tokenizer, "") == [0]


def test_an_empty_prompt_without_a_start_token_is_refused():
    tokenizer = train_bpe([PROMPT] * 3, 262, progress=False)
    tokenizer.backend_tokenizer.post_processor = template("$A")
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="empty prompt"):
        encode_prompt(tokenizer, "")


def test_a_tokenizer_that_appends_the_end_changes_no_story(appending, tiny_run):
    model, tokenizer = load_model(str(tiny_run))
    framed = AutoTokenizer.from_pretrained(appending)
    expected = tell_story(model, tokenizer, PROMPT, preset="greedy", max_new_tokens=30)
    assert tell_story(model, framed, PROMPT, preset="greedy", max_new_tokens=30) == expected
    stories = [
        tell_stories(model, each, [PROMPT], preset="greedy", max_new_tokens=30)[0] for each in (tokenizer, framed)
    ]
    assert stories[0] == stories[1]
    assert start_tokens(model, framed) == start_tokens(model, tokenizer)


def test_a_loaded_tokenizer_is_saved_without_the_appended_end(appending, tmp_path):
    load_tokenizer(str(appending)).save_pretrained(tmp_path / "saved")
    ids = AutoTokenizer.from_pretrained(tmp_path / "saved")(PROMPT)["input_ids"]
    assert ids[0] == 0 and ids[-1] != 0
    assert load_tokenizer(str(appending), as_saved=True)(PROMPT)["input_ids"][-1] == 0


def test_training_with_such_a_tokenizer_saves_one_that_leaves_prompts_open(appending, tiny_recipe):
    from tinystories.training import train

    folder = train(tiny_recipe(tokenizer=appending, max_steps=2, eval_steps=2))
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    assert ids[0] == 0 and ids[-1] != 0


def test_doctor_names_the_appended_end(appending, capsys):
    from tinystories.cli import main

    assert main(["doctor", str(appending), "--quick", "--json", "--limit", "50"]) == 1
    found = json.loads(capsys.readouterr().out)
    findings = found["findings"] if isinstance(found, dict) else found
    assert [each["status"] for each in findings if each["check"] == "end of a prompt"] == ["fault"]
