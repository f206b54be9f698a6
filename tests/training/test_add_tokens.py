"""New tokens in the vocabulary of a model that is fine-tuned: `add_tokens`."""

import shutil

import pytest
import torch
from helpers import tinystories
from safetensors.torch import load_file
from test_fine_tuning import recipe_for
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinystories.commands.train import train
from tinystories.data.synthetic import sample_stories
from tinystories.export.base_model import load_base
from tinystories.recipe import build_recipe, load_recipe
from tinystories.runs.loading import load_model
from tinystories.utils.errors import UserError


pytestmark = pytest.mark.usefixtures("without_dry_run")
NAME, MARKER = "Zorgabella", "<moral>"


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    file = tmp_path_factory.mktemp("stories") / "named.txt"
    texts = [f"{story} {NAME} came.\n{MARKER} Be kind to {NAME}." for story in sample_stories(70, seed=5)]
    file.write_text("\n<|endoftext|>\n".join(texts), "utf-8")
    return file


@pytest.fixture(scope="module")
def run(tiny_run, stories, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "named"
    return train(recipe_for(tiny_run, stories, folder, add_tokens=f"[{NAME}, {MARKER}]"))


def test_new_embeddings_are_the_mean_of_the_pieces(tiny_run):
    before = load_base(str(tiny_run))
    pieces = before.tokenizer(NAME, add_special_tokens=False)["input_ids"]
    text = f"Once {NAME} met the old cat."
    old = before.tokenizer(text)["input_ids"]
    base = load_base(str(tiny_run))
    base.add_tokens([NAME, MARKER, NAME])
    (new,) = base.tokenizer(NAME, add_special_tokens=False)["input_ids"]
    weight = base.model.get_input_embeddings().weight
    assert weight.shape[0] == base.config.vocab_size == base.vocab_size + 2 == new + 2
    assert len(pieces) > 1 and torch.allclose(weight[new], weight[pieces].mean(0))
    assert weight is base.model.get_output_embeddings().weight
    encoded = base.tokenizer(text)["input_ids"]
    assert new in encoded and base.tokenizer.decode(encoded, skip_special_tokens=True) == text
    assert [i for i in encoded if i != new] == [i for i in old if i not in pieces][: len(encoded) - 1]


def test_they_are_trained_saved_loaded_and_generated(run, tiny_run):
    recipe = load_recipe(run / "recipe.yaml")
    model, tokenizer = load_model(str(run))
    auto, again = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert recipe.vocab_size + 2 == model.config.vocab_size == auto.config.vocab_size == len(again)
    (new,) = again(NAME, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([tokenizer(f"Be kind to {NAME}")["input_ids"]])
    assert ids[0, -1] == new and torch.equal(auto(ids).logits, model(ids).logits)
    probability = auto(ids[:, :-1]).logits[0, -1].softmax(-1)[new]
    base = load_base(str(tiny_run))
    base.add_tokens([NAME, MARKER])
    assert probability > 2 * base.model(ids[:, :-1]).logits[0, -1].softmax(-1)[new], "it has been trained"
    done = tinystories("generate", run, f"Be kind to {NAME}", "--seed", 1, "--max-new-tokens", 5)
    assert done.returncode == 0 and done.stdout.startswith(f"Be kind to {NAME}")


@pytest.mark.slow
def test_a_run_with_new_tokens_is_resumed_exactly(run, tiny_run, stories, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for step in (8, 12):
        shutil.rmtree(copy / f"checkpoint-{step}")
    train(recipe_for(tiny_run, stories, copy, add_tokens=f"[{NAME}, {MARKER}]", resume_from_checkpoint="true"))
    one, other = (load_file(folder / "model.safetensors") for folder in (run, copy))
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = train(load_recipe(run / "recipe.yaml", {"output_dir": str(tmp_path / "again")}))
    assert all(torch.equal(one[name], weight) for name, weight in load_file(again / "model.safetensors").items())


def test_exports_have_them(run, tmp_path):
    gguf = pytest.importorskip("gguf")
    from tinystories.export.gguf import export_gguf
    from tinystories.export.stock import export_stock

    fields = gguf.GGUFReader(export_gguf(run, tmp_path / "out.gguf", "f32").file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    ids = AutoTokenizer.from_pretrained(run).convert_tokens_to_ids([NAME, MARKER])
    assert [tokens[i] for i in ids] == [NAME, MARKER]
    export_stock(run, tmp_path / "stock")
    assert AutoTokenizer.from_pretrained(tmp_path / "stock").convert_tokens_to_ids([NAME, MARKER]) == ids


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "'' is empty: remove it"),
        (" ", "' ' is empty: remove it"),
        (" Zorg", "' Zorg' begins or ends with white space: write 'Zorg'"),
        ("a", "'a' is already a token: remove it"),
        ("<|endoftext|>", "is already a token: remove it"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused(tiny_run, token, message):
    with pytest.raises(UserError, match=f"`add_tokens`: .*{message}"):
        load_base(str(tiny_run)).add_tokens([token])


def test_they_need_a_base_whose_embeddings_are_trained():
    for given in ({"add_tokens": ["Zorg"]}, {"add_tokens": ["Zorg"], "init_from": "builtin", "lora": {}}):
        with pytest.raises(UserError, match="`add_tokens` gives a trained model new embeddings"):
            build_recipe(given)
