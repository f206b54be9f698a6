"""The report on models: figures that must be worse for a broken model or broken text, and the page."""

import importlib
import json
import re
import shutil
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from helpers import sharpen
from torch.nn.functional import pad
from transformers import GPT2Config, GPT2LMHeadModel

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories import cli
from tinystories.data.corpus import load_corpus
from tinystories.evaluation import evaluate_model as one_model
from tinystories.evaluation.agreement import rank_correlations
from tinystories.evaluation.coherence import DISTANCE_RANGES
from tinystories.evaluation.diversity import diversity
from tinystories.evaluation.evaluate import evaluate
from tinystories.evaluation.judge import Judge
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.evaluation.report import report_folder, terminal_table, write_report
from tinystories.evaluation.report.page import html_report
from tinystories.evaluation.stories import real_stories_of_same_length, shuffled_sentences, shuffled_words
from tinystories.evaluation.story_figures import (
    capitals,
    fault_rates,
    generated_figures,
    legacy_figures,
    text_figures,
    training_figures,
    unprompted_figures,
    whole_story_figures,
)
from tinystories.evaluation.text_statistics import longest_copied_runs, slice_words, vocabulary, words
from tinystories.generation.batch import PROMPTS, GeneratedStory
from tinystories.runs.loading import load_model
from tinystories.runs.run_folder import is_run_folder, run_and_step
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    """The training and the validation stories of `tiny_run`."""
    found = load_corpus("sample", max_stories=600, max_validation_stories=40)
    return found.train["text"][:], found.validation["text"][:]


@pytest.fixture(scope="module")
def models(tiny_run, corpus, tmp_path_factory) -> dict[str, Path]:
    """The folders of a good model and of three broken ones."""
    folder = tmp_path_factory.mktemp("models")
    model, tokenizer = load_model(str(tiny_run))
    torch.manual_seed(0)
    untrained = TinyLlamaForCausalLM(model.config)
    untrained.save_pretrained(folder / "untrained")
    shifted_twice(untrained, tokenizer, corpus[0]).save_pretrained(folder / "shifted-twice")
    for name in ("untrained", "shifted-twice"):
        tokenizer.save_pretrained(folder / name)

    other = train_bpe([corpus[0][:200]], 900, model_max_length=64)
    shape = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": other.bos_token_id, "eos_token_id": other.eos_token_id}
    sharpen(GPT2LMHeadModel(GPT2Config(vocab_size=len(other), **shape, **ends))).save_pretrained(folder / "gpt2")
    other.save_pretrained(folder / "gpt2")
    names = ("untrained", "shifted-twice", "gpt2")
    return {"tiny": tiny_run, **{name: folder / name for name in names}}


