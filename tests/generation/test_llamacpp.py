"""llama.cpp generates the text of `generate()`, from a file that is exported once."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tinystories.cli import main
from tinystories.export.gguf_cache import cached_gguf
from tinystories.generation import generate
from tinystories.generation.llamacpp import LlamaCpp, generate_story, sampling_settings
from tinystories.generation.postprocess import post_process
from tinystories.generation.presets import SamplingSettings
from tinystories.runs.loading import load_model
from tinystories.utils.errors import UserError


PROMPTS = ("Once upon a time there was", "One day, a", "The happy cat", "Lily")
GREEDY = SamplingSettings.from_preset("greedy")
CREATIVE = SamplingSettings.from_preset("creative")


@pytest.fixture
def installed():
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def served(tiny_run):
    """The model, its tokenizer, and llama.cpp's server with float32 weights."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    model, tokenizer = load_model(str(tiny_run))
    return model, tokenizer, LlamaCpp(cached_gguf(tiny_run, "f32"), model.config.max_position_embeddings, threads=1)


def generated(model, tokenizer, prompt, **options):
    """The tokens of the prompt, and the greedy continuation of `generate()`."""
    inputs = tokenizer(prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "repetition_penalty": 1.0, **options}
    return inputs["input_ids"][0].tolist(), model.generate(**inputs, **options)[0, length:].tolist()


# ---- the same text


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_text_is_that_of_generate(penalty, served):
    model, tokenizer, server = served
    settings = GREEDY.replace(repetition_penalty=penalty)
    for prompt in PROMPTS:
        ids, story = generated(model, tokenizer, prompt, max_new_tokens=100, repetition_penalty=penalty)
        ended = story[-1] == tokenizer.eos_token_id
        text, count = server.complete(ids, settings, max_new_tokens=100)
        assert text == tokenizer.decode(story, skip_special_tokens=True)
        assert count == len(story) or (ended and count == len(story) - 1)


def test_text_is_streamed_and_can_be_stopped(served):
    model, tokenizer, server = served
    ids, story = generated(model, tokenizer, PROMPTS[0], max_new_tokens=40)
    pieces = []
    text, _ = server.complete(ids, GREEDY, max_new_tokens=40, on_text=pieces.append)
    assert len(pieces) > 20 and "".join(pieces) == text

    def stop(piece):
        pieces.append(piece)
        raise KeyboardInterrupt

    pieces.clear()
    with pytest.raises(KeyboardInterrupt):
        server.complete(ids, GREEDY, max_new_tokens=40, on_text=stop)
    assert len(pieces) == 1
    assert server.complete(ids, GREEDY, max_new_tokens=40)[0] == text  # and it goes on as before


def test_settings_and_seed_determine_the_story(served):
    model, tokenizer, server = served
    ids, _ = generated(model, tokenizer, PROMPTS[0], max_new_tokens=1)

    def draw(seed, **settings):
        return server.complete(ids, CREATIVE.replace(**settings), max_new_tokens=40, seed=seed)[0]

    assert draw(1) == draw(1) != draw(2)
    assert len({server.complete(ids, CREATIVE, max_new_tokens=40)[0] for _ in range(3)}) > 1
    likeliest = server.complete(ids, GREEDY, max_new_tokens=40)[0]
    for only_one in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}):
        assert draw(1, **{"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, **only_one}) == likeliest


def test_a_story_stops_at_the_eos_tokens_of_the_model(tiny_run, served, tmp_path):
    model, tokenizer, _ = served
    ids, story = generated(model, tokenizer, PROMPTS[0], max_new_tokens=30)
    end = next(token for i, token in enumerate(story) if i > 8 and token not in story[:i])
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((run / "generation_config.json").read_text())
    (run / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [0, end]}))
    expected = PROMPTS[0] + tokenizer.decode(story[: story.index(end) + 1], skip_special_tokens=True)
    assert generate_story(run, PROMPTS[0], gguf=lambda: cached_gguf(run, "f32"), preset="greedy") == expected
    assert generate.generate_story(*load_model(str(run)), PROMPTS[0], preset="greedy") == expected


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_a_story_may_fill_the_context(dtype, tiny_run, served):
    model, tokenizer, _ = served
    context = model.config.max_position_embeddings
    server = LlamaCpp(cached_gguf(tiny_run, dtype), context, threads=1)
    ids = tokenizer("Lily")["input_ids"]
    # At this temperature it does not end with EOS.
    hot = SamplingSettings(temperature=50.0, top_k=0)
    counts = [server.complete(ids, hot, max_new_tokens=context - len(ids), seed=seed)[1] for seed in range(4)]
    assert max(counts) == context - len(ids)


# ---- the command


