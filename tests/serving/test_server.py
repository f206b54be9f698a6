"""The server as its clients see it, over real HTTP on 127.0.0.1."""

# ruff: noqa: E402  what the server needs is installed with an extra

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


for package in ("fastapi", "limits", "uvicorn"):
    pytest.importorskip(package)

from helpers import ROOT
from story_server import PROMPT, Client, running

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.cli import main
from tinystories.data.synthetic import sample_stories
from tinystories.generation.generate import generate_story
from tinystories.generation.postprocess import post_process
from tinystories.generation.presets import SamplingSettings
from tinystories.runs.loading import load_model
from tinystories.serving.engine import Engine, GenerationRequest
from tinystories.serving.serve import _report as report
from tinystories.serving.serve import load
from tinystories.serving.served_model import event_stream
from tinystories.serving.settings import ServerSettings
from tinystories.serving.stream import CompletionStream
from tinystories.text.faults import find_faults


@pytest.fixture(scope="module")
def server(tiny_run):
    with running(tiny_run) as client:
        yield client


@pytest.fixture(scope="module")
def model_and_tokenizer(tiny_run):
    """Model and tokenizer of the tiny run."""
    return load_model(str(tiny_run))


def greedy(model_and_tokenizer, prompt, max_new_tokens):
    return generate_story(*model_and_tokenizer, prompt, preset="greedy", max_new_tokens=max_new_tokens)


# ---- health


def test_health_answers_while_the_model_loads(tiny_run):
    go_on = threading.Event()

    def loader(settings):
        assert go_on.wait(60)
        return load(settings)

    with running(tiny_run, wait=False, loader=loader) as client:
        early = client.ask("/health")
        assert early.status == 503 and early.headers["Retry-After"] and early.json()["status"] == "loading"
        assert client.ask("/").status == 200
        assert client.ask("/v1/models").json()["data"][0]["id"] == "tiny"
        for answer in (client.generate(), client.complete()):
            assert (
                answer.status == 503
                and answer.headers["Retry-After"]
                and "loading" in answer.json()["error"]["message"]
            )
        go_on.set()
        report = client.until(lambda report: report["status"] == "ready")
        assert client.ask("/health").status == client.ask("/health", method="HEAD").status == 200
    assert report["parameters"] == 120_640 and report["device"] == "cpu" and report["context"] == 128
    assert report["queue"] == report["running"] == 0 and report["generation"]["temperature"] == 0.8


def test_the_openapi_schema(server, recwarn):
    schema = server.ask("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/health", "/generate", "/alternatives", "/v1/completions", "/v1/chat/completions", "/v1/models",
        "/v1/models/{name}",
    }  # fmt: skip
    assert not recwarn.list


# ---- generate


def test_a_story_is_streamed_and_is_that_of_the_command(server, model_and_tokenizer):
    answer = server.generate(seed=5, max_tokens=60)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
    text, done = answer.story()
    assert PROMPT + text == generate_story(*model_and_tokenizer, PROMPT, seed=5, max_new_tokens=60)
    assert len(answer.events()) > 10
    used = len(model_and_tokenizer[1](PROMPT)["input_ids"])
    assert (done["prompt_tokens"], done["seed"]) == (used, 5) and done["tokens_per_second"] > 1
    assert done["finish_reason"] == ("length" if done["completion_tokens"] == 60 else "stop")


def test_the_first_piece_is_sent_before_the_last_is_generated(tiny_run):
    with running(tiny_run, slow=0.02) as client:
        _, response = client.open("/generate", {"prompt": PROMPT, "max_tokens": 50})
        began = time.monotonic()
        assert response.readline().startswith(b"data:") and client.ask("/health").json()["running"] == 1
        response.read()
        assert time.monotonic() - began > 0.5


@pytest.mark.parametrize("preset", ["balanced", "conservative", "creative", "plain", "greedy"])
def test_presets(preset, server, model_and_tokenizer):
    text, done = server.generate(preset=preset, seed=9).story()
    assert PROMPT + text == generate_story(*model_and_tokenizer, PROMPT, preset=preset, seed=9)
    assert done["finish_reason"] == "stop" or done["prompt_tokens"] + done["completion_tokens"] == 128


def test_every_setting_has_an_effect(server):
    stories = [
        server.generate(**{"seed": 1, "max_tokens": 40, **options}).story()[0]
        for options in (
            {},
            {"temperature": 2.0},
            {"temperature": 0.1},
            {"top_k": 2},
            {"top_p": 0.1, "top_k": 0},
            {"repetition_penalty": 2.0},
            {"preset": "plain"},
            {"preset": "greedy"},
            {"seed": 2},
        )
    ]
    assert len(set(stories)) == len(stories)


