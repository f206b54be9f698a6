import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.recipe import load_recipe
from tinystories.training.arguments import training_arguments
from tinystories.training.build import copy_init, model_config, pack_corpus, require_names
from tinystories.training.trainer import StoryTrainer
from tinystories.utils.errors import UserError


FEW = {"max_stories": 60, "max_validation_stories": 12}  # stories for tests that only need some


def log_of(run):
    return json.loads((run / "trainer_state.json").read_text())["log_history"]


def test_a_run_folder_is_a_model_folder_with_its_history(tiny_run):
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "configuration_tinyllama.py",
        "modeling_tinyllama.py",
        "recipe.yaml",
        "trainer_state.json",
        "eval_results.json",
        "loss.png",
    ):
        assert (tiny_run / name).is_file(), name
    assert (tiny_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["use_cache"] is True, "Trainer turns the cache off; a model to generate with needs it"
    assert config["vocab_size"] == 600 and config["max_position_embeddings"] == 128
    generation = json.loads((tiny_run / "generation_config.json").read_text())
    assert (generation["temperature"], generation["top_k"], generation["top_p"]) == (0.8, 50, 0.95)
    assert generation["repetition_penalty"] == 1.2 and generation["eos_token_id"] in (0, [0])


def test_the_recipe_in_the_run_folder_is_that_of_the_run(tiny_run):
    recipe = load_recipe(tiny_run / "recipe.yaml")
    assert recipe.trainer["output_dir"] == str(tiny_run) and recipe.trainer["max_steps"] == 120


def test_the_model_learns(tiny_run):
    losses = [entry["loss"] for entry in log_of(tiny_run) if "loss" in entry]
    bits = [entry["eval_bits_per_byte"] for entry in log_of(tiny_run) if "eval_bits_per_byte" in entry]
    assert losses[0] > 5 and losses[-1] < losses[0] - 1.5
    assert bits[1] < bits[0] < math.log2(600)


def test_the_model_learns_the_next_token_and_not_the_one_after(tiny_run):
    """With labels that were shifted twice, it would be the other way round."""
    model = AutoModelForCausalLM.from_pretrained(tiny_run)
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    stories = load_corpus("sample", max_stories=600, max_validation_stories=20).validation["text"]
    ahead = {1: [], 2: []}
    for story in stories:
        tokens = torch.tensor(tokenizer(story)["input_ids"][:128])
        with torch.no_grad():
            log_probs = model(tokens[None]).logits[0].log_softmax(-1)
        for distance, losses in ahead.items():
            losses.append(-log_probs[:-distance].gather(1, tokens[distance:, None]).mean().item())
    assert np.mean(ahead[1]) < np.mean(ahead[2]) - 1


def test_reported_bits_are_those_of_the_saved_model(tiny_run):
    """The best checkpoint is saved, and its metric is the reported one."""
    reported = json.loads((tiny_run / "eval_results.json").read_text())["eval_bits_per_byte"]
    logged = [entry["eval_bits_per_byte"] for entry in log_of(tiny_run) if "eval_bits_per_byte" in entry]
    assert reported == pytest.approx(min(logged), abs=1e-6)

    model = AutoModelForCausalLM.from_pretrained(tiny_run)
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    recipe = load_recipe(tiny_run / "recipe.yaml")
    corpus = load_corpus("sample", max_stories=600, max_validation_stories=40)
    train_rows, validation_rows = pack_corpus(corpus, tokenizer, recipe, seed=42)
    trainer = StoryTrainer(
        model=model,
        args=training_arguments(recipe),
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=tokenizer,
    )
    assert trainer.evaluate()["eval_bits_per_byte"] == pytest.approx(reported, abs=2e-4)


def test_a_checkpoint_folder_loads_with_its_code(tiny_run):
    checkpoint = max(tiny_run.glob("checkpoint-*"))
    for name in ("configuration_tinyllama.py", "modeling_tinyllama.py", "tokenizer.json"):
        assert (checkpoint / name).is_file(), name
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["use_cache"] is True and "AutoModelForCausalLM" in config["auto_map"]


def test_weight_decay_is_on_matrices_only_and_the_rate_ends_at_a_tenth(tiny_recipe):
    recipe = tiny_recipe(max_steps=20, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    corpus = load_corpus("sample", max_stories=50, max_validation_stories=10)
    from tinystories.tokenization import train_bpe

    tokenizer = train_bpe(corpus.train["text"], 400, model_max_length=128, progress=False)
    train_rows, validation_rows = pack_corpus(corpus, tokenizer, recipe, seed=0)
    from modeling_tinyllama import TinyLlamaForCausalLM

    trainer = StoryTrainer(
        model=TinyLlamaForCausalLM(model_config(recipe, tokenizer)),
        args=training_arguments(recipe),
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=tokenizer,
    )
    rates = []
    trainer.create_optimizer()
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda *args, **kwargs: rates.append(trainer.optimizer.param_groups[0]["lr"]) or step()
    trainer.train()
    decayed, free = trainer.optimizer.param_groups
    assert decayed["weight_decay"] == 0.1 and all(p.ndim == 2 for p in decayed["params"])
    assert free["weight_decay"] == 0.0 and all(p.ndim == 1 for p in free["params"])
    assert decayed["betas"] == free["betas"] == (0.9, 0.95)
    assert len(rates) == 20 and max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-3), "the last step is taken at a tenth"
    assert all(late <= early for early, late in zip(rates[5:], rates[6:], strict=False))


def test_a_resumed_run_with_adamw(tiny_recipe, tmp_path):
    """tests/training/test_resume.py resumes with Muon, and with AdamW and EMA."""
    settings = {"bf16": "false", "eval_steps": 2, "max_steps": 6, "save_total_limit": 5, "optimizer": "adamw", **FEW}
    straight = train(tiny_recipe(output_dir=tmp_path / "straight", **settings))
    stopped = tmp_path / "stopped"
    shutil.copytree(straight, stopped)
    for name in ("checkpoint-4", "checkpoint-6", "model.safetensors", "trainer_state.json"):
        target = stopped / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    resumed = train(tiny_recipe(output_dir=stopped, resume_from_checkpoint="true", **settings))
    expected, found = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_checkpoint_of_another_folder_brings_its_tokenizer(tiny_run, tiny_recipe):
    run = train(tiny_recipe(resume_from_checkpoint=tiny_run / "checkpoint-60", max_steps=62, eval_steps=62))
    assert (run / "tokenizer.json").read_text() == (tiny_run / "tokenizer.json").read_text()
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 62


def test_muon_moves_the_matrices_inside_the_layers_and_adamw_the_rest(tiny_run):
    from tinystories.training.optimizers import BatchedMuon, MuonWithAdamW, hidden_matrices

    model = AutoModelForCausalLM.from_pretrained(tiny_run)
    matrices = hidden_matrices(model)
    assert len(matrices) == 2 * 7 and all(".layers." in name for name in matrices)
    rest = [weight for name, weight in model.named_parameters() if name not in matrices]
    optimizer = MuonWithAdamW(
        BatchedMuon(matrices.values(), lr=1e-2, weight_decay=0.0), torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.0)
    )
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    tokens = torch.randint(3, 600, (4, 32), generator=torch.Generator().manual_seed(0))
    for group in optimizer.param_groups:
        group["lr"] = 5e-3
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    for name, weight in model.named_parameters():
        update = weight.detach() - before[name]
        if name in matrices:
            # An orthogonal [a, b] has entries of 1 / sqrt(max(a, b)), which the scaling by 0.2 sqrt(max(a, b)) undoes;
            # five Newton-Schulz steps leave singular values of 0.7 to 1.2, and of low rank not all of them.
            assert 0.4 * 1e-3 < update.square().mean().sqrt() < 1.3 * 1e-3, name
        elif weight.ndim == 1:
            assert update.abs() == pytest.approx(5e-3, rel=0.05), name


