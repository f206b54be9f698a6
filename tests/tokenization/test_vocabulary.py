"""Tokenizers with gaps in their ids or without special tokens: training, scoring, generation and export."""

import json
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import PackedStories, encode_stories, tokenize_stories
from tinystories.evaluation.likelihood import score_stories
from tinystories.evaluation.token_classes import ARTICLE, TokenClassifier
from tinystories.export.stock import export_stock
from tinystories.export.verify import load_run
from tinystories.generation.generate import generate_story
from tinystories.runs.loading import load_model
from tinystories.serving.serve import load
from tinystories.serving.settings import ServerSettings
from tinystories.tokenization import train_bpe, vocabulary_size
from tinystories.utils.errors import UserError


@pytest.fixture(scope="module")
def stories():
    return load_corpus("sample", max_stories=60, max_validation_stories=12).train["text"][:]


def trained(stories):
    return train_bpe(stories, 400, model_max_length=128, progress=False)


def renumbered(stories, new_id: int):
    """The token " the" gets another id, which leaves a gap."""
    tokenizer = trained(stories)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["model"]["vocab"]["Ġthe"] = new_id
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(spec))
    assert " the" in tokenizer.decode([new_id])
    return tokenizer


def with_added_tokens(stories):
    tokenizer = trained(stories)
    tokenizer.add_tokens(["Lily", "little"])
    return tokenizer


def like_gpt2(stories):
    """One special token as BOS and EOS, and none for padding."""
    tokenizer = trained(stories)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("<|padding|>", "<unk>"):
        del spec["model"]["vocab"][name]
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] == "<|endoftext|>"]
    vocabulary = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    spec["model"]["vocab"] = {token: number for number, token in enumerate(vocabulary)}
    spec["model"]["unk_token"], spec["post_processor"] = None, None
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(spec))
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return type(tokenizer)(tokenizer_object=backend, model_max_length=128, **names)


def with_pad_added_later(stories):
    tokenizer = like_gpt2(stories)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


def padding_with_the_end(stories):
    tokenizer = like_gpt2(stories)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def without_bos(stories):
    tokenizer = like_gpt2(stories)
    tokenizer.bos_token = None
    return tokenizer


def ends_with_the_usual_padding(stories):
    tokenizer = padding_with_the_end(stories)
    tokenizer.add_special_tokens({"bos_token": "<|padding|>", "eos_token": "<|padding|>", "pad_token": "<|padding|>"})
    return tokenizer


TOKENIZERS = {
    "a gap": (lambda stories: renumbered(stories, 900), 901),
    "an id above 16 bits": (lambda stories: renumbered(stories, 70_000), 70_001),
    "added tokens": (with_added_tokens, 402),
    "no pad token": (like_gpt2, 399),
    "a pad token added later": (with_pad_added_later, 399),
    "padding with the end": (padding_with_the_end, 399),
    "the usual padding is the end": (ends_with_the_usual_padding, 400),
    "no token to begin with": (without_bos, 399),
}


# Few tokens per batch, since the logits of a large vocabulary take most of the time.
SMALL = {
    "max_steps": 2,
    "eval_steps": 2,
    "max_stories": 60,
    "max_validation_stories": 4,
    "row_length": 128,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "an id above 16 bits")) for kind in TOKENIZERS],
)
def test_a_model_is_trained_with_any_tokenizer_and_used_everywhere(kind, stories, tiny_recipe, tmp_path, capsys):
    make, size = TOKENIZERS[kind]
    make(stories).save_pretrained(tmp_path / "tokenizer")
    run = train(tiny_recipe(tokenizer=tmp_path / "tokenizer", **SMALL))
    model, tokenizer = load_run(run)
    assert model.config.vocab_size == size == vocabulary_size(tokenizer)
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert special[2] not in special[:2] and None not in special
    assert special == (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id)
    assert AutoTokenizer.from_pretrained(run)("The end")["input_ids"][0] == tokenizer.bos_token_id

    scores = score_stories(model, tokenizer, stories[:3], progress=False)
    assert np.isfinite(scores.nats).all() and scores.nats.min() > 0
    assert generate_story(*load_model(str(run)), "Once upon a time", seed=1, max_new_tokens=5)
    load(ServerSettings(checkpoint=str(run)))
    export_stock(run, tmp_path / "stock")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "stock").config.vocab_size == size


@pytest.mark.parametrize("kind", ["a gap", "an id above 16 bits", "added tokens"])
def test_rows_and_streams_hold_the_ids_of_the_tokenizer(kind, stories):
    tokenizer = TOKENIZERS[kind][0](stories)
    expected = [tokenizer.encode(story, add_special_tokens=False) for story in stories]
    stored = tokenize_stories(datasets.Dataset.from_dict({"text": stories}), tokenizer, f"vocabulary-tests-{kind}")
    streamed = encode_stories(tokenizer)(pa.table({"text": stories}))
    for found in (stored["input_ids"][:], streamed["input_ids"].to_pylist()):
        assert [story[1:-1] for story in found] == expected
    rows = PackedStories(stored, context=128, overlap=16, length=256, pad_token_id=tokenizer.pad_token_id, seed=0)
    largest = max(rows[number]["input_ids"].max().item() for number in range(len(rows)))
    assert largest == max(max(story) for story in expected)


def test_kinds_of_words_with_gaps(stories):
    tokenizer = renumbered(stories, 900)
    kinds = TokenClassifier(tokenizer)(tokenizer("a cat saw the dog")["input_ids"])
    assert (kinds == ARTICLE).sum() == 2


def test_a_tokenizer_for_another_model_is_refused(tiny_run, stories, tmp_path):
    """It has fewer entries than the model, but an id that the model does not have."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    renumbered(stories, 900).save_pretrained(run)
    for use in (
        load_run,
        lambda run: load(ServerSettings(checkpoint=str(run))),
        lambda run: export_stock(run, tmp_path / "x"),
    ):
        with pytest.raises(UserError, match="901"):
            use(run)


def test_a_tokenizer_without_an_end_of_text_is_refused(stories, tiny_recipe, tmp_path):
    tokenizer = like_gpt2(stories)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="has no eos_token"):
        train(tiny_recipe(tokenizer=tmp_path / "tokenizer"))


def test_a_pad_token_never_takes_the_id_of_a_word(stories, tiny_recipe, tmp_path):
    """`tokenizers` gives a new token the number of entries as its id, which may be taken if there are gaps."""
    tokenizer = like_gpt2(stories)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary["Ġthe"] = len(vocabulary)
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(spec))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="several tokens with the same id"):
        train(tiny_recipe(tokenizer=tmp_path / "tokenizer"))


def test_embeddings_of_unused_ids_stay_finite(stories, tiny_recipe, tmp_path):
    renumbered(stories, 900).save_pretrained(tmp_path / "tokenizer")
    run = train(tiny_recipe(tokenizer=tmp_path / "tokenizer", **SMALL))
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(run).get_input_embeddings().weight).all()