def test_without_a_seed_stories_differ_and_their_seed_repeats_them(server):
    (first, done), (second, _) = (server.generate().story() for _ in range(2))
    assert first != second
    assert server.generate(seed=done["seed"]).story()[0] == first


def test_prompts_may_be_any_text(server, model_and_tokenizer):
    prompt = "A fox 🦊 said: “café, naïve 日本” \u0000\n🦊"
    text, done = server.generate(prompt, preset="creative", seed=3, max_tokens=20).story()
    assert prompt + text == generate_story(*model_and_tokenizer, prompt, preset="creative", seed=3, max_new_tokens=20)
    assert done["prompt_tokens"] == len(model_and_tokenizer[1](prompt)["input_ids"])


def test_a_stream_can_be_split_at_line_ends_of_any_kind(server):
    prompt = "a\u2028b\x85c\u2029d\r\ne\x0bf"
    answer = server.complete(prompt=prompt, echo=True, stream=True, max_tokens=1)
    lines = [line for line in answer.body.decode().splitlines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["choices"][0]["text"] == prompt


def test_post_process_cleans_the_whole_story(server):
    raw, _ = server.generate("once there  was", seed=4, max_tokens=30).story()
    text, done = server.generate("once there  was", seed=4, max_tokens=30, post_process=True).story()
    assert text == raw and done["text"] == post_process("once there  was" + raw) != "once there  was" + raw
    assert done["text"].startswith("Once there was")


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("prompt", {}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": 3}),
        ("prompt", {"prompt": "a" * 8_193}),
        ("max_tokens", {"prompt": "a", "max_tokens": 0}),
        ("max_tokens", {"prompt": "a", "max_tokens": 10**9}),
        ("max_tokens", {"prompt": "a", "max_tokens": "10"}),
        ("temperature", {"prompt": "a", "temperature": 0.05}),
        ("temperature", {"prompt": "a", "temperature": 2.1}),
        ("temperature", {"prompt": "a", "temperature": float("nan")}),
        ("temperature", {"prompt": "a", "temperature": 1.0, "preset": "greedy"}),
        ("top_k", {"prompt": "a", "top_k": -2}),
        ("top_p", {"prompt": "a", "top_p": 0}),
        ("top_p", {"prompt": "a", "top_p": 1.01}),
        ("repetition_penalty", {"prompt": "a", "repetition_penalty": 0.5}),
        ("preset", {"prompt": "a", "preset": "wild"}),
        ("seed", {"prompt": "a", "seed": -2}),
        ("seed", {"prompt": "a", "seed": 2**32}),
        ("post_process", {"prompt": "a", "post_process": "maybe"}),
        ("tempature", {"prompt": "a", "tempature": 1.0}),
    ],
)
def test_invalid_input_names_its_field(field, body, server):
    answer = server.ask("/generate", body)
    assert answer.status == 422
    assert answer.json()["error"]["param"] == field and field in answer.json()["error"]["message"]
    assert answer.json()["detail"][0]["loc"] == ["body", field]


def test_errors_contain_the_lengths(server, model_and_tokenizer):
    long = "zq" * 300
    error = server.generate(long)
    assert error.status == 400
    error, used = error.json()["error"], len(model_and_tokenizer[1](long)["input_ids"])
    assert (error["prompt_tokens"], error["context"]) == (used, 128)
    assert str(used) in error["message"] and "128" in error["message"]
    error = server.generate("a" * 9_000).json()["error"]
    assert "8192" in error["message"] and "9000" in error["message"]
    error = server.generate(max_tokens=127).json()["error"]
    assert error["maximum"] == 128 - len(model_and_tokenizer[1](PROMPT)["input_ids"])
    assert server.generate(max_tokens=error["maximum"], preset="greedy").status == 200
    nearly = "zq" * 58
    left = 128 - len(model_and_tokenizer[1](nearly)["input_ids"])
    assert 0 < left < 100 and server.generate(nearly).story()[1]["completion_tokens"] <= left


# ---- alternatives


def alternatives(server, prompt, word, **options):
    answer = server.ask("/alternatives", {"prompt": prompt, "word": word, **options})
    assert answer.status == 200, answer.body
    return answer.json()["probability"], {one["text"]: one["probability"] for one in answer.json()["alternatives"]}


