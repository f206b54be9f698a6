"""`/v1/chat/completions`, by the client of OpenAI and over HTTP on 127.0.0.1."""

# ruff: noqa: E402  what the server needs is installed with an extra

import json
import shutil

import pytest


for package in ("fastapi", "limits", "uvicorn"):
    pytest.importorskip(package)
openai = pytest.importorskip("openai")

from story_server import PROMPT, running
from transformers import pipeline

from tinystories.generation.generate import generate_story
from tinystories.runs.loading import load_model


USER = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def server(tiny_run):
    with running(tiny_run) as client:
        yield client


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expected(tiny_run):
    """The 20 tokens that greedy decoding appends to the prompt."""
    story = generate_story(*load_model(str(tiny_run)), PROMPT, preset="greedy", max_new_tokens=20)
    return story.removeprefix(PROMPT)


def ask(client, messages=USER, **options):
    return client.chat.completions.create(**{"model": "tiny", "messages": messages, **options})


def greedy(client, messages=USER, max_tokens=20, **options):
    return ask(client, messages, max_tokens=max_tokens, temperature=0, **options).choices[0].message.content


def chat(server, **body):
    return server.ask("/v1/chat/completions", {"model": "tiny", "messages": USER, **body})


def test_the_answer_continues_the_user_message(client, expected, tiny_run):
    answer = ask(client, max_tokens=20, temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "tiny"
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content == expected and choice.message.refusal is None
    used, written = len(load_model(str(tiny_run))[1](PROMPT)["input_ids"]), answer.usage.completion_tokens
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (used, used + written)
    assert choice.finish_reason == ("length" if written == 20 else "stop") and choice.logprobs is None


def test_a_streamed_answer_equals_the_complete_one(client, expected):
    options = {"max_completion_tokens": 20, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = ask(client, **options)
    chunks = list(ask(client, **options, stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks
    assert last.usage == whole.usage and not last.choices
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", *[None] * (len(chunks) - 1)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [*[None] * (len(chunks) - 1), whole.choices[0].finish_reason] and len(chunks) > 10
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert tokens == whole.choices[0].logprobs.content and len(tokens) == whole.usage.completion_tokens
    for token in tokens:
        assert [each.token for each in token.top_logprobs].count(token.token) == 1, "greedy: the most likely"
        assert token.logprob == token.top_logprobs[0].logprob and bytes(token.bytes).decode() == token.token


def test_several_answers_have_their_seeds(client):
    first, second = ask(client, n=2, seed=4, max_tokens=20).choices
    assert first.message.content != second.message.content
    assert ask(client, seed=5, max_tokens=20).choices[0].message.content == second.message.content


def test_earlier_and_system_messages_are_ignored(client, expected):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": " there. The end."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": PROMPT[:10]}, {"type": "text", "text": PROMPT[10:]}]},
    ]
    assert greedy(client, messages) == expected


def test_an_answer_is_continued(client, expected):
    first = ask(client, max_tokens=8, temperature=0).choices[0].message
    assert first.content + greedy(client, [*USER, first], max_tokens=12) == expected


def test_stop_strings_end_the_answer(client, expected):
    word = expected.split()[3]
    assert greedy(client, stop=word) == expected[: expected.index(word)]


def test_pipeline_gives_the_same_answer(client, expected, tiny_run):
    model, tokenizer = load_model(str(tiny_run))
    storyteller = pipeline("text-generation", model=model, tokenizer=tokenizer)
    answer = storyteller(USER, do_sample=False, repetition_penalty=1.0, max_new_tokens=20)[0]["generated_text"][-1]
    assert answer["content"] == expected


def test_a_run_without_a_chat_template(tiny_run, tmp_path, expected):
    old = shutil.copytree(tiny_run, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoint-*"))
    (old / "chat_template.jinja").unlink()
    assert load_model(str(old))[1].chat_template is None
    with running(old) as server:
        answer = chat(server, max_tokens=20, temperature=0).json()
    assert answer["choices"][0]["message"]["content"] == expected


def test_a_template_that_refuses_messages(tiny_run, tmp_path):
    strict = shutil.copytree(tiny_run, tmp_path / "strict", ignore=shutil.ignore_patterns("checkpoint-*"))
    (strict / "chat_template.jinja").write_text("{{ raise_exception('Roles must alternate.') }}")
    with running(strict) as server:
        answer = chat(server)
    assert answer.status == 422 and "Roles must alternate." in answer.json()["error"]["message"]


def test_values_that_change_nothing_are_accepted(server, expected):
    nothing = {
        "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "n": 1, "stop": [], "stream": False,
        "store": False, "user": "me", "metadata": {"chat": "1"}, "service_tier": "auto", "tools": [],
        "tool_choice": "none", "parallel_tool_calls": True, "response_format": {"type": "text"},
        "modalities": ["text"], "logprobs": False, "top_logprobs": None,
    }  # fmt: skip
    answer = chat(server, **nothing, max_tokens=20, max_completion_tokens=20, temperature=0)
    assert answer.status == 200 and answer.json()["choices"][0]["message"]["content"] == expected
    unset = dict.fromkeys((*nothing, "max_tokens", "max_completion_tokens"))
    assert chat(server, **unset, temperature=0).status == 200


@pytest.mark.parametrize(
    ("status", "field", "change", "words"),
    [
        (404, "model", {"model": "gpt-4"}, "serves 'tiny'"),
        (422, "messages", {"messages": []}, "at least 1"),
        (422, "messages", {"messages": [{"content": "a"}]}, "required"),
        (422, "messages", {"messages": [{"role": "tool", "content": "a"}]}, "'user'"),
        (422, "messages", {"messages": [{"role": "user", "content": "a" * 8_193}]}, "8,192"),
        (422, "messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'text'"),
        (400, "messages", {"messages": [{"role": "user", "content": "zq" * 300}]}, "128"),
        (422, "max_tokens", {"max_tokens": 1_000}, "at most"),
        (422, "max_tokens", {"max_tokens": 0}, "greater than or equal to 1"),
        (422, "max_tokens", {"max_tokens": 3, "max_completion_tokens": 4}, "differ"),
        (422, "top_logprobs", {"top_logprobs": 2}, '"logprobs": true'),
        (422, "top_logprobs", {"logprobs": True, "top_logprobs": 21}, "20"),
        (422, "stream_options", {"stream_options": {}}, '"stream": true'),
        (422, "tools", {"tools": [{"type": "function"}]}, "not supported"),
        (422, "response_format", {"response_format": {"type": "json_object"}}, "not supported"),
        (422, "logit_bias", {"logit_bias": {"5": 1}}, "not supported"),
        (422, "prompt", {"prompt": "a"}, "unknown parameter"),
        (422, "n", {"n": 17}, "16"),
    ],
)
def test_invalid_input_names_its_field(status, field, change, words, server):
    answer = chat(server, **change)
    error = answer.json()["error"]
    assert (answer.status, error["param"]) == (status, field) and words in error["message"], error
    assert set(error) >= {"message", "type", "param", "code"}


def test_the_client_raises_the_errors_of_openai(client):
    with pytest.raises(openai.BadRequestError, match="128") as error:
        ask(client, [{"role": "user", "content": "zq" * 300}])
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        ask(client, temperature=3)
    with pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-4")


def test_messages_may_be_any_text(server):
    text = "A fox \U0001f98a said: “café” \u2028\x00\n"
    answer = chat(server, messages=[{"role": "user", "content": text}], stream=True, max_tokens=3, seed=1)
    lines = [line for line in answer.body.decode().splitlines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["choices"][0]["delta"]["role"] == "assistant"
