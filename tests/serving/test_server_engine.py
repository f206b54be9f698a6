"""The engine behind the server: batches, detokenization, the queue, and how completions end."""

import queue
import random
import threading
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from helpers import random_ids, sharpen, tiny_model
from story_server import make_slow
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tinystories.generation.generate import generate_story
from tinystories.generation.native import speculation, use_native_decoding
from tinystories.generation.native.draft_length import DraftLength
from tinystories.generation.native.speculation import Lookahead
from tinystories.generation.presets import GREEDY, PRESETS, SamplingSettings
from tinystories.runs.builtin_model import FOLDER
from tinystories.runs.loading import load_model
from tinystories.serving import batch as batches
from tinystories.serving.batch import ContinuousBatch
from tinystories.serving.detokenizer import Detokenizer, token_text
from tinystories.serving.engine import Engine, Finished, GenerationRequest, ServiceUnavailable, unsupported_settings
from tinystories.serving.settings import ServerSettings, read_settings
from tinystories.utils.errors import UserError


PROMPT = "Once upon a time there was"
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


# ---- the batch

PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (3, 21, 9, 1, 14, 30, 5, 12, 7, 2)]


def decoded_alone(batch, prompts, steps):
    """For each prompt, the logits `[steps, vocab]` of a greedy story that is alone in the batch."""
    alone = []
    for prompt in prompts:
        rows = [batch.add(prompt)[-1]]
        while len(rows) < steps:
            rows.append(batch.step([rows[-1].argmax().item()])[0])
        alone.append(torch.stack(rows))
        batch.remove(0)
    return alone


def decoded_together(batch, prompts, steps):
    """The same in a shared batch: a story is added at every second step and removed when it is complete."""
    rows, running, coming = [[] for _ in prompts], [], list(range(len(prompts)))
    for turn in range(1_000):
        if coming and turn % 2 == 0:
            running.append(coming.pop(0))
            rows[running[-1]].append(batch.add(prompts[running[-1]])[-1])
        if not running:
            break
        for story, logits in zip(running, batch.step([rows[i][-1].argmax().item() for i in running]), strict=True):
            rows[story].append(logits)
        for place in reversed(range(len(running))):
            if len(rows[running[place]]) >= steps:
                batch.remove(place)
                running[place] = running[-1]
                running.pop()
    return [torch.stack(row[:steps]) for row in rows]


