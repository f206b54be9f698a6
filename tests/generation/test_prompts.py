"""Prompts never end with EOS, whatever the tokenizer appends."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from tinystories.checks.vocabulary import check_prompt_ends
from tinystories.evaluation.likelihood import start_tokens
from tinystories.generation.batch import generate_stories
from tinystories.generation.generate import generate_story
from tinystories.generation.prompts import added_tokens, encode_prompt, set_prompt_prefix
from tinystories.runs.loading import load_model, load_tokenizer
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


PROMPT = "Once upon a time there was"
END = "<|endoftext|>"


def template(single: str):
    return processors.TemplateProcessing(single=single, special_tokens=[(END, 0)])


@pytest.fixture
def appending(tiny_run, tmp_path):
    """A run folder whose tokenizer puts end-of-text tokens before and after every text."""
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
def test_a_prompt_keeps_bos_and_loses_eos(single, front, behind):
    tokenizer = train_bpe([PROMPT] * 3, 262, progress=False)
    tokenizer.backend_tokenizer.post_processor = template(single)
    bare = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in added_tokens(tokenizer)] == [front, behind]
    assert encode_prompt(tokenizer, PROMPT) == [0] * front + bare
    assert check_prompt_ends(tokenizer)[0].status == ("error" if behind else "ok")
    set_prompt_prefix(tokenizer)
    assert tokenizer(PROMPT)["input_ids"] == [0] * front + bare


def test_eos_written_in_the_prompt_is_removed():
    tokenizer = train_bpe([PROMPT] * 3, 262, progress=False)
    assert encode_prompt(tokenizer, PROMPT + END + END) == encode_prompt(tokenizer, PROMPT)
    assert encode_prompt(tokenizer, "") == [0]


def test_an_empty_prompt_without_a_start_token_is_refused():
    tokenizer = train_bpe([PROMPT] * 3, 262, progress=False)
    tokenizer.backend_tokenizer.post_processor = template("$A")
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="empty prompt"):
        encode_prompt(tokenizer, "")


def test_a_tokenizer_that_appends_eos_changes_no_story(appending, tiny_run):
    model, tokenizer = load_model(str(tiny_run))
    framed = AutoTokenizer.from_pretrained(appending)
    expected = generate_story(model, tokenizer, PROMPT, preset="greedy", max_new_tokens=30)
    assert generate_story(model, framed, PROMPT, preset="greedy", max_new_tokens=30) == expected
    stories = [
        generate_stories(model, each, [PROMPT], preset="greedy", max_new_tokens=30)[0] for each in (tokenizer, framed)
    ]
    assert stories[0] == stories[1]
    assert start_tokens(model, framed) == start_tokens(model, tokenizer)


def test_a_loaded_tokenizer_is_saved_without_the_appended_eos(appending, tmp_path):
    load_tokenizer(str(appending)).save_pretrained(tmp_path / "saved")
    ids = AutoTokenizer.from_pretrained(tmp_path / "saved")(PROMPT)["input_ids"]
    assert ids[0] == 0 and ids[-1] != 0
    assert load_tokenizer(str(appending), as_saved=True)(PROMPT)["input_ids"][-1] == 0


def test_training_with_such_a_tokenizer_saves_one_that_does_not_append_eos(appending, tiny_recipe):
    from tinystories.commands.train import train

    folder = train(tiny_recipe(tokenizer=appending, max_steps=2, eval_steps=2))
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    assert ids[0] == 0 and ids[-1] != 0


def test_doctor_reports_the_appended_eos(appending, capsys):
    from tinystories.cli import main

    assert main(["doctor", str(appending), "--quick", "--json", "--limit", "50"]) == 1
    found = json.loads(capsys.readouterr().out)
    findings = found["findings"] if isinstance(found, dict) else found
    assert [each["status"] for each in findings if each["check"] == "end of a prompt"] == ["error"]


def llama2_backend():
    """Like Llama 2: byte fallback, and spaces as the character ▁."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    backend.train_from_iterator([PROMPT] * 3, trainer)
    return backend


def llama2_with_a_template():
    backend = llama2_backend()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> <s>:1 $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def llama2_with_a_switch():
    model = json.loads(llama2_backend().to_str())["model"]
    return LlamaTokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], add_bos_token=True, add_eos_token=True
    )


@pytest.mark.parametrize("make", [llama2_with_a_template, llama2_with_a_switch])
@pytest.mark.parametrize("stated", [False, True])
def test_tokenizers_like_that_of_llama_2(make, stated, tmp_path):
    tokenizer = make()
    ids = tokenizer(PROMPT)["input_ids"]
    assert ids[0] == 1 and ids[-1] == 2
    assert encode_prompt(tokenizer, PROMPT) == ids[:-1]
    tokenizer.save_pretrained(tmp_path / "theirs")
    if stated:  # as in many repositories on the Hub; the class then builds its template again
        config = tmp_path / "theirs" / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"add_bos_token": True, "add_eos_token": True}))
    loaded = load_tokenizer(str(tmp_path / "theirs"))
    assert encode_prompt(loaded, PROMPT) == loaded(PROMPT)["input_ids"] == ids[:-1]
    assert loaded("a", "b")["input_ids"].count(2) == 0
    loaded.save_pretrained(tmp_path / "ours")
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")(PROMPT)["input_ids"] == ids[:-1]


def test_the_server_and_llama_cpp_read_the_same_prompt(appending, tiny_run):
    """With a folder whose tokenizer appends EOS."""
    from types import SimpleNamespace

    from tinystories.generation.llamacpp import prompt_ids
    from tinystories.serving.served_model import ServedModel

    framed = AutoTokenizer.from_pretrained(appending)
    expected = framed(PROMPT)["input_ids"][:-1]
    engine = SimpleNamespace(tokenizer=framed)
    config = json.loads((appending / "config.json").read_text())
    assert ServedModel(engine, None, "framed").encode(PROMPT) == expected == prompt_ids(appending, config, PROMPT)
    assert load_tokenizer(str(tiny_run))(PROMPT)["input_ids"] == expected


@pytest.mark.slow
def test_a_release_of_such_a_run_does_not_append_eos(appending, tmp_path):
    from tinystories.hub.release import build_release
    from tinystories.hub.verification import check_releases

    release = build_release(appending, tmp_path / "release", "ada/framed")
    assert check_releases({"framed": release}) == []
    assert AutoTokenizer.from_pretrained(tmp_path / "release")(PROMPT)["input_ids"][-1] != 0