def expected_alternatives(model, tokenizer, prompt, n):
    """The alternatives by transformers' `generate`: a greedy completion of each of the `n` most probable tokens."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    before, words = ids.shape[1], {}
    for token in model(ids).logits[0, -1].topk(n).indices.tolist():
        start = torch.cat([ids, torch.tensor([[token]])], 1)
        completion = model.generate(start, do_sample=False, repetition_penalty=1.0, max_new_tokens=7)[0]
        logprobs = model(completion[None]).logits[0].log_softmax(-1)
        places = range(before, len(completion))
        taken = [logprobs[place - 1, completion[place]].item() for place in places]
        texts = [
            tokenizer.decode(completion[: place + 1], skip_special_tokens=True)[len(prompt) :] for place in places
        ]
        match = re.match(r"\s*([\w'’-]+|[^\w\s]+)", texts[-1])
        if token == tokenizer.eos_token_id:
            words[""] = math.exp(taken[0])
        elif token not in tokenizer.all_special_ids and match:  # which are not only spaces
            size = next(size for size, text in enumerate(texts, 1) if text.startswith(match[0]))
            words[match[0]] = words.get(match[0], 0) + math.exp(sum(taken[:size]))
    return words


@torch.no_grad()
def test_alternatives_are_whole_words(server, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    text, _ = server.generate(seed=5, max_tokens=100).story()
    story = PROMPT + text
    several_tokens = 0
    for place in list(re.finditer(r"\s*([\w'’-]+|[^\w\s]+)", story))[6::4]:
        prompt, word = story[: place.start()], place[0]
        probability, found = alternatives(server, prompt, word, n=10)
        before, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + word, return_tensors="pt")["input_ids"]
        logprobs = model(ids).logits[0].log_softmax(-1)
        places = range(len(before), ids.shape[1])
        want = math.exp(sum(logprobs[place - 1, ids[0, place]].item() for place in places))
        assert probability == pytest.approx(want, abs=1e-4)
        expected = expected_alternatives(model, tokenizer, prompt, 10)
        assert found == pytest.approx({**expected, word: max(want, expected.get(word, 0))}, abs=1e-4)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        several_tokens += any(len(tokenizer(word, add_special_tokens=False)["input_ids"]) > 1 for word in found)
    assert several_tokens > 3


@torch.no_grad()
def test_alternatives_have_their_spaces_with_sentencepiece(tmp_path):
    """Its tokens begin with "▁", which is lost if a token is decoded alone."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], show_progress=False)
    backend.train_from_iterator(sample_stories(200), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(TinyLlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.5, bos_token_id=0, eos_token_id=0,
    )).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    with running(tmp_path) as client:
        for prompt in ("Once upon a time", "The cat was big and", "One day, Lily saw"):
            _, found = alternatives(client, prompt, " the", n=10)
            found.pop(" the")
            expected = expected_alternatives(model, tokenizer, prompt, 10)
            expected.pop(" the", None)
            assert found == pytest.approx(expected, abs=1e-4)
            assert any(text.startswith(" ") for text in found)


@torch.no_grad()
def test_the_end_of_a_story_is_an_alternative(server, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    seed = next(seed for seed in range(30) if server.generate(seed=seed).story()[1]["finish_reason"] == "stop")
    story = PROMPT + server.generate(seed=seed).story()[0]
    _, found = alternatives(server, story, " Then", n=10)
    probabilities = model(**tokenizer(story, return_tensors="pt")).logits[0, -1].softmax(-1)
    assert found[""] == pytest.approx(probabilities[tokenizer.eos_token_id].item(), abs=1e-4)


def test_alternatives_fit_the_context_and_the_batch(server, tiny_run, model_and_tokenizer):
    story = PROMPT + server.generate(seed=2, max_tokens=100).story()[0]
    while len(model_and_tokenizer[1](story)["input_ids"]) < 128:
        story += " a"
    probability, found = alternatives(server, story.removesuffix(" a"), " a")
    assert 0 < probability < 1 and found
    full = server.ask("/alternatives", {"prompt": story, "word": " a"})
    assert full.status == 400 and full.json()["error"]["code"] == "context_length_exceeded"
    with running(tiny_run, max_batch=2, max_queue=2) as small:
        assert 1 <= len(alternatives(small, PROMPT, " a", n=10)[1]) <= 3  # with the word itself


def test_a_word_in_the_middle_of_a_token_has_no_probability(server):
    probability, found = alternatives(server, "Once upon a ti", "me")
    assert probability is None and len(found) > 2


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": "a" * 8_193}),
        ("word", {"word": ""}),
        ("word", {"word": "a" * 101}),
        ("n", {"n": 0}),
        ("n", {"n": 11}),
        ("m", {"m": 1}),
    ],
)
def test_invalid_alternatives_name_their_field(field, change, server):
    answer = server.ask("/alternatives", {"prompt": "Once", "word": " upon", **change})
    assert (answer.status, answer.json()["error"]["param"]) == (422, field)