def shifted_twice(model, tokenizer, stories, steps=120):
    """`model`, trained on labels that were shifted before the model shifts them."""
    ids = torch.tensor([index for story in tokenizer(stories, verbose=False)["input_ids"] for index in story])
    rows = ids[: len(ids) // 128 * 128].view(-1, 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    model.train()
    for step in range(steps):
        batch = rows[order[8 * step : 8 * step + 8] % len(rows)]
        model(input_ids=batch, labels=pad(batch[:, 1:], (0, 1), value=-100)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def broken(tiny_run, tmp_path_factory) -> dict[str, Path]:
    """Folders that cannot be evaluated: one has no weights, one has weights that are NaN."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(tiny_run, folder / "empty", ignore=shutil.ignore_patterns("*.safetensors", "checkpoint-*"))
    model, tokenizer = load_model(str(tiny_run))
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(folder / "nan")
    tokenizer.save_pretrained(folder / "nan")
    return {name: folder / name for name in ("empty", "nan")}


@pytest.fixture(scope="module")
def report(models, broken, tiny_run) -> dict:
    checkpoints = sorted(tiny_run.glob("checkpoint-*"))
    paths = [models["gpt2"], broken["empty"], *checkpoints, *models.values(), broken["nan"]]
    return evaluate(paths, presets=["plain"], progress=False)


@pytest.fixture(scope="module")
def measured(report, models) -> dict[str, dict]:
    """The entries of the report by the names in `models`."""
    by_path = {entry["model"]: entry for entry in report["models"]}
    return {name: by_path[str(path)] for name, path in models.items()}


# Figures of broken models and damaged text


def test_broken_models_have_more_bits_per_byte(measured, report):
    value = {name: entry["bits_per_byte"] for name, entry in measured.items()}
    assert value["tiny"]["high"] < value["untrained"]["low"]
    assert value["tiny"]["high"] < value["shifted-twice"]["low"]
    assert all(each["low"] <= each["value"] <= each["high"] for each in value.values())
    order = [entry["bits_per_byte"]["value"] for entry in report["models"]]
    assert order == sorted(order)


def test_shuffled_words_have_more_bits_per_byte_than_the_stories(models, corpus):
    model, tokenizer = load_model(str(models["tiny"]))
    real, salad = (
        bits_per_byte(score_stories(model, tokenizer, texts, progress=False))
        for texts in (corpus[1], shuffled_words(corpus[1]))
    )
    assert real.high < salad.low


def test_minimal_pairs_detect_labels_that_were_shifted_twice(measured):
    sound, shifted = measured["tiny"]["minimal_pairs"], measured["shifted-twice"]["minimal_pairs"]
    for kind in ("article_deleted", "article_moved", "word_order"):
        assert sound[kind]["low"] > shifted[kind]["high"], kind
        assert shifted[kind]["accuracy"] < 0.65
    untrained = measured["untrained"]["minimal_pairs"]
    assert all(sound[kind]["low"] > untrained[kind]["high"] for kind in ("article_moved", "word_order"))
    means = {name: entry["minimal_pair_accuracy"] for name, entry in measured.items()}
    assert means["tiny"] > max(means["untrained"], means["shifted-twice"])
    accuracies = [kind["accuracy"] for kind in sound.values()]
    assert means["tiny"] == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-5)


def test_coherence_in_the_report(measured, report, page):
    sound, untrained = (measured[name] for name in ("tiny", "untrained"))
    assert untrained["coherence"]["name"]["low"] < 0.5 < untrained["coherence"]["name"]["high"]
    for entry in (sound, untrained):
        accuracies = [kind["accuracy"] for kind in entry["coherence"].values()]
        assert entry["coherence_accuracy"] == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-5)
        ranges = entry["coherence_by_distance"]["name"]
        assert sum(each["pairs"] for each in ranges.values()) == entry["coherence"]["name"]["pairs"]
        assert ranges.keys() <= set(DISTANCE_RANGES)
    table = terminal_table(report)
    assert re.search(r"^coherence +name", table, re.MULTILINE)
    assert re.search(r"^tiny, name +[\d.]+%", table, re.MULTILINE)
    assert "name, by distance" in page and "since the name or the noun was last mentioned" in page


def test_an_untrained_model_generates_fewer_articles(measured):
    sound, untrained = (measured[name]["generation"]["plain"] for name in ("tiny", "untrained"))
    assert sound["raw"]["articles_per_100_words_low"] > untrained["raw"]["articles_per_100_words_high"]
    ended = [sample["ended"] for sample in sound["samples"]]
    assert sound["raw"]["finished"] == pytest.approx(sum(ended) / len(PROMPTS), abs=1e-5) and 0 < sum(ended)


def test_article_statistics_detect_shuffled_words_and_legacy_figures_do_not(corpus):
    real, salad = text_figures(corpus[1]), text_figures(shuffled_words(corpus[1]))
    assert real["article_omission_high"] < 0.1 < 0.6 < salad["article_omission_low"]
    assert real["wrong_a_or_an"] < 0.01 and salad["wrong_a_or_an_low"] > 0.1
    assert real["capitals"] == 1 > 0.5 > salad["capitals"]
    assert salad["distinct_2"] > real["distinct_2"] + 0.1
    legacy = legacy_figures(shuffled_words(corpus[1]))
    assert legacy["has_articles"] == 1 and legacy["grammar_of_10"] > 9.8


def test_article_statistics_detect_deleted_articles(corpus):
    bare = [re.sub(r"\b(?:a|an|the) ", "", story, flags=re.IGNORECASE) for story in corpus[1]]
    real, without = text_figures(corpus[1]), text_figures(bare)
    assert without["article_omission_low"] > 0.5 > real["article_omission_high"]
    assert without["articles_per_100_words"] == 0 and without["stories_with_article"] == 0


def test_distinct_ngrams_and_copied_runs_detect_one_story_many_times(corpus):
    training, held_out = corpus
    same = [training[0]] * len(held_out)
    real, copies = text_figures(held_out), text_figures(same)
    assert all(copies[f"distinct_{n}"] < real[f"distinct_{n}"] / 3 for n in (1, 2, 3))
    known = vocabulary(training)
    fresh, copied = (
        training_figures(texts, longest_copied_runs(texts, training), known) for texts in (held_out, same)
    )
    assert copied["longest_copied_run"] == len(words(training[0]))
    assert fresh["longest_copied_run_high"] < copied["longest_copied_run"] / 2
    assert words(copied["longest_copied_words"]) == words(training[0])


def test_repetition_detects_loops(corpus):
    loops = [" ".join([slice_words(story, 0, 12)] * 10) for story in corpus[1]]
    real, looping = text_figures(corpus[1]), text_figures(loops)
    assert looping["repeated_4grams_low"] > 0.5 > real["repeated_4grams_high"]
    assert looping["longest_repeated_run"] > 100 and real["longest_repeated_run_max"] < 30


def test_outside_vocabulary_detects_made_up_words(corpus):
    training, held_out = corpus
    made_up = [re.sub(r"\b(\w+)(\w{3})\b", r"\2\1", story) for story in held_out]
    known = vocabulary(training)
    fresh, strange = (training_figures(texts, [[] for _ in texts], known) for texts in (held_out, made_up))
    assert strange["outside_vocabulary_low"] > 0.2 > fresh["outside_vocabulary_high"]


def test_raw_figures_are_before_post_processing():
    story = GeneratedStory("Once there was", "Once there was a cat.it ran home. the end", True, 9)
    figures = generated_figures([story] * 2, seed=0)
    assert figures["raw"]["capitals"] == 0 and figures["raw"]["final_punctuation"] == 0
    assert figures["post_processed"] | {"mean_words": 0} == {
        "changed": 1, "capitals": 1, "final_punctuation": 1, "mean_words": 0,
    }  # fmt: skip
    assert "article_omission" not in figures["post_processed"]
    assert figures["samples"][0] == {"prompt": story.prompt, "text": story.text, "ended": True}
    assert figures["raw"]["mean_words"] == 7 and figures["legacy"]["mean_words"] == 10


def test_a_model_that_repeats_one_story_is_coherent_but_not_diverse(corpus):
    story = GeneratedStory("", corpus[1][0], True, 90)
    same = unprompted_figures([story] * 30, "plain", seed=0)
    real = whole_story_figures(corpus[1], seed=0, sample=30)
    assert same["faulty_stories"] == 0 and same["article_omission"] == 0
    assert same["distinct_openings"] == pytest.approx(1 / 30) and same["shared_4grams"] == 1
    assert real["distinct_openings_low"] > 0.6 and real["shared_4grams_high"] < 0.6


def test_shuffled_sentences_keep_grammar_and_lose_coherence(corpus):
    stories = [*corpus[0][:300], *corpus[1]]
    real, shuffled = (whole_story_figures(texts, seed=0) for texts in (stories, shuffled_sentences(stories)))
    for key in ("article_omission", "wrong_a_or_an"):
        assert shuffled[key] == pytest.approx(real[key], abs=0.01)
    assert shuffled["faulty_stories_low"] > real["faulty_stories_high"] + 0.1
    for key in ("unintroduced_names", "unintroduced_objects"):
        assert shuffled[f"{key}_low"] > real[f"{key}_high"], key
    assert "distinct_openings" not in real  # no sample was asked for


def test_shuffled_sentences_are_those_of_the_story():
    story = 'One ran. "Two sat!" he said.\n\nThree. Four'
    (shuffled,) = shuffled_sentences([story], seed=1)
    assert shuffled != story and sorted(shuffled.split()) == sorted(story.split())
    assert shuffled.count("\n\n") == 1 and shuffled.endswith("Four")
    assert shuffled_sentences(["", "none", story]) == ["", "none", shuffled_sentences(["", "none", story])[2]]


def test_endings_need_eos_and_punctuation():
    texts = ["One cat sat down.", "One cat sat down.", "One cat"]
    assert fault_rates(texts, [True, False, True])["missing_endings"].value == pytest.approx(2 / 3)
    assert fault_rates(texts)["missing_endings"].value == pytest.approx(1 / 3)


def test_the_lily_opening():
    lily = "Once upon a time there was a little girl named Lily. She ran."
    found = diversity([lily, lily.replace("Lily", "Mia"), "Lily ran.", "One day, " + lily])
    assert found["lily_openings"].value == 0.25 and found["distinct_openings"].value == 1
    assert found["distinct_names"].value == 0.5  # Lily and Mia in four stories


# Content of the report


def test_stories_without_a_prompt(measured, report):
    assert report["settings"]["unprompted"] == 40  # as many as held-out stories
    for name in ("tiny", "untrained", "gpt2"):
        assert measured[name]["unprompted"]["stories"] == len(measured[name]["unprompted"]["samples"]) == 40
    own = measured["tiny"]["unprompted"]
    assert own["preset"] == "plain" and own["outside_vocabulary"] < own["outside_vocabulary_high"] < 0.5
    assert own["longest_copied_run"] > 0 and own["real_same_length"]["longest_copied_run"] > 0
    assert own["missing_endings_high"] < measured["untrained"]["unprompted"]["missing_endings_low"]
    assert set(report["shuffled_sentences"]) == set(report["real_stories"])


def test_greedy_decoding_writes_no_sample_of_stories(models, tmp_path):
    report = evaluate([models["tiny"]], presets=["greedy"], limit=4, progress=False)
    assert report["models"][0]["unprompted"] is None
    assert "does it write stories?" not in terminal_table(report)
    section = section_of(html_report(report), "Does it write stories?")
    assert "–" in "".join(section.itertext())


def test_bits_per_byte_is_that_of_the_training_log(measured, tiny_run):
    said = json.loads((tiny_run / "eval_results.json").read_text())
    assert measured["tiny"]["bits_per_byte"]["value"] == pytest.approx(said["eval_bits_per_byte"], abs=2e-3)


def test_the_default_stories_are_the_held_out_ones_of_the_run(report, corpus):
    assert report["corpus"]["stories"] == 40 and report["corpus"]["bytes"] == len("".join(corpus[1]).encode())
    assert report["corpus"]["name"].startswith("sample")


def test_another_architecture_and_tokenizer(measured):
    other = measured["gpt2"]
    assert other["architecture"] == "GPT2LMHeadModel" and other["vocab_size"] != measured["tiny"]["vocab_size"]
    assert other["context"] == 64 and other["step"] is None and other["run"] is None
    assert 0 < other["bits_per_byte"]["value"] and other["generation"]["plain"]["max_new_tokens"] < 64
    assert any("unknown words are not measured" in note for note in other["notes"])
    assert other["training_stories"] is None and "outside_vocabulary" not in other["generation"]["plain"]["raw"]


def test_training_stories_are_those_of_the_recipe(measured):
    sound = measured["tiny"]
    assert sound["training_stories"] == {"name": "sample", "stories": 600, "shared_with_held_out": 0}
    generated = sound["generation"]["plain"]
    assert generated["raw"]["outside_vocabulary"] > generated["real_same_length"]["outside_vocabulary"]
    assert generated["raw"]["longest_copied_run"] < generated["real_same_length"]["longest_copied_run"]
    assert sound["notes"] == []


def test_real_stories_have_the_length_of_the_generated_ones(measured):
    for entry in measured.values():
        generated = entry["generation"]["plain"]
        assert generated["real_same_length"]["mean_words"] == pytest.approx(generated["raw"]["mean_words"], rel=0.02)
        assert generated["real_same_length"]["stories"] == generated["raw"]["stories"]


def test_models_that_fail_are_listed_and_the_others_evaluated(report, broken, models):
    reasons = {failed["model"]: failed["reason"] for failed in report["failed"]}
    assert set(reasons) == {str(path) for path in broken.values()}
    assert "cannot be loaded" in reasons[str(broken["empty"])] and "damaged" in reasons[str(broken["nan"])]
    assert all("\n" not in reason for reason in reasons.values())
    assert {str(path) for path in models.values()} <= {entry["model"] for entry in report["models"]}


def test_checkpoints_are_reported_with_run_and_step(report, tiny_run, tmp_path):
    steps = {entry["step"]: entry["name"] for entry in report["models"] if "checkpoint-" in entry["model"]}
    assert steps == {60: "tiny step 60", 120: "tiny step 120"}
    assert {entry["run"] for entry in report["models"] if entry["step"]} == {str(tiny_run)}

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    state = json.loads((run / "trainer_state.json").read_text())
    assert run_and_step(run) == (str(run), 120)
    (run / "trainer_state.json").write_text(json.dumps(state | {"best_global_step": 60}))
    assert run_and_step(run) == (str(run), 120)  # these are not the weights of step 60
    shutil.copy(run / "checkpoint-60" / "model.safetensors", run)
    assert run_and_step(run) == (str(run), 60)
    (run / "checkpoint-60" / "trainer_state.json").write_text("{")
    assert run_and_step(run / "checkpoint-60") == (str(run), 60)
    assert is_run_folder(run) and not is_run_folder(run / "checkpoint-60") and not is_run_folder(tmp_path)


def without_times(report: dict) -> str:
    copy = json.loads(json.dumps(report))
    for entry in copy["models"]:
        entry.pop("seconds")
        for generated in entry["generation"].values():
            generated.pop("stories_per_second")
    return json.dumps(copy)


def test_the_same_seed_gives_the_same_report(tiny_run):
    first, again, other = (
        evaluate([tiny_run], quick=True, limit=6, presets=["plain"], seed=seed, progress=False) for seed in (3, 3, 4)
    )
    assert without_times(first) == without_times(again)
    assert without_times(first) != without_times(other)
    texts = [[each["text"] for each in r["models"][0]["generation"]["plain"]["samples"]] for r in (first, other)]
    assert texts[0] != texts[1] and len(texts[0]) == 5
    assert first["corpus"]["stories"] == 6 and first["corpus"]["fingerprint"] == other["corpus"]["fingerprint"]
    assert max(kind["pairs"] for kind in first["models"][0]["minimal_pairs"].values()) <= 6


def test_training_stories_among_the_held_out_are_noted_and_each_model_is_saved(models, corpus, tmp_path, caplog):
    held_out = tmp_path / "mine.jsonl"
    lines = [json.dumps({"story": story}) for story in [*corpus[1][:4], *corpus[0][:3]]]
    held_out.write_text("\n".join(lines), "utf-8")
    saved = []
    report = evaluate(
        [models["tiny"], models["untrained"]],
        corpus=str(held_out),
        limit=7,
        presets=["greedy"],
        progress=False,
        save=lambda report: saved.append([entry["name"] for entry in report["models"]]),
    )
    assert saved == [["tiny"], ["tiny", "untrained"]]
    assert report["corpus"]["name"] == "mine.jsonl"
    tiny, untrained = report["models"]
    assert tiny["training_stories"]["shared_with_held_out"] == 3
    assert tiny["notes"][0].startswith("3 of the 7 held-out stories") and "3 of the 7" in caplog.text
    assert untrained["training_stories"] is None
    assert all("3 of the 7 held-out stories" in shown for shown in (terminal_table(report), html_report(report)))


def test_rank_correlations_among_figures_and_with_a_judge():
    def entry(place: int) -> dict:
        accuracy = 0.6 + 0.05 * place
        return {
            "bits_per_byte": {"value": 1.0 - 0.1 * place},
            "minimal_pair_accuracy": accuracy,
            "coherence_accuracy": -accuracy,
            "coherence": {"name": {"accuracy": (place * 3) % 7}},
            "unprompted": {"faulty_stories": 0.5, "distinct_openings": place} if place else None,
            "judge": {"presets": {"plain": {"grammar": place, "creativity": -place, "consistency": place % 2}}},
        }

    report = {"models": [entry(place) for place in range(7)], "settings": {"presets": ["plain"]}}
    table = rank_correlations(report)
    assert table["bits per byte"]["minimal pairs"] == pytest.approx(1)
    assert table["minimal pairs"]["coherence"] == pytest.approx(-1)
    assert table["bits per byte"]["judge: grammar"] == pytest.approx(1)
    assert table["bits per byte"]["judge: creativity"] == pytest.approx(-1)
    order = [(place * 3) % 7 for place in range(7)]
    squares = sum((place - rank) ** 2 for place, rank in enumerate(order))
    assert table["coherence: name"]["bits per byte"] == pytest.approx(1 - 6 * squares / (7 * 48))
    assert table["stories without faults"]["bits per byte"] is None  # the same for all models
    assert table["different first sentences"]["bits per byte"] == pytest.approx(1)  # six models have both
    assert not any(name.startswith("judge") for name in table)

    for model in report["models"][:2]:
        del model["judge"]
    assert "judge: grammar" not in rank_correlations(report)["coherence"]
    assert rank_correlations({**report, "models": report["models"][:5]}) is None


@pytest.fixture
def judge_server(monkeypatch):
    """A context: the URL of an endpoint with the grades that `grade(request)` gives."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    @contextmanager
    def serve(grade):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                grades = json.dumps(grade(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                body = json.dumps({"choices": [{"message": {"role": "assistant", "content": grades}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        server.server_close()

    return serve


@pytest.mark.slow
def test_the_figures_of_six_models_agree_with_a_judge(tiny_run, corpus, judge_server, tmp_path):
    """The more noise in the weights, the more words that no story has, which is what this judge grades."""
    known = vocabulary(corpus[1])

    def grade(request):
        found = words(request["messages"][-1]["content"])
        known_words = sum(word.lower() in known for word in found) / len(found)
        return {"grammar": round(10 * known_words), "creativity": 5, "consistency": 7}

    model, tokenizer = load_model(str(tiny_run))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(value.shape, generator=generator) * value.std() for name, value in state.items()}
    folders = [tmp_path / f"noise-{level}" for level in range(6)]
    for level, folder in enumerate(folders):
        model.load_state_dict({name: state[name] + 0.4 * level * noise[name] for name in state})
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    options = {"corpus": "sample", "limit": 12, "presets": ["plain"], "progress": False}
    with judge_server(grade) as url:
        report = evaluate(folders, judge=Judge(url, "teacher", cache_dir=tmp_path / "cache"), **options)
    assert not report["failed"] and [model["name"] for model in report["models"]] == [f"noise-{n}" for n in range(6)]
    table = report["rank_correlations"]
    assert table["bits per byte"]["judge: grammar"] > 0.8
    assert table["bits per byte"]["judge: creativity"] is None, "the same grade for all models"
    page = html_report(report)
    assert "judge: grammar" in page and f"{table['bits per byte']['judge: grammar']:.2f}" in page


def test_a_judge_grades_real_and_generated_stories(tiny_run, judge_server, tmp_path, monkeypatch):
    asked = []

    def grade(request):
        asked.append(request)
        return {"grammar": 8, "creativity": 5, "consistency": 7}

    with judge_server(grade) as url:
        judge = Judge(url, "teacher", cache_dir=tmp_path)
        options = {"limit": 3, "presets": ["plain"], "progress": False, "judge": judge}
        report = evaluate([tiny_run], **options)
        grades = report["models"][0]["judge"]
        assert grades["model"] == "teacher" and grades["presets"]["plain"]["grammar"] == 8
        assert grades["presets"]["plain"]["graded"] == report["real_stories"]["judge"]["graded"] == 3
        assert len(asked) == 6 and "teacher" in html_report(report)

    # A missing endpoint is detected before any model is evaluated.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(one_model, "load_model", lambda path: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="does not answer"):
        evaluate([tiny_run], **options | {"judge": Judge(url, "other", cache_dir=tmp_path)})


def test_real_stories_of_the_same_length(corpus):
    prompts, completions = ["One day"] * 4, ["a cat " * 5, "a cat " * 30, "", "ran " * 20]
    real = real_stories_of_same_length(corpus[1], prompts, completions)
    assert [len(words(text)) for text in real] == [10, 60, 0, 20]
    starts = {slice_words(story, 2, 10) for story in corpus[1]}
    assert all(slice_words(text, 0, 8) in starts for text in (real[0], real[1], real[3]))
    assert real == real_stories_of_same_length(corpus[1], prompts, completions)
    assert real != real_stories_of_same_length(corpus[1], prompts, completions, seed=1)
    assert real_stories_of_same_length(corpus[1][:3], prompts, completions) is None
    same = real_stories_of_same_length(["a b c d", "e f g h i"], ["", ""], ["x y z", "x y z"])
    assert sorted(same) == ["a b c", "e f g"]  # never one story twice
    assert real_stories_of_same_length(["a b c"], ["x"], ["x y z"]) == ["b c"]  # none is long enough


def test_slice_words():
    text = '"Hi!" said Zoë\'s cat, and ran... home.'
    assert slice_words(text, 0, 2) == 'Hi!" said'
    assert slice_words(text, 2, 4) == "Zoë's cat"
    assert slice_words(text, 5) == "ran... home." == slice_words(text, 5, 99)
    assert slice_words(text, 7) == slice_words(text, 3, 3) == slice_words("", 0, 1) == ""


def test_capitals_of_sentences():
    assert capitals(['He ran. She sat. "No!" she said. the end']) == pytest.approx(2 / 3)
    assert capitals(["Well... and so on! ok"]) == 0


# The page


LOADING_TAGS = {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "source", "base", "form"}
ADDRESSES = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


class TagReader(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes


def is_self_contained(page: str) -> bool:
    """Whether a page has no scripts, and no addresses except of its own elements."""
    read = TagReader(page)
    addresses = [value for name, value in read.attributes if name in ADDRESSES and not value.startswith("#")]
    handlers = [name for name, _ in read.attributes if name.startswith("on")]
    styles = re.findall(r"url\((?!#)|@import|https?:", page)
    return not (LOADING_TAGS & read.tags or addresses or handlers or styles)


def parse(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def section_of(page: str, heading: str) -> ElementTree.Element:
    return next(section for section in parse(page).iter("section") if section.findtext("h2") == heading)


def dots(element: ElementTree.Element) -> list[tuple[str, float, float]]:
    """Class and position of each dot in the plots."""
    return [
        (group.get("class"), float(dot.get("x")), float(dot.get("y")))
        for group in element.iter("g")
        if (group.get("class") or "").startswith("dot ")
        for dot in group.iter("use")
    ]


@pytest.fixture(scope="module")
def page(report) -> str:
    return html_report(report)


def test_the_page_is_self_contained_and_well_formed(report, page):
    assert is_self_contained(page)
    for bad in (
        '<img src="x.png"/>',
        '<script src="https://cdn/x.js"></script>',
        "<style>@import 'x'</style>",
        '<svg><use href="x.svg#a"/></svg>',
        '<p style="background: url(x.png)"></p>',
        '<p onclick="f()"></p>',
    ):
        assert not is_self_contained(page.replace("</main>", bad + "</main>"))
    text = " ".join(parse(page).itertext())
    for entry in report["models"]:
        assert entry["name"] in text and f"{entry['bits_per_byte']['value']:.3f}" in text
    for phrase in ("real stories", "shuffled words", "Over training", "Legacy metrics", "cannot be loaded"):
        assert phrase in text


def test_the_table_of_stories(report, page):
    section = section_of(page, "Does it write stories?")
    columns = [cell.text for cell in section.iter("th") if cell.get("scope") == "col"]
    assert columns[-2:] == ["real stories", "sentences shuffled"] and len(columns) == len(report["models"]) + 2
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in section.iter("tr")}
    assert {"Grammar", "Coherence", "Diversity", "Memorisation"} <= rows.keys()
    real = report["real_stories"]["unintroduced_names"]
    assert rows["Stories with a name never introduced"][-2].strip() == f"{100 * real:.1f}%"
    assert parse(page).find(".//section/h2").text == "Does it write stories?"  # at the top


def test_the_page_is_accessible(page):
    root = parse(page)
    assert root.get("lang") == "en" and root.findtext("head/title")
    levels = [int(element.tag[1]) for element in root.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(level <= before + 1 for before, level in zip(levels, levels[1:], strict=False))
    plots = list(root.iter("svg"))
    assert len(plots) > 30 and all(plot.get("role") == "img" and plot.get("aria-label") for plot in plots)
    assert any("tiny 2." in plot.get("aria-label") for plot in section_of(page, "Bits per byte").iter("svg"))
    for table in root.iter("table"):
        assert all(header.get("scope") for header in table.iter("th"))
        assert all(row[0].get("scope") == "row" for row in table.findall("tbody/tr"))
    regions = [element for element in root.iter() if element.get("role") == "region"]
    assert regions and all(region.get("aria-label") and region.get("tabindex") == "0" for region in regions)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_the_page_has_styles_for_dark_mode_phones_and_print(page):
    assert section_of(page, "Summary") is not None and parse(page).find(".//meta[@name='viewport']") is not None
    for query in ("screen and (prefers-color-scheme: dark)", "(max-width: 640px)", "print"):
        assert f"@media {query} {{" in page
    colours = re.findall(r"(?:fill|stroke): (#\w+)", "".join(re.findall(r'style="([^"]*)"', page)))
    assert set(colours) <= {"#ffffff"}, "plots take their colours from the style sheet"


def test_dots_are_inside_the_plots_and_in_the_order_of_the_values(report, page):
    for plot in parse(page).iter("svg"):
        left, top, right, bottom = map(float, plot.get("viewBox").split())
        assert all(left <= x <= right and top <= y <= bottom for _, x, y in dots(plot))
    positions = [x for _, x, _ in dots(section_of(page, "Bits per byte"))]
    assert positions == sorted(positions) and len(positions) == len(report["models"]) and positions[0] < positions[-1]


def test_text_of_a_model_cannot_change_the_page(report):
    report = json.loads(json.dumps(report))
    hostile = """<script>alert("1")</script>\x00\x0b & <img src=x onerror=alert(1)> {{ 7 * 7 }} $x^2$ ]]> --> ' """
    hostile += "\uffff \ud800"
    entry = report["models"][0]
    entry["name"] = entry["model"] = entry["architecture"] = report["corpus"]["name"] = report["command"] = hostile
    entry["notes"], entry["run"] = [hostile], hostile
    report["failed"] = [{"model": hostile, "reason": hostile}]
    for sample in entry["generation"]["plain"]["samples"]:
        sample |= {"prompt": hostile, "text": hostile + hostile}
    entry["generation"]["plain"]["raw"]["longest_copied_words"] = hostile
    page = html_report(report).encode("utf-8", "replace").decode()
    assert is_self_contained(page)
    for literal in ("&lt;script&gt;", "{{ 7 * 7 }}", "]]&gt;", "$x^2$"):
        assert literal in page
    parse(page)


def test_matplotlib_and_jinja_are_imported_for_the_page_only(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tinystories.evaluation.report")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    importlib.import_module("tinystories.evaluation.report")
    with pytest.raises(ImportError):
        importlib.import_module("tinystories.evaluation.report.page")


def test_the_same_report_gives_the_same_page(report, page):
    assert html_report(json.loads(json.dumps(report))) == page


def test_curves_only_where_a_run_has_several_checkpoints(report, page):
    assert "Over training" in page
    alone = report | {"models": [entry for entry in report["models"] if entry["step"] in (None, 60)]}
    assert "Over training" not in html_report(alone)


def test_many_models_and_presets_keep_the_plots_short(report):
    several = json.loads(json.dumps(report))
    several["settings"]["presets"] = ["plain", "balanced", "greedy"]
    for entry in several["models"]:
        entry["generation"] |= dict.fromkeys(("balanced", "greedy"), entry["generation"]["plain"])
    few = several | {"models": several["models"][:2]}
    note = "The plots show the preset"
    assert note in html_report(several) and note not in html_report(few)


def test_checkpoints_have_the_colour_of_their_curve(report, page):
    of_curves = {colour for colour, *_ in dots(section_of(page, "Over training"))}
    colours = [colour for colour, *_ in dots(section_of(page, "Bits per byte"))]
    ours = [entry["step"] is not None for entry in report["models"]]
    assert {colour for colour, mine in zip(colours, ours, strict=True) if mine} == of_curves and len(of_curves) == 1
    assert len(set(colours)) == 1 + ours.count(False)


def test_the_terminal_table(report):
    table = terminal_table(report)
    lines = table.splitlines()
    assert lines[0].startswith("40 held-out stories of sample")
    first = next(line for line in lines if line.startswith(report["models"][0]["name"]))
    assert f"{report['models'][0]['bits_per_byte']['value']:.3f} (" in first
    order = [table.index(f"\n{entry['name']} ") for entry in report["models"]]
    assert order == sorted(order)
    assert "real stories" in table and "word order" in table
    head = next(number for number, line in enumerate(lines) if line.startswith("does it write stories?"))
    rows = lines[head + 1 : lines.index("", head)]
    assert len(rows) == len(report["models"]) + 2
    assert rows[0].startswith(report["models"][0]["name"]) and rows[-1].startswith("sentences shuffled")
    assert len({len(re.split(r"  +", row)) for row in rows}) == 1
    assert sum("failed: " in line for line in lines) == 2


# The command


def evaluate_verb(*arguments) -> int:
    return cli.main(["evaluate", *map(str, arguments)])


def fails_with_one_line(capsys, arguments, *expected):
    assert evaluate_verb(*arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    for word in expected:
        assert word in last, last


def test_the_report_of_one_run_is_written_to_its_folder(tiny_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    pairs = tmp_path / "pairs.tsv"
    assert evaluate_verb(run, "--quick", "--limit", 8, "--dump-pairs", pairs) == 0
    out, err = capsys.readouterr()
    assert f"Report: {run / 'report.html'}" in out and "bits per byte" in out
    assert "Generating stories" in err and "8/8" in err
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert report["command"].startswith(f"tinystories evaluate {run} --quick")
    assert report["settings"] == {"presets": ["balanced"], "prompts": 5, "unprompted": 8, "pairs_per_kind": 8}
    assert (run / "report.html").read_text("utf-8") == html_report(report)

    header, *rows = pairs.read_text("utf-8").splitlines()
    assert header == "kind\tstory\tdistance\tchange\tgood\tbad\tcontext"
    written = Counter(row.split("\t")[0] for row in rows)
    entry = report["models"][0]
    pairs_of = {kind: found["pairs"] for kind, found in entry["minimal_pairs"].items()}
    assert pairs_of == {kind: written[kind] for kind in pairs_of}
    # Probes that do not fit the context are written, but not scored.
    assert 0 < entry["coherence"]["name"]["pairs"] <= written["name"]
    assert all(re.search(r"\[.* -> .*\]", row.split("\t")[3]) for row in rows)

    # A report of ours is replaced, nothing else is.
    assert evaluate_verb(run, "--quick", "--limit", 4, "--dump-pairs", pairs) == 0
    assert json.loads((run / "report.json").read_text("utf-8"))["corpus"]["stories"] == 4
    assert not list(run.glob(".report*"))


def test_a_broken_model_makes_the_exit_status_2_and_the_others_are_reported(tiny_run, broken, tmp_path, capsys):
    assert evaluate_verb(broken["nan"], tiny_run, "--limit", 4, "--presets", "greedy", "--out", tmp_path / "new") == 2
    out, err = capsys.readouterr()
    assert "damaged" in err and "Traceback" not in err and "tiny" in out
    report = json.loads((tmp_path / "new" / "report.json").read_text("utf-8"))
    assert [entry["name"] for entry in report["models"]] == ["tiny"] and len(report["failed"]) == 1
    assert evaluate_verb(broken["empty"], "--limit", 4, "--out", tmp_path / "none", "--corpus", "sample") == 2
    assert not (tmp_path / "none").exists() and "cannot be loaded" in capsys.readouterr().err


def test_default_folder_of_a_report(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report_folder(None, [tiny_run]) == tiny_run
    assert report_folder(None, [tiny_run / "checkpoint-60"]) == Path("evaluation")
    assert report_folder(None, [tiny_run, "some/model"]) == report_folder(None, ["some/model"]) == Path("evaluation")
    assert report_folder("there", [tiny_run]) == Path("there") and not Path("there").exists()


def test_files_that_are_not_reports_are_not_overwritten(tiny_run, tmp_path, capsys, report):
    folder, ours = tmp_path / "mine", tmp_path / "ours"
    write_report(report, ours)
    assert report_folder(ours, ["x"]) == ours
    for name, content in (("report.html", "<html>mine</html>"), ("report.json", '{"models": []}'),
                          ("report.json", "[1]"), ("report.json", "not json")):  # fmt: skip
        shutil.copytree(ours, folder, dirs_exist_ok=True)
        (folder / name).write_text(content)
        fails_with_one_line(capsys, [tiny_run, "--out", folder], name, "was not written by", "--out")
        assert (folder / name).read_text() == content
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("mine")
    fails_with_one_line(
        capsys, [tiny_run, "--dump-pairs", pairs, "--out", tmp_path / "new"], "is not a file of minimal pairs"
    )
    assert pairs.read_text() == "mine" and not (tmp_path / "new").exists()


def test_mistakes_are_one_line(tiny_run, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    fails_with_one_line(capsys, [tiny_run, *out, "--presets", "wild"], "wild", "conservative")
    fails_with_one_line(capsys, [tiny_run, *out, "--presets", ""], "no preset ''")
    fails_with_one_line(capsys, [tiny_run, *out, "--limit", 0], "at least 1")
    fails_with_one_line(capsys, [tiny_run, *out, "--corpus", tmp_path / "none.txt"], "none.txt")
    fails_with_one_line(capsys, [tiny_run, *out, "--train-corpus", tmp_path / "none.txt"], "none.txt")
    fails_with_one_line(capsys, [tiny_run, *out, "--dump-pairs", tmp_path / "pairs.csv"], ".tsv or .jsonl")
    fails_with_one_line(capsys, [tiny_run, *out, "--judge-url", "http://127.0.0.1:1/v1"], "--judge-model")
    fails_with_one_line(capsys, [tiny_run, *out, "--judge-url", "ftp://x", "--judge-model", "m"], "URL")
    (tmp_path / "file").write_text("x")
    fails_with_one_line(capsys, [tiny_run, "--out", tmp_path / "file"], "is a file")
    fails_with_one_line(capsys, ["runs/none", *out, "--corpus", "sample", "--limit", 2], "There is no")
    # Before the stories are read, which can take minutes.
    fails_with_one_line(capsys, ["runs/none", *out, "--corpus", tmp_path / "none.txt"], "runs/none")
    assert not (tmp_path / "out").exists()


def test_runs_that_held_out_different_stories_need_a_corpus(tiny_run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other, ignore=shutil.ignore_patterns("checkpoint-*"))
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("corpus: sample", "corpus: no/such-stories", 1))
    out = ["--out", tmp_path / "out"]
    fails_with_one_line(capsys, [tiny_run, other, *out], "different held-out stories", "--corpus", "no/such-stories")
    fails_with_one_line(capsys, [other, *out], "The held-out stories of", "cannot be loaded", "--corpus")
    assert evaluate_verb(other, *out, "--corpus", "sample", "--limit", 3, "--presets", "greedy") == 0
    assert "(no/such-stories) are not on this machine" in capsys.readouterr().out