def test_only_the_names_of_training_stories_are_replaced(tiny_run, tiny_recipe):
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    corpus = load_corpus("sample", max_stories=60, max_validation_stories=20)
    plain, renamed = (
        pack_corpus(corpus, tokenizer, tiny_recipe(rename_characters=rename), seed=0) for rename in (False, True)
    )
    assert len(plain[0]) == len(renamed[0])
    assert sum(not torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(plain[0], renamed[0], strict=True)) > 9
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(plain[1], renamed[1], strict=True))


def test_rename_characters_needs_names(tiny_run, tiny_recipe, tmp_path):
    for name, story in (("none", "The bird saw a tree."), ("some", "Lily saw a tree.")):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{story} {number}" for number in range(40)))
    tokenizer, recipe = AutoTokenizer.from_pretrained(tiny_run), tiny_recipe(rename_characters=True)
    load = lambda name: load_corpus(str(tmp_path / f"{name}.txt"), text_split="line")  # noqa: E731
    require_names(pack_corpus(load("some"), tokenizer, recipe, seed=0)[0])
    with pytest.raises(UserError, match="`rename_characters` has no effect"):
        require_names(pack_corpus(load("none"), tokenizer, recipe, seed=0)[0])


def test_zero_init_residual(tiny_recipe):
    recipe = tiny_recipe(zero_init_residual="true", max_steps=1, eval_steps=1, learning_rate="1e-9", **FEW)
    model = AutoModelForCausalLM.from_pretrained(train(recipe))
    for layer in model.model.layers:
        # After one step with a negligible learning rate.
        assert layer.self_attn.o_proj.weight.abs().max() < 1e-6 and layer.mlp.down_proj.weight.abs().max() < 1e-6
        assert layer.self_attn.q_proj.weight.abs().max() > 1e-2


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_copy_init_adds_the_mean_of_the_attended_states(kv_heads):
    config = TinyLlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=kv_heads, head_dim=16,
    )  # fmt: skip
    model = TinyLlamaForCausalLM(config)
    copy_init(model, 0.5)
    attention = model.model.layers[2].self_attn
    torch.nn.init.zeros_(attention.q_proj.weight)  # uniform attention
    hidden = torch.randn(1, 7, 64)
    positions = torch.arange(7)[None]
    output = attention(hidden, position_embeddings=model.model.rotary_emb(hidden, positions), attention_mask=None)[0]
    mean = hidden.cumsum(1) / torch.arange(1, 8)[:, None]
    if kv_heads < 4:  # fewer values than dimensions: their span
        value = attention.v_proj.weight
        mean = mean @ value.T @ value
    assert torch.allclose(output, 0.5 * mean, atol=1e-5)
    before = TinyLlamaForCausalLM(config).model.layers[1].self_attn
    assert attention.o_proj.weight.std() > 0.03 > before.o_proj.weight.std()