# ---- many at once


def test_concurrent_streams_equal_single_ones(server):
    requests = [
        {"seed": seed, "preset": preset, "max_tokens": 50} for seed in range(8) for preset in ("creative", "greedy")
    ]
    alone = [server.generate(f"One day {place}", **options).story()[0] for place, options in enumerate(requests)]
    with ThreadPoolExecutor(16) as pool:
        stories = pool.map(lambda pair: server.generate(f"One day {pair[0]}", **pair[1]), enumerate(requests))
        together = [story.story()[0] for story in stories]
        assert together == alone


def test_a_client_that_disconnects_stops_its_story(tiny_run):
    with running(tiny_run, slow=0.02) as client:
        for path, more in (("/generate", {}), ("/v1/completions", {"model": "tiny", "stream": True})):
            connection, response = client.open(path, {"prompt": PROMPT, "max_tokens": 110, **more})
            response.readline()
            written = client.engine.tokens_generated
            response.close()
            connection.close()
            client.until(lambda report: report["running"] == 0, seconds=0.8)
            assert client.engine.tokens_generated - written < 15
        quiet = client.socket()  # a client that does not stream
        body = json.dumps({"model": "tiny", "prompt": PROMPT, "max_tokens": 110, "n": 4}).encode()
        quiet.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
        client.until(lambda report: report["running"] == 4)
        quiet.close()
        client.until(lambda report: report["running"] == 0, seconds=0.8)


def test_a_full_queue_is_refused_immediately(tiny_run):
    with running(tiny_run, slow=0.03, max_batch=2, max_queue=2) as client:
        streams = [client.open("/generate", {"prompt": PROMPT, "max_tokens": 100}) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(client.generate, max_tokens=5) for _ in range(2)]
            client.until(lambda report: report["queue"] == 2)
            began = time.monotonic()
            refused = [client.generate(), client.complete()]
            assert time.monotonic() - began < 1
            for answer in refused:
                assert answer.status == 503 and int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["error"]["type"] == "overloaded"
            for connection, response in streams:
                response.close()
                connection.close()
            assert [each.result().story()[1]["completion_tokens"] for each in waiting] == [5, 5]


@pytest.mark.slow
def test_requests_have_a_time_limit(tiny_run):
    # The first request ends after a forward pass, at 2.7 seconds. By then, the time limit of the second, which is
    # queued, has passed, too, even if it arrived half a second later.
    with running(tiny_run, slow=0.9, max_batch=1, max_queue=2, time_limit=2) as client:
        with ThreadPoolExecutor(2) as pool:
            first, second = (pool.submit(client.generate, max_tokens=100) for _ in range(2))
            answers = [first.result(), second.result()]
        ran, waited = sorted(answers, key=lambda answer: answer.status)
        text, done = ran.story()
        assert done["finish_reason"] == "time" and text and done["completion_tokens"] < 60
        assert waited.status == 503 and waited.headers["Retry-After"]


def test_the_rate_of_a_client_is_limited(tiny_run):
    with running(tiny_run, rate_limit="3/minute") as client:
        statuses = [client.generate(max_tokens=1).status for _ in range(3)] + [client.complete(max_tokens=1).status]
        assert statuses == [200, 200, 200, 429]
        refused = client.generate(max_tokens=1)
        assert 1 <= int(refused.headers["Retry-After"]) <= 61
        assert refused.json()["error"]["type"] == "rate_limit_exceeded"
        # 127.0.0.1 is not a trusted proxy, so this is still the same client.
        assert client.generate(max_tokens=1, headers={"X-Forwarded-For": "203.0.113.9"}).status == 429
        assert client.ask("/health").status == 200


def test_trusted_proxies(tiny_run):
    with running(tiny_run, rate_limit="1/minute", trusted_proxies=("127.0.0.1",)) as client:

        def ask(forwarded):
            return client.generate(max_tokens=1, headers={"X-Forwarded-For": forwarded}).status

        assert [ask("203.0.113.1"), ask("203.0.113.1"), ask("203.0.113.2")] == [200, 429, 200]
        # Only the entry that the trusted proxy added counts.
        assert ask("198.51.100.7, 203.0.113.2") == 429
        assert [ask("2001:db8:1:2::1"), ask("2001:db8:1:2::2"), ask("2001:db8:1:3::1")] == [200, 429, 200]


# ---- OpenAI's API