@pytest.fixture(params=["native", "torch"])
def step(request, monkeypatch):
    """With and without native decoding; without a compiler, torch computes the tokens."""
    if request.param == "torch":
        monkeypatch.setattr(batches, "use_native_decoding", lambda model, **_: model)
    return request.param


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_logits_have_the_same_bits_alone_and_in_a_batch(kind, step):
    model = tiny_model() if kind == "ours" else sharpen(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    batch = ContinuousBatch(model, 8, 64)
    assert batch.native == (step == "native")
    assert batch.exact_sizes == list(range(1, 9)) if batch.native else batch.exact_sizes[-1] == 8
    for alone, together in zip(decoded_alone(batch, PROMPTS, 12), decoded_together(batch, PROMPTS, 12), strict=True):
        assert torch.equal(alone, together)


def test_a_rope_that_depends_on_the_longest_row_is_not_decoded_natively():
    """In a batch, such rotary angles would be those of the longest row."""
    batch = ContinuousBatch(tiny_model(rope_parameters={"rope_type": "dynamic", "factor": 2.0}), 8, 64)
    assert not batch.native and batch.exact_sizes != list(range(1, 9))
    for alone, together in zip(decoded_alone(batch, PROMPTS, 8), decoded_together(batch, PROMPTS, 8), strict=True):
        assert torch.equal(alone, together)


def test_the_logits_are_those_of_generate(step):
    """With the native step, which `generate` also uses, they are bit-identical."""
    model = tiny_model()
    own = decoded_alone(ContinuousBatch(model, 8, 64), PROMPTS, 12)
    if step == "native":
        together = decoded_together(ContinuousBatch(model, 8, 64), PROMPTS, 12)
    for prompt, logits in zip(PROMPTS, own, strict=True):
        output = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        torch.testing.assert_close(logits, torch.cat(output.logits), rtol=1e-4, atol=1e-4)
        if step == "native":
            assert torch.equal(together.pop(0), torch.cat(output.logits))


def test_with_int8_weights_the_logits_are_those_of_generate():
    model = use_native_decoding(tiny_model(), "int8")
    (together,) = decoded_together(ContinuousBatch(model, 8, 64), PROMPTS[:1], 12)
    config = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    output = model.generate(torch.tensor(PROMPTS[:1]), **config, output_logits=True, return_dict_in_generate=True)
    assert torch.equal(together, torch.cat(output.logits))
    (exact,) = decoded_alone(ContinuousBatch(tiny_model(), 8, 64), PROMPTS[:1], 1)
    assert not torch.equal(together[:1], exact)


def test_hooks_of_the_model_are_called():
    model, calls = tiny_model(), []
    batch = ContinuousBatch(model, 4, 64)
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    batch.add(PROMPTS[0])
    batch.step([3])
    hook.remove()
    assert batch.native and len(calls) == 2


def test_dependent_rows_are_decoded_one_at_a_time():
    """A model whose logits depend on the row is detected, and its logits are still correct."""
    model = tiny_model()

    def favour_rows(module, inputs, logits):
        return logits + 0.5 * torch.arange(len(logits))[:, None, None] * torch.arange(logits.shape[-1])

    alone = decoded_alone(ContinuousBatch(model, 8, 64), PROMPTS[:5], 6)
    hook = model.lm_head.register_forward_hook(favour_rows)
    batch = ContinuousBatch(model, 8, 64)
    together = decoded_together(batch, PROMPTS[:5], 6)
    hook.remove()
    assert batch.exact_sizes == []
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_nan_stays_in_its_own_row(step):
    model = tiny_model()
    batch = ContinuousBatch(model, 4, 64)
    clean = decoded_alone(batch, PROMPTS[:1], 8)[0]
    batch.add(PROMPTS[1])
    with torch.inference_mode():
        for layer in batch.layers:
            layer.keys[0], layer.values[0] = torch.nan, torch.nan
    assert batch.step([3])[0].isnan().any()
    batch.remove(0)
    assert torch.equal(decoded_alone(batch, PROMPTS[:1], 8)[0], clean)


def test_a_model_with_a_sliding_window_is_refused():
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
    with pytest.raises(UserError, match="only part of the context"):
        ContinuousBatch(model, 4, 64)


@pytest.mark.parametrize(
    ("seconds", "best"), [([1.0, 0.9, 0.88], 1), ([1.0, 0.6, 0.55], 2), ([1.0, 0.95, 0.3], 3), ([1.0, 2.0, 2.0], 1)]
)
def test_the_number_of_threads_is_chosen_by_speed(seconds, best, monkeypatch):
    """With three threads, one, two and three are tried."""
    monkeypatch.setattr(ContinuousBatch, "_step_time", lambda batch, threads: seconds[threads - 1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert ContinuousBatch(tiny_model(), 4, 64).threads == torch.get_num_threads() == best
    finally:
        torch.set_num_threads(before)


def test_steps_are_timed():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        batch = ContinuousBatch(tiny_model(), 4, 64)
        assert batch.threads == torch.get_num_threads() and batch.threads in (1, 2)
        assert 0 < batch._step_time(1) < 1
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_and_tokenizer(tiny_run):
    """Model and tokenizer of the tiny run."""
    return load_model(str(tiny_run))


# ---- text


def test_pieces_are_complete_characters_and_the_complete_text(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    head = tokenizer(PROMPT)["input_ids"]
    rng = random.Random(0)
    broken = 0
    for _ in range(300):
        words = rng.choices([" the fox", "é", "🦊", "日本", "\n\n", '"', "ǆ", " naïve"], k=rng.randint(1, 8))
        ids = tokenizer("".join(words), add_special_tokens=False)["input_ids"]
        if rng.random() < 0.3:
            ids = [rng.randrange(3, 259) for _ in range(rng.randint(1, 12))]
        text = Detokenizer(tokenizer, head)
        pieces = [text.push(token) for token in ids]
        rest = text.close()
        assert "".join(pieces) + rest == tokenizer.decode(head + ids)[len(tokenizer.decode(head)) :]
        if "\ufffd" not in tokenizer.decode(ids):
            assert not any("\ufffd" in piece for piece in pieces) and not rest
            broken += any("\ufffd" in tokenizer.decode([token]) for token in ids)
    assert broken > 50  # characters that take several tokens


@pytest.mark.parametrize(
    "stop", [("day",), ("e d",), ("\n\n",), ("nothing like it", "fox ran"), ("x",), (" the end",)]
)
def test_nothing_of_a_stop_string_is_sent(stop, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    story = " was a fox. The fox ran all the day.\n\nThe end, the e"
    ids = tokenizer(story, add_special_tokens=False)["input_ids"]
    text = Detokenizer(tokenizer, tokenizer("There")["input_ids"], stop)
    sent = ""
    for token in ids:
        sent += text.push(token)
        assert not any(string in sent for string in stop)
        if text.stopped:
            break
    sent += text.close()
    places = [story.find(string) for string in stop if string in story]
    assert text.stopped == bool(places)
    assert sent == story[: min(places, default=len(story))]


def test_text_of_tokens(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    fox = tokenizer("🦊", add_special_tokens=False)["input_ids"]
    names = [token_text(tokenizer, token) for token in fox]
    assert len(fox) > 1 and all(name and "\ufffd" not in name for name in names)
    assert token_text(tokenizer, tokenizer(" the", add_special_tokens=False)["input_ids"][0]) == " the"


# ---- the engine


def request_for(prompt_ids, **changes):
    settings = {
        "max_tokens": 40,
        "sampling": SamplingSettings.from_preset("balanced"),
        "seed": 1,
        "deadline": time.monotonic() + 60,
    }
    return GenerationRequest(prompt_ids=prompt_ids, **{**settings, **changes})


@contextmanager
def engine_of(run, slow=0.0, eos_token_id=0, **limits):
    """An engine that is ready; with `slow`, see `make_slow`."""

    def load():
        model, tokenizer = load_model(str(run))
        model.generation_config.eos_token_id = eos_token_id
        if slow:
            make_slow(model, slow, tokenizer.eos_token_id)
        return model, tokenizer

    changed = threading.Event()
    engine = Engine(load, on_state=changed.set, **limits)
    engine.start()
    assert changed.wait(60) and engine.state == "ready", engine.error
    try:
        yield engine
    finally:
        engine.close()
        assert not engine._thread.is_alive()


class Reader:
    """The events of a completion."""

    def __init__(self):
        self.events = queue.Queue()

    def first(self):
        return self.events.get(timeout=60)

    def all(self):
        events = []
        while not events or not isinstance(events[-1], Finished):
            events.append(self.events.get(timeout=60))
        return "".join(event.text for event in events[:-1]), events[-1]


def write(engine, *requests):
    readers = [Reader() for _ in requests]
    return readers, engine.submit(list(requests), [reader.events.put for reader in readers])


@pytest.fixture(scope="module")
def engine(tiny_run):
    with engine_of(tiny_run, max_batch=4, max_queue=40) as engine:
        yield engine


def test_unsupported_settings_are_named():
    config = GenerationConfig(do_sample=True, temperature=0.7, min_p=0.1, no_repeat_ngram_size=3)
    assert unsupported_settings(config) == ["min_p", "no_repeat_ngram_size"]
    assert unsupported_settings(GenerationConfig(**PRESETS["balanced"], do_sample=True, eos_token_id=0)) == []


@pytest.mark.parametrize("preset", [*PRESETS, GREEDY])
def test_a_completion_is_that_of_generate(preset, engine, tiny_run, model_and_tokenizer):
    """The same seed generates the same story as `tinystories generate`, whose text is that of `model.generate`."""
    model, tokenizer = model_and_tokenizer
    ids = tokenizer(PROMPT)["input_ids"]
    for seed in range(3):
        (reader,), _ = write(engine, request_for(ids, sampling=SamplingSettings.from_preset(preset), seed=seed))
        text, end = reader.all()
        assert PROMPT + text == generate_story(model, tokenizer, PROMPT, preset=preset, seed=seed, max_new_tokens=40)
        assert end.prompt_tokens == len(ids) and end.completion_tokens <= 40


def test_a_completion_does_not_depend_on_the_others(engine, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    prompts = [PROMPT, "One day", "The happy cat found", "A", '"Look!" said']
    requests = [
        request_for(
            tokenizer(prompt)["input_ids"],
            seed=seed,
            sampling=SamplingSettings.from_preset(preset),
            max_tokens=30 + seed,
        )
        for prompt in prompts
        for seed, preset in enumerate(("creative", "plain", GREEDY))
    ]
    alone = [write(engine, one)[0][0].all()[0] for one in requests]
    readers, _ = write(engine, *requests)
    assert [reader.all()[0] for reader in readers] == alone
    assert len(set(alone)) == len(alone)


STARTS = ("Once", "One day", "A", "The", "Tom")


def test_drafts_change_no_completion(tiny_run, model_and_tokenizer, monkeypatch):
    """Single completions are decoded speculatively; others may join them."""
    _, tokenizer = model_and_tokenizer
    requests = [
        request_for(tokenizer(prompt)["input_ids"], seed=seed, sampling=SamplingSettings.from_preset(preset),
                    max_tokens=60, logprobs=2)
        for seed, (preset, prompt) in enumerate(zip([*PRESETS, GREEDY], STARTS, strict=True))
    ]  # fmt: skip
    judged, judge = [], DraftLength.judge
    monkeypatch.setattr(speculation, "MIN_NEW_TOKENS", -1)
    monkeypatch.setattr(DraftLength, "_fastest", lambda self, rate: (6, True))
    monkeypatch.setattr(DraftLength, "judge", lambda self, accepted: judged.append(accepted) or judge(self, accepted))

    def completions(engine):
        found = []
        for one, next_one in zip(requests, requests[1:] + requests[:1], strict=True):
            (first,), _ = write(engine, one)
            events = [first.first()]  # the next request joins the first after its first text
            (second,), _ = write(engine, next_one)
            for reader in (first, second):
                while not events or not isinstance(events[-1], Finished):
                    events.append(reader.events.get(timeout=60))
                tokens = [token for event in events[:-1] for token in event.tokens]
                found.append(("".join(event.text for event in events[:-1]), tokens, events[-1].reason))
                events = []
        return found

    with engine_of(tiny_run) as engine:
        alone = [write(engine, one)[0][0].all()[0] for one in requests]
        assert sum(judged) > 0.7 * len(judged) > 50
        drafted = completions(engine)
        monkeypatch.setattr(Lookahead, "of", lambda *args: None)
        judged.clear()
        assert completions(engine) == drafted
        assert [write(engine, one)[0][0].all()[0] for one in requests] == alone and not judged


def test_logprobs_are_those_of_the_model(engine, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    ids = tokenizer(PROMPT + " a dog. It saw the sea.")["input_ids"]
    with torch.inference_mode():
        want = model(torch.tensor([ids], device=model.device)).logits[0].log_softmax(-1)
    greedy = SamplingSettings.from_preset(GREEDY)
    (reader,), _ = write(engine, request_for(ids, max_tokens=3, logprobs=2, prompt_logprobs=True, sampling=greedy))
    prompt = reader.first()
    assert prompt.of_prompt and prompt.text == "" and len(prompt.tokens) == len(ids)
    assert prompt.tokens[0].logprob is None
    for place, token in enumerate(prompt.tokens[1:]):
        assert token.logprob == pytest.approx(want[place, ids[place + 1]].item(), abs=1e-3)
        assert list(token.alternatives.values()) == pytest.approx(want[place].topk(2).values.tolist(), abs=1e-3)
    while not isinstance(event := reader.first(), Finished):
        for token in event.tokens:
            assert token.logprob == max(token.alternatives.values()) and token.text in event.text


def test_a_prompt_is_processed_once_for_several_completions(engine, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT + " a dog")["input_ids"]
    alone = [write(engine, request_for(ids, seed=seed))[0][0].all()[0] for seed in range(3)]
    write(engine, request_for([5]))[0][0].all()
    lengths = []
    hook = engine.model.register_forward_pre_hook(
        lambda model, arguments, options: lengths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        readers, _ = write(engine, *[request_for(ids, seed=seed) for seed in range(3)])
        assert [reader.all()[0] for reader in readers] == alone
    finally:
        hook.remove()
    assert lengths.count(len(ids)) == 1


def test_a_completion_can_begin_with_forced_tokens(engine, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    ids, forced = tokenizer(PROMPT)["input_ids"], tuple(tokenizer(" zoo zoo", add_special_tokens=False)["input_ids"])
    greedy = SamplingSettings.from_preset(GREEDY)
    (reader,), _ = write(engine, request_for(ids, forced=forced, max_tokens=20, logprobs=0, sampling=greedy))
    tokens, texts = [], []
    while not isinstance(event := reader.first(), Finished):
        tokens += event.tokens
        texts.append(event.text)
    text = "".join(texts)
    assert text == generate_story(
        *model_and_tokenizer, PROMPT + " zoo zoo", preset=GREEDY, max_new_tokens=20 - len(forced)
    ).removeprefix(PROMPT)
    assert tuple(token.id for token in tokens[: len(forced)]) == forced
    whole = ids + [token.id for token in tokens]
    with torch.inference_mode():
        want = model_and_tokenizer[0](torch.tensor([whole])).logits[0].log_softmax(-1)
    for place, token in enumerate(tokens, len(ids)):
        assert token.logprob == pytest.approx(want[place - 1, token.id].item(), abs=1e-3)


def test_finish_reasons(engine, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    whole = generate_story(*model_and_tokenizer, PROMPT, preset=GREEDY, max_new_tokens=40)[len(PROMPT) :]
    mark = whole[30:34]
    readers, _ = write(
        engine,
        request_for(ids, max_tokens=3),
        request_for(ids, max_tokens=0, prompt_logprobs=True, logprobs=0),
        request_for(ids, stop=("zzz", mark), sampling=SamplingSettings.from_preset(GREEDY)),
        request_for(ids, deadline=time.monotonic() - 1),
    )
    (_, length), (nothing, none), (sentence, stop), (late, time_over) = (reader.all() for reader in readers)
    assert (length.reason, length.completion_tokens) == ("length", 3)
    assert (none.reason, none.completion_tokens, nothing) == ("length", 0, "")
    assert stop.reason == "stop" and sentence == whole[: whole.index(mark)]
    assert (time_over.reason, late) == ("time", "")


def test_a_completion_ends_at_the_eos_tokens_of_generate(tiny_run, model_and_tokenizer):
    """The generation config names a second EOS token."""
    model, tokenizer = model_and_tokenizer
    inputs, settings = (
        tokenizer(PROMPT, return_tensors="pt")["input_ids"],
        {"do_sample": False, "repetition_penalty": 1.0},
    )
    word = model.generate(inputs, **settings, max_new_tokens=9)[0, -1].item()
    ends = [tokenizer.eos_token_id, word]
    output = model.generate(inputs, **settings, max_new_tokens=9, eos_token_id=ends)[0].tolist()
    with engine_of(tiny_run, eos_token_id=ends) as engine:
        ids = inputs[0].tolist()
        (reader,), _ = write(engine, request_for(ids, sampling=SamplingSettings.from_preset(GREEDY), max_tokens=100))
        text, end = reader.all()
    assert end.reason == "stop" and end.completion_tokens == len(output) - len(ids) - 1
    assert PROMPT + text == tokenizer.decode(output[:-1], skip_special_tokens=True)


def test_a_cancelled_request_gets_no_more_events(tiny_run, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    with engine_of(tiny_run, slow=0.01, max_batch=2, max_queue=4) as engine:
        readers, states = write(engine, *[request_for(ids, max_tokens=100, seed=seed) for seed in range(4)])
        readers[0].first()
        for state in states:
            engine.cancel(state)
        written = engine.tokens_generated
        assert engine.queue_length == 0
        for _ in range(100):
            if not engine.running:
                break
            time.sleep(0.01)
        assert not engine.running and engine.tokens_generated <= written + 4
        (reader,), _ = write(engine, request_for(ids, max_tokens=2))
        assert reader.all()[1].completion_tokens == 2
        assert readers[0].events.qsize() <= 4 and readers[3].events.empty()


def test_requests_beyond_the_queue_are_refused(tiny_run, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    with engine_of(tiny_run, slow=0.02, max_batch=2, max_queue=3) as engine:
        with pytest.raises(ServiceUnavailable):
            write(engine, *[request_for(ids)] * 6)
        readers, states = write(engine, *[request_for(ids, max_tokens=60)] * 5)
        with pytest.raises(ServiceUnavailable) as refusal:
            write(engine, request_for(ids))
        assert 1 <= refusal.value.retry_after <= 60
        for state in states[1:]:
            engine.cancel(state)
        (reader,), _ = write(engine, request_for(ids, max_tokens=1))
        assert reader.all()[1].reason == readers[0].all()[1].reason == "length"


def test_a_queued_request_ends_by_its_deadline(tiny_run, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    with engine_of(tiny_run, slow=0.02, max_batch=1, max_queue=3) as engine:
        soon = time.monotonic() + 0.3
        readers, _ = write(engine, request_for(ids, max_tokens=100), request_for(ids), request_for(ids, deadline=soon))
        assert readers[2].all() == ("", Finished("time", len(ids), 0, 0.0))
        assert time.monotonic() < soon + 0.2 and engine.running == 1


def test_after_drain_completions_finish_and_new_requests_are_refused(tiny_run, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    with engine_of(tiny_run, slow=0.02, max_batch=1) as engine:
        readers, _ = write(engine, request_for(ids, max_tokens=10), request_for(ids, max_tokens=100))
        readers[0].first()
        engine.drain(0.6)
        with pytest.raises(ServiceUnavailable, match="server is shutting down"):
            write(engine, request_for(ids))
        assert readers[0].all()[1].reason == "length"
        text, end = readers[1].all()
        assert end.reason == "shutdown" and text and 0 < end.completion_tokens < 100


def test_closing_ends_all_completions(tiny_run, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    with engine_of(tiny_run, slow=0.02, max_batch=1) as engine:
        readers, _ = write(engine, request_for(ids, max_tokens=100), request_for(ids))
        readers[0].first()
    assert [reader.all()[1].reason for reader in readers] == ["shutdown", "shutdown"]


def test_an_unknown_token_is_refused_before_the_forward_pass():
    with pytest.raises(ValueError, match="no token with the id 96"):
        ContinuousBatch(tiny_model(), 2, 64).add([3, 96])


@pytest.mark.parametrize("where", ["prompt", "seed", "step", "token"])
def test_an_error_ends_only_the_completions_it_concerns(where, tiny_run, model_and_tokenizer, monkeypatch):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]
    with engine_of(tiny_run, slow=0.01, max_batch=2) as engine:
        (other,), _ = write(engine, request_for(ids, max_tokens=30))
        other.first()
        if where == "prompt":  # outside the vocabulary
            bad = request_for([0, 10**6])
        elif where == "seed":  # which torch refuses
            bad = request_for(ids, seed=2**70)
        elif where == "token":  # gives non-finite logits
            bad = request_for(ids, sampling=SamplingSettings(temperature=1e-45))
        else:
            monkeypatch.setattr(engine._batch, "_decode", None)
            bad = request_for(ids)
        (reader,), _ = write(engine, bad)
        assert reader.all()[1].reason == "error"
        assert other.all()[1].reason == ("error" if where == "step" else "length")
        monkeypatch.undo()
        (again,), _ = write(engine, request_for(ids, max_tokens=5))
        assert again.all()[1].reason == "length"


def test_a_failing_callback_affects_no_other_request(engine, model_and_tokenizer):
    ids = model_and_tokenizer[1](PROMPT)["input_ids"]

    def closed(event):
        raise RuntimeError("Event loop is closed")

    reader = Reader()
    engine.submit([request_for(ids), request_for(ids, max_tokens=5)], [closed, reader.events.put])
    assert reader.all()[1].reason == "length"


def test_a_model_that_cannot_be_loaded(tmp_path):
    changed = threading.Event()
    engine = Engine(partial(load_model, str(tmp_path / "none")), on_state=changed.set)
    with pytest.raises(ServiceUnavailable, match="model is still loading"):
        engine.submit([], [])
    engine.start()
    assert changed.wait(30) and engine.state == "failed" and isinstance(engine.error, UserError)
    with pytest.raises(ServiceUnavailable):
        engine.submit([], [])


# ---- settings


def test_options_take_precedence_over_the_environment():
    environment = {"CHECKPOINT_PATH": "runs/a", "TOKENIZER_PATH": "tok", "DEVICE": "cuda:1", "PORT": "8000"}
    assert read_settings({}, environment) == ServerSettings("runs/a", "tok", "cuda:1", port=8000)
    given = {"checkpoint": "runs/b", "device": "cpu", "port": 9000, "tokenizer": None, "verb": "serve"}
    assert read_settings(given, environment) == ServerSettings("runs/b", "tok", "cpu", port=9000)
    assert read_settings({}, {}) == ServerSettings(str(FOLDER))
    assert (
        read_settings({"checkpoint": "runs/b"}, {}) == ServerSettings("runs/b") == ServerSettings("runs/b", port=7779)
    )


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"checkpoint": "a", "port": 70_000}, "port"),
        ({"checkpoint": "a", "max_batch": 0}, "--max-batch"),
        ({"checkpoint": "a", "time_limit": float("nan")}, "--time-limit"),
        ({"checkpoint": "a", "cors_origins": ["example.org"]}, "example.org"),
        ({"checkpoint": "a", "dtype": "int4"}, "--dtype"),
        ({"checkpoint": "a", "dtype": "int8", "device": "cuda:0"}, "--device"),
    ],
)
def test_invalid_settings(given, word):
    with pytest.raises(UserError, match=word):
        read_settings(given, {})


def test_a_port_in_the_environment_must_be_a_number():
    with pytest.raises(UserError, match="PORT"):
        read_settings({"checkpoint": "a"}, {"PORT": "http"})