def test_muon_equals_that_of_torch_up_to_precision():
    from tinystories.training.optimizers import BatchedMuon

    generator = torch.Generator().manual_seed(0)
    shapes = [(48, 48), (48, 48), (96, 48), (48, 96)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4)]

    def run(make):
        matrices = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = make(matrices)
        for step in gradients:
            for matrix, gradient in zip(matrices, step, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()
        return [matrix.detach() - start for matrix, start in zip(matrices, starts, strict=True)]

    ours = run(lambda matrices: BatchedMuon(matrices, lr=0.1, weight_decay=0.1))
    theirs = run(lambda matrices: torch.optim.Muon(matrices, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    for found, expected in zip(ours, theirs, strict=True):
        # torch's Muon computes in bfloat16, with three digits, and the iteration amplifies rounding errors.
        assert (found - expected).norm() < 0.05 * expected.norm()


def test_checkpoints_of_an_earlier_run_are_kept_or_removed(tiny_run, tiny_recipe, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(tiny_run, earlier)
    with pytest.raises(UserError, match="--resume_from_checkpoint.*--overwrite_output_dir"):
        train(tiny_recipe(output_dir=earlier))
    with pytest.raises(UserError, match="has no checkpoint to resume from"):
        train(tiny_recipe(output_dir=tmp_path / "empty", resume_from_checkpoint="true"))
    with pytest.raises(UserError, match="is not a checkpoint"):
        train(tiny_recipe(output_dir=tmp_path / "empty", resume_from_checkpoint=str(tmp_path)))
    kept = sorted(earlier.rglob("*"))
    for mistake in ({"hidden_size": 65}, {"preset": "wild"}, {"corpus": "none.txt"}, {"tokenizer": "none/none"}):
        with pytest.raises(UserError):
            train(tiny_recipe(output_dir=earlier, overwrite_output_dir="true", **mistake))
    assert sorted(earlier.rglob("*")) == kept, "a mistake must not cost the earlier run"
    train(tiny_recipe(output_dir=earlier, overwrite_output_dir="true", max_steps=2, eval_steps=2, **FEW))
    assert [folder.name for folder in earlier.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": 65}, "`model` section of the recipe is invalid: `hidden_size` \\(65\\)"),
        ({"preset": "wild"}, "no preset 'wild'; the presets are balanced"),
        ({"bf16": "sometimes"}, "`--bf16` must be bool or auto"),
        ({"optim": "sgdd"}, "`trainer` section of the recipe is invalid"),
        ({"corpus": "no/such/file.txt"}, "no/such/file.txt"),
        ({"tokenizer": "no/such/tokenizer"}, "There is no folder no/such/tokenizer"),
    ],
)
def test_invalid_settings_are_reported_before_training(tiny_recipe, overrides, message):
    with pytest.raises(UserError, match=message):
        train(tiny_recipe(**overrides))


def test_a_tokenizer_folder_is_used_unchanged(tiny_recipe, tiny_run):
    run = train(tiny_recipe(tokenizer=tiny_run, max_steps=2, eval_steps=2, **FEW))
    assert (run / "tokenizer.json").read_text() == (tiny_run / "tokenizer.json").read_text()
    assert json.loads((run / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_second_start_reads_counts_and_tokenizes_nothing_again(tiny_recipe, tmp_path, capsys):
    stories = load_corpus("sample", max_stories=120, cache_dir=str(tmp_path / "sample")).train["text"]
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories), "utf-8")
    settings = {"corpus": tmp_path / "stories.txt", "max_stories": 100, "tokenizer_stories": 50}
    settings |= {"max_steps": 1, "vocab_size": 400, "prompts": "[]", "overwrite_output_dir": "true"}
    phases = ("Reading stories: ", "Looking for duplicates: ", "Counting words: ", "Learning ", "Tokenizing: ")
    results = []
    for is_first in (True, False):
        run = train(tiny_recipe(**settings))
        out, err = capsys.readouterr()
        assert [phase for phase in phases if phase in err] == list(phases if is_first else [])
        assert "the tokenizer is trained on 50 of 100 stories, evenly spaced; --tokenizer_stories all" in out
        results.append([(run / name).read_bytes() for name in ("tokenizer.json", "model.safetensors")])
    assert results[0] == results[1]
    train(tiny_recipe(**{**settings, "tokenizer_stories": "all"}))
    out, err = capsys.readouterr()
    assert "Counting words: " in err and "trained on" not in out
    assert (run / "tokenizer.json").read_bytes() != results[0][0]