def test_completions_have_the_shape_of_openai(server, model_and_tokenizer):
    answer = server.complete(max_tokens=12, temperature=0)
    assert answer.status == 200
    body = answer.json()
    assert body["object"] == "text_completion" and body["model"] == "tiny" and body["id"].startswith("cmpl-")
    assert PROMPT + body["choices"][0]["text"] == greedy(model_and_tokenizer, PROMPT, 12)
    used, written = len(model_and_tokenizer[1](PROMPT)["input_ids"]), body["usage"]["completion_tokens"]
    assert body["choices"][0]["finish_reason"] == ("length" if written == 12 else "stop")
    assert body["choices"][0]["logprobs"] is None and 0 < written <= 12
    assert body["usage"] == {"prompt_tokens": used, "completion_tokens": written, "total_tokens": used + written}


def test_streamed_completions_equal_complete_ones(server):
    options = {"max_tokens": 30, "seed": 8, "n": 2, "stop": [".", "zzz"], "logprobs": 1}
    whole = server.complete(**options).json()
    events = server.complete(**options, stream=True, stream_options={"include_usage": True}).events()
    assert events.pop() == (None, "[DONE]")
    *chunks, last = [data for _, data in events]
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert {chunk["usage"] for chunk in chunks} == {None} and len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"] and "." not in choice["text"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [choice["finish_reason"]]
        logprobs = [part["logprobs"] for part in parts if part["logprobs"]]
        for name, values in choice["logprobs"].items():
            assert [value for each in logprobs for value in each[name]] == values
    plain = server.complete(**options, stream=True).events()
    assert "usage" not in plain[0][1]


def test_several_prompts_and_choices(server):
    choices = server.complete(prompt=["One day", "The cat"], n=2, seed=3, max_tokens=8).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in choices}) == 4
    alone = server.complete(prompt="The cat", seed=5, max_tokens=8).json()["choices"][0]["text"]
    assert choices[2]["text"] == alone
    usage = server.complete(prompt=["One day", "The cat"], n=2, max_tokens=8).json()["usage"]
    one = server.complete(prompt="One day", max_tokens=1).json()["usage"]["prompt_tokens"]
    two = server.complete(prompt="The cat", max_tokens=1).json()["usage"]["prompt_tokens"]
    assert usage["prompt_tokens"] == one + two


def test_echo_with_logprobs_scores_a_text(server, model_and_tokenizer):
    tokenizer = model_and_tokenizer[1]
    ids = tokenizer(PROMPT)["input_ids"]
    for prompt in (PROMPT, ids):
        choice = server.complete(prompt=prompt, echo=True, max_tokens=0, logprobs=1).json()["choices"][0]
        logprobs = choice["logprobs"]
        assert choice["text"] == PROMPT and choice["finish_reason"] == "length"
        assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(ids)
        assert logprobs["token_logprobs"][0] is None and all(value < 0 for value in logprobs["token_logprobs"][1:])
        for token, offset in list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))[1:]:
            assert PROMPT.startswith(token, offset)
    story = server.complete(echo=True, max_tokens=4, logprobs=0, temperature=0).json()["choices"][0]
    assert story["text"] == greedy(model_and_tokenizer, PROMPT, 4)
    assert "".join(story["logprobs"]["tokens"][1:]) == story["text"]


@pytest.mark.parametrize(
    ("status", "field", "change"),
    [
        (404, "model", {"model": "gpt-4"}),
        (422, "model", {"model": None}),
        (422, "prompt", {"prompt": "a" * 8_193}),
        (422, "prompt", {"prompt": [10**6]}),
        (422, "prompt", {"prompt": [[]]}),
        (422, "prompt", {"prompt": ["a"] * 17}),
        (422, "prompt", {"prompt": ["a", 3]}),
        (400, "prompt", {"prompt": "zq" * 300}),
        (422, "n", {"n": 17}),
        (422, "n", {"prompt": ["a"] * 9, "n": 2}),
        (422, "max_tokens", {"max_tokens": 1_000}),
        (422, "max_tokens", {"max_tokens": 0}),
        (422, "temperature", {"temperature": 2.5}),
        (422, "logprobs", {"logprobs": 6}),
        (422, "stop", {"stop": ""}),
        (422, "stop", {"stop": ["a"] * 5}),
        (422, "suffix", {"suffix": "The end."}),
        (422, "best_of", {"best_of": 17}),
        (422, "best_of", {"best_of": 0}),
        (422, "best_of", {"best_of": 2, "n": 3}),
        (422, "best_of", {"best_of": 3, "stream": True}),
        (422, "best_of", {"prompt": ["a"] * 3, "best_of": 6}),
        (422, "frequency_penalty", {"frequency_penalty": 0.5}),
        (422, "logit_bias", {"logit_bias": {"5": 1}}),
        (422, "stream_options", {"stream_options": {"include_usage": True}}),
        (422, "messages", {"messages": []}),
    ],
)
def test_wrong_completions_name_their_field(status, field, change, server):
    answer = server.complete(**change)
    assert (answer.status, answer.json()["error"]["param"]) == (status, field)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suffix": "The end."}, "not supported by this server"),
        ({"best_of": 3, "stream": True}, "cannot be streamed"),
        ({"best_of": "3"}, "best_of"),
        ({"logit_bias": {"5": 1}}, "not supported by this server"),
        ({"presence_penalty": 0.5}, "not supported by this server"),
        ({"stop": ["a"] * 5}, "at most 4 stop strings"),
        ({"stop": "a" * 101}, "1 to 100 characters"),
        ({"stop": ["a", 1]}, "at most 4 strings"),
        ({"stop": 1}, "at most 4 strings"),
        ({"best_of": 2, "n": 3}, "at least n = 3"),
        ({"logit_bias": {"5": "x"}}, "not supported by this server"),
        ({"frequency_penalty": 0.5}, "not supported by this server"),
        ({"frequency_penalty": False}, "not supported by this server"),
        ({"store": True}, "not supported by this server"),
        ({"service_tier": "flex"}, "not supported by this server"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "include_obfuscation is not supported by this server",
        ),
        ({"prompt": []}, "prompt: List should have at least 1 item"),
        ({"tools": []}, "unknown parameter"),
        ({"response_format": {"type": "json_object"}}, "unknown parameter"),
        ({"min_p": 0.1}, "unknown parameter"),
    ],
)
def test_invalid_completions_say_what_is_wrong(change, words, server):
    assert words in server.complete(**change).json()["error"]["message"]