def test_the_command_gives_the_greedy_text_of_transformers(tiny_run, installed, capsys):
    command = ["generate", str(tiny_run), PROMPTS[0], "--preset", "greedy", "--max-new-tokens", "60"]
    assert main(command) == 0
    expected = capsys.readouterr().out
    for _ in range(2):
        assert main([*command, "--engine", "llama.cpp", "--dtype", "f32"]) == 0
        assert capsys.readouterr().out == expected
    assert main([*command, "--engine", "llama.cpp", "--dtype", "f32", "--post-process"]) == 0
    assert capsys.readouterr().out == post_process(expected) + "\n"
    assert main([*command[:3], "--engine", "llama.cpp", "--seed", "4"]) == 0
    drawn = capsys.readouterr().out
    assert drawn.startswith(PROMPTS[0]) and main([*command[:3], "--engine", "llama.cpp", "--seed", "4"]) == 0
    assert capsys.readouterr().out == drawn


def test_a_second_story_needs_no_torch(tiny_run, installed, tmp_path):
    cached_gguf(tiny_run, "f32")
    code = """
import sys
from tinystories.cli import main

status = main(["generate", sys.argv[1], "Lily", "--engine", "llama.cpp", "--dtype", "f32"])
assert not {"torch", "transformers"} & sys.modules.keys()
sys.exit(status)
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, str(tiny_run)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("Lily") and result.stderr == ""


def test_without_a_preset_the_settings_are_those_of_the_folder(tiny_run, tmp_path):
    balanced, plain = SamplingSettings.from_preset("balanced"), SamplingSettings.from_preset("plain")
    assert sampling_settings(tiny_run, None) == balanced and sampling_settings(tiny_run, "plain") == plain
    assert sampling_settings(tiny_run, "greedy") == GREEDY
    assert sampling_settings(tmp_path, None) == balanced
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.3, "top_p": null}')
    assert sampling_settings(tmp_path, None) == SamplingSettings(temperature=0.3)
    with pytest.raises(UserError, match="no preset 'loud'"):
        sampling_settings(tmp_path, "loud")


# ---- mistakes


def test_mistakes_are_one_line(tiny_run, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["generate", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.strip().splitlines()) == 1, said.err
        return said.err

    llama = ("--engine", "llama.cpp")
    assert "choose transformers or llama.cpp" in refused(tiny_run, "Lily", "--engine", "vllm")
    assert "--engine llama.cpp" in refused(tiny_run, "Lily", "--dtype", "f16")
    assert "no preset 'loud'" in refused(tiny_run, "Lily", *llama, "--preset", "loud")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else there(name))
    assert "pip install '.[llamacpp]'" in refused(tiny_run, "Lily", *llama)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert "f32, f16, bf16, q8_0" in refused(tiny_run, "Lily", *llama, "--dtype", "q4_k")
    assert "no run folder" in refused(tmp_path / "none", "Lily", *llama)
    assert "the Hub (https://huggingface.co) cannot be reached" in refused("nobody/nothing", "Lily", *llama)
    assert "no config.json" in refused(tmp_path, "Lily", *llama)
    (tmp_path / "config.json").write_text("{")
    assert "no tokenizer.json" in refused(tmp_path, "Lily", *llama)
    shutil.copy(tiny_run / "tokenizer.json", tmp_path)
    assert "config.json cannot be read" in refused(tmp_path, "Lily", *llama)
    # Before anything is written.
    assert "shorten the prompt" in refused(tiny_run, "Lily " * 500, *llama, "--dtype", "bf16")
    assert "must be from 1 to" in refused(tiny_run, "Lily", *llama, "--dtype", "bf16", "--max-new-tokens", 500)
    assert "at least 1" in refused(tiny_run, "Lily", *llama, "--max-new-tokens", 0)
    monkeypatch.undo()


def test_a_model_that_cannot_be_exported_is_refused(tiny_run, installed, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    with pytest.raises(UserError, match="silu"):
        generate_story(run, "Lily", gguf=lambda: cached_gguf(run, "f16"))
    assert not list(Path(os.environ["HF_HOME"]).rglob("*gelu*"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="llama.cpp cannot load"):
        LlamaCpp(broken, 128)


def test_logits_of_f16_and_q8_are_close(tiny_run, served):
    """With rounded weights, each greedy token is the most likely one of the model, or nearly."""
    model, tokenizer, _ = served
    for dtype in ("f16", "bf16", "q8_0"):
        server = LlamaCpp(cached_gguf(tiny_run, dtype), model.config.max_position_embeddings, threads=1)
        ids, _ = generated(model, tokenizer, PROMPTS[0], max_new_tokens=1)
        text, _ = server.complete(ids, GREEDY, max_new_tokens=40)
        story = tokenizer(PROMPTS[0] + text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(story).logits[0].log_softmax(-1)
        steps = range(len(ids) - 1, story.shape[1] - 1)
        assert all(logits[i].max() - logits[i, story[0, i + 1]] < 0.2 for i in steps), dtype
