"""The benchmarks run, and the reports that they keep are the printed ones."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import tiny_model

from tinystories.data.corpus import load_corpus
from tinystories.tokenization import train_bpe


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


def benchmark(name, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_a_report_stays_until_its_benchmark_is_run_again():
    import run_all

    reports = {"Start-up": "`python b`\n\n```\ny\n```\n", "Training": "`python a`\n\n```\nx\n```\n"}
    text = run_all.write_reports(reports)
    assert text.index("## Training") < text.index("## Start-up"), "in the order of the list"
    with_one = run_all.read_reports(run_all.write_reports({"Training": reports["Training"], "Unknown": "kept\n"}))
    assert with_one == {"Training": reports["Training"], "Unknown": "kept\n"}


def test_an_unknown_benchmark_is_refused(monkeypatch, capsys):
    import run_all

    monkeypatch.setattr(sys, "argv", ["run_all.py", "--only", "trainign"])
    with pytest.raises(SystemExit) as left:
        run_all.main()
    assert left.value.code == 2 and "there is no benchmark trainign" in capsys.readouterr().err


def test_what_is_not_installed_is_left_out(monkeypatch, capsys, tmp_path):
    import run_all

    monkeypatch.setattr(run_all, "BENCHMARKS", {"engines": ("Engines", "benchmarks/engines.py", "no_such_package")})
    monkeypatch.setattr(run_all, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(run_all, "HERE", tmp_path / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    run_all.main()
    assert "skipped, because no_such_package is not installed" in capsys.readouterr().out
    assert not (tmp_path / "RESULTS.md").exists()


def test_the_phases_of_a_start_are_functions_of_the_package():
    import full_size

    for functions in full_size.PHASES.values():
        for function in functions:
            owner, name = full_size.find_function(function)
            assert callable(getattr(owner, name)), function


@pytest.mark.slow
def test_a_start_is_measured_by_phase(tmp_path):
    arguments = ("--stories", 200, "--starts", 1, "--folder", tmp_path, "--json", tmp_path / "figures.json")
    done = benchmark("full_size.py", *map(str, arguments), "--set", "--vocab_size", "400")
    assert done.returncode == 0, done.stderr[-2000:]
    start = json.loads((tmp_path / "figures.json").read_text())["starts"][0]
    assert {"tokenizer", "tokenizing", "packing", "checks", "first step"} <= start["phases"].keys()
    assert 0 < sum(seconds for seconds, *_ in start["phases"].values()) <= 1.01 * start["seconds"]


@pytest.mark.slow
def test_a_step_alone_is_timed_beside_stock(tmp_path):
    figures = tmp_path / "step.json"
    done = benchmark(
        *("step.py", "--recipe", "quickstart", "--variants", "ours,ours-masked,stock-packed,stock"),
        *("--rounds", "2", "--steps", "1", "--rows", "1", "--stories", "2", "--json", str(figures)),
    )
    assert done.returncode == 0, done.stderr
    variants = json.loads(figures.read_text())["variants"]
    assert list(variants) == ["ours", "ours-masked", "stock-packed", "stock"] and variants["stock"]["ratio"] == 1
    for name, kept in variants.items():
        assert len(kept["story_tokens_per_second"]) == 2 and min(kept["story_tokens_per_second"]) > 0
        assert f"{name} " in done.stdout


def test_names_are_scored_at_the_first_mention_and_later():
    import names

    stories = ["Lily saw Tim. Lily was happy. Tim saw Lily.", "A cat saw a lily."]
    tokenizer = train_bpe(["Lily saw Tim."] * 9, 280, progress=False)
    model = tiny_model(vocab_size=len(tokenizer)).eval()
    for weight in model.parameters():
        weight.data.zero_()  # a uniform distribution
    figures = names.name_losses(model, tokenizer, stories)
    tokens = {name: len(tokenizer.tokenize(f"a {name}")) - 1 for name in ("Lily", "Tim")}
    nats = {name: count * math.log(len(tokenizer)) for name, count in tokens.items()}
    first = len(tokenizer.tokenize("Lily")) * math.log(len(tokenizer)) + nats["Tim"]
    assert figures["first"] == pytest.approx(first / 2)
    assert figures["repeated"] == pytest.approx((2 * nats["Lily"] + nats["Tim"]) / 3) and figures["names"] == 5


def test_held_out_stories_are_not_trained_on(tmp_path):
    import names

    texts = [f"Story {number}." for number in range(40)]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus, held_out = names.hold_out(str(tmp_path / "stories.jsonl"), 5, tmp_path)
    loaded = load_corpus(str(corpus))
    assert len(held_out) == 5 and loaded.validation["text"][:] == held_out
    assert sorted(loaded.train["text"][:] + held_out) == sorted(texts)


@pytest.mark.slow
def test_settings_for_names_are_compared(tmp_path):
    figures = tmp_path / "names.json"
    done = benchmark(
        *("names.py", "--corpus", "sample", "--recipe", "race/5", "--steps", "2", "--variants", "rename"),
        *("--held-out", "4", "--json", str(figures)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = json.loads(figures.read_text())["results"]
    assert result["variant"] == "rename" and result["steps"] == 2 and result["repeated"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["copy_init 1, heads of dimension 32", "short stories first"])
def test_settings_for_coherence_are_compared(variant, tmp_path, monkeypatch, capsys):
    import coherence_race

    stories = load_corpus("sample", max_stories=160).train["text"][:]
    pq.write_table(pa.table({"text": stories}), tmp_path / "train.parquet")
    results = tmp_path / "results.jsonl"
    for name, value in {"STEPS": {5: 4}, "HELD_OUT": 60, "SCORED": 5}.items():
        monkeypatch.setattr(coherence_race, name, value)
    arguments = ["--corpus", str(tmp_path), "--results", str(results), "--only", variant, "--seeds", "1"]
    for _ in range(2):  # the second time, there is nothing left to do
        monkeypatch.setattr(sys, "argv", ["coherence_race.py", *arguments])
        coherence_race.main()
    [result] = [json.loads(line) for line in results.read_text().splitlines()]
    assert result["variant"] == variant and result["bits_per_byte"] > 1
    assert set(result["correct"]) == set(result["probes"]) and sum(result["probes"].values()) > 20
    monkeypatch.setattr(sys, "argv", ["coherence_race.py", "--table", "--results", str(results)])
    coherence_race.main()
    assert f"| 5 | {variant} | 1 |" in capsys.readouterr().out


@pytest.mark.slow
def test_training_is_timed_under_trainer(tmp_path):
    figures = tmp_path / "training.json"
    done = benchmark(
        *("training.py", "--recipe", "quickstart", "--variants", "ours,ours-unmasked,stock"),
        *("--rounds", "1", "--steps", "2", "--rows", "1", "--stories", "2", "--json", str(figures)),
    )
    assert done.returncode == 0, done.stderr
    assert list(json.loads(figures.read_text())["variants"]) == ["ours", "ours-unmasked", "stock"]


@pytest.mark.slow
def test_a_short_race(tmp_path):
    settings = ["--hidden_size", "64", "--num_attention_heads", "1", "--vocab_size", "500", "--max_stories", "500"]
    done = benchmark(
        *("race.py", "--minutes", "1.5", "--recipe", "race/5", "--contenders", "ours", "--limit", "20"),
        *("--keep", str(tmp_path / "kept"), "--json", str(tmp_path / "race.json"), "--set", *settings),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = json.loads((tmp_path / "race.json").read_text())["results"]
    assert 1 < result["minutes"] < 2 and result["steps"] > 10 and 0 < result["low"] < result["bits_per_byte"] < 4
    assert (tmp_path / "kept" / "ours" / "model.safetensors").is_file()


def test_the_estimates_in_the_documentation_are_those_of_the_script():
    import recipe_times

    times = recipe_times.estimates()
    table = (ROOT / "docs" / "training.md").read_text("utf-8").partition("## Choosing a recipe\n")[2]
    rows, device = [], ""
    for line in table.partition("\n\nMeasured")[0].splitlines()[3:]:
        hardware, recipe, _, time, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        device = hardware.partition(",")[0].partition(" (")[0] or device
        if "(estimate)" in time:
            rows.append((device, recipe.split("`")[1], time.removesuffix(" (estimate)")))
    assert len(rows) == 6
    for device, recipe, time in rows:
        assert recipe_times.in_words(times[recipe][device]) == time, (device, recipe)
    readme = (ROOT / "README.md").read_text("utf-8")
    for recipe, device in (("small-corpus", "T4"), ("tinystories-24m", "RTX 4090")):
        assert f"{recipe_times.in_words(times[recipe][device])} on a" in readme
    # The measured time of a model on two cores: 20 minutes with the tokenizer and the evaluations.
    assert 15 * 60 < times["tinystories-3m"]["2 cores"] < 20 * 60


@pytest.mark.slow
def test_the_best_of_several_stories_is_compared_with_one(tiny_run, tmp_path):
    arguments = (
        "--samples",
        3,
        "--best-of",
        3,
        "--preset",
        "plain",
        "--scorer",
        tiny_run,
        "--json",
        tmp_path / "out.json",
    )
    done = benchmark("best_of.py", *map(str, (tiny_run, *arguments)))
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((tmp_path / "out.json").read_text())
    assert set(figures["used"]) == {"one", "best of 3", "most probable of 3"}
    assert figures["used"]["best of 3"]["faulty stories"][0] <= figures["used"]["one"]["faulty stories"][0]
    unused = figures["unused"]
    key = "bits per byte, another model"
    assert 0 < unused["most probable of 3"][key][0] < unused["one"][key][0]


def test_wanted_words_are_counted_in_the_best_story():
    import wanted_words

    from tinystories.generation.batch import GeneratedStory

    texts = ("A cat sat on a mat.", "A dragon sat on a mat.", "A cat had a key.", "A cat had a key and a kite.")
    stories = [GeneratedStory("A", text, True, 5, [1]) for text in texts]
    asked = ["dragon, mat", "key, kite"]
    one = wanted_words.figures(wanted_words.choose(stories, asked, 2, 1), asked)
    best = wanted_words.figures(wanted_words.choose(stories, asked, 2, 2), asked)
    assert (one["words used"].value, one["stories with all words"].value) == (0.5, 0.0)
    assert (best["words used"].value, best["stories with all words"].value) == (1.0, 1.0)