def test_a_form_encoded_body_gets_a_hint(server):
    request = urllib.request.Request(f"{server.url}/generate", data=b'{"prompt": "a"}')
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 422 and "content-type: application/json" in json.load(error.value)["error"]["message"]


def test_best_of_returns_the_candidates_with_the_fewest_faults(server):
    options = {"seed": 3, "max_tokens": 60, "temperature": 1.5, "top_k": 0}
    answer = server.complete(n=8, logprobs=0, **options).json()

    def rank(choice: dict) -> tuple[int, float]:
        faults = find_faults(PROMPT + choice["text"], choice["finish_reason"] == "stop")
        nats = choice["logprobs"]["token_logprobs"]
        return len(faults), -sum(nats) / len(nats)

    candidates = sorted(answer["choices"], key=rank)
    assert len({choice["text"] for choice in candidates}) == 8
    best = server.complete(n=3, best_of=8, logprobs=0, **options).json()
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in candidates[:3]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1, 2]
    assert best["choices"][0]["logprobs"] == candidates[0]["logprobs"]
    assert best["usage"] == answer["usage"]  # of all candidates, as in OpenAI's API
    (echoed,) = server.complete(best_of=8, echo=True, **options).json()["choices"]
    assert echoed["logprobs"] is None and echoed["text"] == PROMPT + candidates[0]["text"]
    two = server.complete(prompt=[PROMPT] * 2, best_of=4, **options).json()["choices"]
    assert [choice["index"] for choice in two] == [0, 1]
    assert two[0]["text"] == min(answer["choices"][:4], key=rank)["text"]


def test_seed_minus_one_is_random(server):
    seeds = {server.generate(seed=-1, max_tokens=1).story()[1]["seed"] for _ in range(3)}
    assert len(seeds) == 3 and min(seeds) >= 0
    choices = [server.complete(seed=-1, max_tokens=40).json()["choices"][0]["text"] for _ in range(3)]
    assert len(set(choices)) > 1


def test_neutral_values_are_accepted(server):
    nothing = {
        "best_of": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "suffix": "",
        "logit_bias": {},
        "user": "me",
        "metadata": {"run": "1"},
        "prompt_cache_key": "a",
        "safety_identifier": "b",
        "service_tier": "auto",
        "store": False,
        "stop": [],
        "stream": False,
        "echo": False,
        "n": 1,
    }
    quiet = {"stream": True, "stream_options": {"include_obfuscation": False}}
    assert server.complete(**quiet, max_tokens=2).status == 200
    unset = dict.fromkeys(("temperature", "top_p", "logprobs", "stream_options", *nothing))
    assert server.complete(**unset, max_tokens=2).status == 200
    two = {"n": 2, "seed": 1, "max_tokens": 5}  # the best two of two completions are both
    assert server.complete(best_of=2, **two).json()["choices"] == server.complete(**two).json()["choices"]
    no_limit = [server.complete(top_k=top_k, seed=1, max_tokens=20).json()["choices"] for top_k in (-1, 0)]
    assert no_limit[0] == no_limit[1]
    assert (
        server.generate(top_k=-1, seed=1, max_tokens=5).story()[0]
        == server.generate(top_k=0, seed=1, max_tokens=5).story()[0]
    )
    options = {"seed": 1, "max_tokens": 5}
    assert server.complete(**nothing, **options).json()["choices"] == server.complete(**options).json()["choices"]


def test_the_official_client(server, model_and_tokenizer):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, temperature=0)
    assert PROMPT + whole.choices[0].text == greedy(model_and_tokenizer, PROMPT, 20)
    chunks = list(
        client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=20, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    with pytest.raises(openai.BadRequestError, match="128"):
        client.completions.create(model="tiny", prompt="zq" * 300)
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.completions.create(model="tiny", prompt="a", temperature=3)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="a")


def test_a_client_that_disconnects_before_the_response(tiny_run, model_and_tokenizer):
    """The client disconnects after the first token, before the response has begun."""

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    async def scenario(engine):
        request = GenerationRequest(
            model_and_tokenizer[1](PROMPT)["input_ids"],
            110,
            SamplingSettings(),
            seed=1,
            deadline=time.monotonic() + 60,
        )
        stories = CompletionStream(engine, [request])
        response = event_stream((b"" async for _ in stories.events()), stories)
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        await asyncio.sleep(0.3)
        return engine.running + engine.queue_length

    with running(tiny_run, slow=0.02) as client:
        assert asyncio.run(scenario(client.engine)) == 0


@pytest.mark.slow
def test_lm_eval_through_the_server(server, model_and_tokenizer, tiny_run, tmp_path):
    """lm-evaluation-harness gets the same scores from `/v1/completions` as from the model itself."""
    for package in ("lm_eval", "tenacity"):
        pytest.importorskip(package)
    model, tokenizer = model_and_tokenizer
    subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args"),
            f"model=tiny,base_url={server.url}/v1/completions,tokenizer={tiny_run},tokenizer_backend=huggingface,"
            "tokenized_requests=True,max_length=127,num_concurrent=4,trust_remote_code=True",
            *("--include_path", "tests/lm_eval_tasks", "--tasks", "story_bits_per_byte"),
            *("--output_path", str(tmp_path)),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]
    lines = (ROOT / "tests" / "lm_eval_tasks" / "stories.jsonl").read_text().splitlines()
    nats = size = 0
    for text in (json.loads(line)["text"] for line in lines):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            nats += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        size += len(text.encode())
    want = nats / math.log(2) / size
    assert results["story_bits_per_byte"]["bits_per_byte,none"] == pytest.approx(want, rel=1e-4)


# ---- headers


def test_security_headers(server):
    for answer in (server.ask("/"), server.ask("/health"), server.generate(max_tokens=1), server.ask("/nowhere")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY" and answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers and "Access-Control-Allow-Origin" not in answer.headers
    assert server.ask("/nowhere").status == 404 and server.ask("/generate").status == 405


def test_other_origins_are_allowed_only_where_named(tiny_run, server):
    asking = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert server.ask("/generate", headers=asking, method="OPTIONS").status == 405
    # A form or script of another page can send this without a preflight request; the server does not read it as JSON.
    body = json.dumps({"prompt": "a"})
    assert server.ask("/generate", body, {"Content-Type": "text/plain"}).status == 422
    with running(tiny_run, cors_origins=("https://example.org",)) as client:
        answer = client.ask("/generate", headers=asking, method="OPTIONS")
        assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
        other = {**asking, "Origin": "https://example.com"}
        assert "Access-Control-Allow-Origin" not in client.ask("/generate", headers=other, method="OPTIONS").headers


# ---- the command


@contextmanager
def command(*arguments, **environment):
    """`tinystories serve` in a process: the process, a client, and its output after it has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tinystories.cli", "serve", *map(str, arguments), "--port", "0"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
        client = Client(int(found[1]))
        client.until(lambda report: report["status"] == "ready", seconds=60)
        yield process, client, lines
    finally:
        process.kill()
        process.wait(20)


def test_sigterm_lets_stories_finish(tiny_run):
    secret = "the purple walrus of Zanzibar"
    environment = {"CHECKPOINT_PATH": str(tiny_run), "DEVICE": "cpu"}
    with command("--max-batch", 1, **environment) as (process, client, lines):
        _, response = client.open("/generate", {"prompt": secret, "max_tokens": 100})
        # Sixteen stories, one after the other, take some seconds.
        body = {"model": tiny_run.name, "prompt": secret, "max_tokens": 100, "n": 16}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.ask, "/v1/completions", body)
            client.until(lambda report: report["queue"] >= 10)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(OSError):
                client.ask("/health")
            assert process.poll() is None and b"event: done" in response.read()
            choices = waiting.result().json()["choices"]
            assert len(choices) == 16 and all(choice["text"] for choice in choices)
        assert process.wait(20) == -signal.SIGTERM
    log = "".join(lines)
    assert "walrus" not in log and "POST /generate" in log and re.search(r"SIGTERM: waiting up to 30 s for \d+", log)


SLOW_LOAD = """
import sys, time
import tinystories.serving.serve as run

load = run.load

def slowly(settings):
    time.sleep(1.0)
    loaded = load(settings)
    time.sleep(1.0)
    return loaded

run.load = slowly
from tinystories.cli import main
sys.exit(main(["serve", sys.argv[1], "--port", "0"]))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("after", [pytest.param(0.3, marks=pytest.mark.slow), 1.5])
def test_a_signal_while_the_model_loads_ends_the_server(sent, after, tiny_run):
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SLOW_LOAD, str(tiny_run)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    try:
        assert process.stdout.readline().startswith("http://")
        time.sleep(after)
        process.send_signal(sent)
        written = process.stdout.read()
        status = process.wait(20)
    finally:
        process.kill()
    assert status == (130 if sent == signal.SIGINT else -sent)
    assert sent.name in written and "ready" not in written and "Traceback" not in written


def test_a_model_loaded_after_the_signal_is_not_reported_as_ready(tiny_run, capsys):
    def loading():
        engine.drain(0.1)  # what a signal does
        return load(ServerSettings(str(tiny_run)))

    engine = Engine(loading, max_batch=2, on_state=lambda: (report(engine, None), said.set()))
    said = threading.Event()
    engine.start()
    assert said.wait(30)
    engine.close()
    assert engine.error is None and capsys.readouterr().out == ""


def test_a_port_in_use_is_reported_before_the_model_is_loaded(tiny_run, tmp_path, capsys):
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"")  # loading it would fail with another message
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(broken), "--port", str(taken.getsockname()[1])]) == 2
    assert "in use: choose another --port" in capsys.readouterr().err


def test_mistakes_are_one_line(tiny_run, tmp_path, monkeypatch, capsys):
    def one_line(*arguments, silent=False, **environment):
        for name in ("CHECKPOINT_PATH", "TOKENIZER_PATH", "DEVICE", "PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main(["serve", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert not (silent and out), out
        return err.strip().splitlines()[-1]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "tinystories train quickstart" in one_line("runs/none")
    assert "has no config.json" in one_line("runs")
    assert "the Hub (https://huggingface.co) cannot be reached" in one_line("nobody/nothing", silent=True)
    assert "no folder nothing" in one_line(tiny_run, "--port", 0, "--tokenizer", "nothing")
    (tmp_path / "config.json").write_text((tiny_run / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    assert "safetensors" in one_line(CHECKPOINT_PATH=str(tmp_path))
    (tmp_path / "adapter.safetensors").write_bytes(b"")  # not what would be loaded
    assert "safetensors" in one_line(CHECKPOINT_PATH=str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port" in one_line(tiny_run, "--port", taken.getsockname()[1])
    assert "PORT" in one_line(tiny_run, PORT="http")
    assert "65535" in one_line(tiny_run, "--port", 70_000)
    assert "nowhere.invalid" in one_line(tiny_run, "--host", "nowhere.invalid", "--port", 0)
    assert "--host" in one_line(tiny_run, "--host", "192.0.2.1", "--port", 0)  # not an address of this machine
    for proxy in ("proxy.local", "*", "10.0.0.0/99"):
        assert "--trusted-proxy" in one_line(tiny_run, "--port", 0, "--trusted-proxy", proxy)
    for origin in ("example.org", "https://example.org/page", "null"):
        assert "--cors-origin" in one_line(tiny_run, "--port", 0, "--cors-origin", origin)
    assert "5/fortnight" in one_line(tiny_run, "--port", 0, "--rate-limit", "5/fortnight")
    wrong_device = one_line(tiny_run, "--port", 0, "--device", "warp:1", silent=True)
    assert wrong_device.endswith("There is no device 'warp:1': use a device such as cpu, cuda:0 or mps.")
    # This is found when the model is loaded, after the server has begun to answer.
    assert "tokenizer" in one_line(tiny_run, "--port", 0, TOKENIZER_PATH=str(tmp_path))
    for name in ("serve", "app", "middleware"):
        monkeypatch.delitem(sys.modules, f"tinystories.serving.{name}")
    monkeypatch.setitem(sys.modules, "limits", None)
    assert "pip install '.[serve]'" in one_line(tiny_run)
