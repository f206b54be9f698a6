"""Text statistics and the `evaluate` modules: every figure is tested on text that it must tell from good text."""

import configparser
import doctest
import math
import random
import re
import runpy
import shutil
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from helpers import tiny_model
from transformers import Trainer, TrainingArguments

from tinystories.data.synthetic import sample_stories
from tinystories.evaluation import metric_path
from tinystories.evaluation.articles import article_statistics, begins_with_vowel_sound, count_articles
from tinystories.evaluation.intervals import (
    Interval,
    bits_per_byte_interval,
    flatten,
    ratio_interval,
    wilson_interval,
)
from tinystories.evaluation.text_statistics import (
    lengths_and_endings,
    longest_copied_runs,
    longest_repeated_runs,
    out_of_vocabulary_rate,
    repetition,
    vocabulary,
    words,
)
from tinystories.utils import paths
from tinystories.utils.errors import UserError


ROOT = Path(__file__).parents[2]
METRICS = ("article_statistics", "bits_per_byte", "minimal_pair_accuracy", "repetition")
STORIES = list(sample_stories(300, seed=5))


def without_articles(text, share, chance):
    return re.sub(r"\b(?:an?|the)\s+", lambda found: "" if chance.random() < share else found[0], text, flags=re.I)


def shuffled(text, seed):
    return " ".join(random.Random(seed).sample(text.split(), len(text.split())))


# ---- articles


def test_articles_that_are_missing_are_seen_in_proportion():
    found = {}
    for share in (0, 0.1, 0.25, 0.5, 1):
        chance = random.Random(0)
        found[share] = article_statistics([without_articles(story, share, chance) for story in STORIES])
    omission = {share: statistics["article_omission"].value for share, statistics in found.items()}
    assert omission[0] < 0.03 and omission[1] > 0.7
    for share in (0.1, 0.25, 0.5):
        assert omission[share] - omission[0] == pytest.approx(share * (omission[1] - omission[0]), rel=0.25)
    assert found[0]["article_omission"].high < found[0.1]["article_omission"].low
    assert found[0]["articles_per_100_words"].value > 5 > 0.1 > found[1]["articles_per_100_words"].value
    assert found[0]["stories_with_article"].value == 1 and found[1]["stories_with_article"].high < 0.1
    assert math.isnan(found[1]["wrong_a_or_an"].value), "where there is none, none is wrong"


def test_word_salad_has_articles_but_not_where_they_are_due():
    salad = article_statistics([shuffled(story, seed) for seed, story in enumerate(STORIES)])
    assert salad["stories_with_article"].value == 1
    assert salad["article_omission"].low > 0.4 and salad["wrong_a_or_an"].low > 0.1


@pytest.mark.parametrize(
    ("text", "nouns", "omissions"),
    [
        ("She saw a dog.", 1, 0),
        ("She saw dog.", 1, 1),
        ("She saw a big, red toy car.", 1, 0),
        ("She saw big, red toy car.", 1, 1),
        ("The toy car hit a cat.", 2, 0),
        ("He gave the girl ball.", 1, 1),
        ("It was the very best old red car.", 1, 0),
        ("Her car, Tom's dog, a two-year-old bird, this tree, 3 or one frog", 4, 0),
        ("Tom’s dog saw his friends' house and the boys' kite.", 3, 0),
        ("It's dog. That’s kite.", 2, 2),
        ("Hello, bird! Come, little bird!", 0, 0),
        ("a boy and girl", 1, 0),
        ("dogs and cats, water, Dog, named Bird, at home", 0, 0),
        ("dog", 1, 1),
    ],
)
def test_what_counts_as_an_omission(text, nouns, omissions):
    counts = count_articles(text)
    assert (counts.nouns, counts.omissions) == (nouns, omissions)


def test_the_form_of_the_article_goes_by_sound():
    an = "apple egg hour honest honor heir umbrella uncle ugly idea 8 80 11 18 X F x unusual uninteresting usher utter"
    a = "dog unicorn uniform university useful usual one once European ewe 1 10 12 house honey U B ukulele utensil CAT"
    assert [word for word in an.split() if not begins_with_vowel_sound(word)] == []
    assert [word for word in a.split() if begins_with_vowel_sound(word)] == []
    counts = count_articles("A apple, an dog, an apple, a dog, the apple, a.")
    assert (counts.articles, counts.indefinite, counts.wrong_form) == (6, 4, 2)


def test_rates_are_ratios_of_sums():
    statistics = article_statistics(["a dog ran to the car and the dog sat", "car"])
    assert statistics["article_omission"].value == 1 / 4
    assert statistics["articles_per_100_words"].value == pytest.approx(100 * 3 / 11)
    assert statistics["stories_with_article"].value == 1 / 2


# ---- repetition and copying


def test_one_story_over_and_over_is_not_distinct():
    many, one = repetition(STORIES[:50]), repetition(STORIES[:1] * 50)
    for n in (1, 2, 3):
        alone = repetition(STORIES[:1])[f"distinct_{n}"]
        assert one[f"distinct_{n}"] < 0.3 * many[f"distinct_{n}"]
        assert one[f"distinct_{n}"] == pytest.approx(alone / 50)
    assert one["repeated_4grams"].value == repetition(STORIES[:1])["repeated_4grams"].value


def test_a_story_that_goes_round_in_circles_is_repetitive():
    stuck = repetition(["The cat sat. " * 30] * 5)
    assert stuck["repeated_4grams"].value == (90 - 3 - 3) / (90 - 3)
    assert stuck["longest_repeated_run"].value == stuck["longest_repeated_run_max"] == 87
    fine = repetition(STORIES[:50])
    assert fine["repeated_4grams"].high < 0.1 and fine["longest_repeated_run"].high < 20


def test_repetition_by_hand():
    text = "One two three, four one TWO three five."
    found = repetition([text, "six six six"])
    assert found["distinct_1"] == 6 / 11 and found["distinct_2"] == (5 + 1) / (7 + 2)
    assert found["distinct_3"] == (5 + 1) / (6 + 1)
    assert found["repeated_4grams"].value == 0 and longest_repeated_runs(
        [text, "six six six", "a b", ""]
    ).tolist() == [
        *(3, 2, 0, 0),
    ]
    assert longest_repeated_runs(["one two", "one two"]).tolist() == [0, 0], "other texts are other texts"
    assert repetition(["a b c a b c a b c"])["repeated_4grams"].value == 3 / 6


def test_n_grams_end_where_a_story_ends():
    assert repetition(["one two", "three four", "one two"])["distinct_2"] == 2 / 3
    assert math.isnan(repetition(["one two", "three"])["distinct_3"])
    assert math.isnan(repetition([])["distinct_1"]) and math.isnan(repetition([""])["repeated_4grams"].value)


def longest_by_hand(text, training):
    found = words(text)
    runs = [found[i:j] for i in range(len(found)) for j in range(i + 1, len(found) + 1)]
    inside = [run for run in runs if any(f" {' '.join(run)} " in f" {' '.join(words(t))} " for t in training)]
    return max(map(len, inside), default=0)


def test_copied_runs_are_found_and_exact():
    training = STORIES[:20]
    texts = [shuffled(story, 1)[:150] for story in STORIES[40:43]] + [story[:150] for story in STORIES[43:46]]
    copied = longest_copied_runs(texts, training)
    assert [len(run) for run in copied] == [longest_by_hand(text, training) for text in texts]
    for run in copied:
        assert any(f" {' '.join(run)} " in f" {' '.join(words(story))} " for story in training)
    spliced = f"Nobody has said this before. {' '.join(training[7].split()[10:40])} Nor this: xyzzy."
    whole, part, none = longest_copied_runs([training[3], spliced, "Xyzzy plugh."], training)
    assert whole == words(training[3]) and len(part) >= 29 and none == []
    across = longest_copied_runs(["one two three four"], ["one two", "three four"])
    assert across == [["one", "two"]] or across == [["three", "four"]], "no run goes from one story into the next"
    assert longest_copied_runs([], training) == [] and longest_copied_runs(["one"], []) == [[]]


def test_made_up_words_are_seen():
    known = vocabulary(STORIES)
    assert out_of_vocabulary_rate(STORIES[:50], known).value == 0
    broken = [re.sub(r"\bthe\b", "teh", story) for story in STORIES[:50]]
    expected = sum(words(text).count("teh") for text in broken) / sum(len(words(text)) for text in broken)
    assert out_of_vocabulary_rate(broken, known).value == pytest.approx(expected) and expected > 0.02
    assert vocabulary(["a b", "a"], at_least=2) == {"a"}


def test_endings():
    texts = ["He said, “The end.”", "(It was late!)\n", "Was it?", "The end", "The end,", "Then he said", ""]
    found = lengths_and_endings(texts, [True, True, True, True, False, False, False])
    assert found["final_punctuation"].value == 3 / 7 and found["finished"].value == 4 / 7
    assert found["mean_words"] == pytest.approx(16 / 7)
    assert found["mean_bytes"] == pytest.approx(sum(len(text.encode()) for text in texts) / 7)
    whole = lengths_and_endings(STORIES)["final_punctuation"]
    half = lengths_and_endings([story[: len(story) // 2] for story in STORIES])["final_punctuation"]
    assert whole.value == 1 and half.high < 0.2
    with pytest.raises(ValueError, match="1 values, but there are 7 texts"):
        lengths_and_endings(texts, [True])


def test_one_string_is_not_a_list_of_texts():
    for function in (article_statistics, repetition, lengths_and_endings, longest_repeated_runs):
        with pytest.raises(ValueError, match="One string was given"):
            function("One day")


# ---- intervals


def test_the_bootstrap_is_that_of_the_textbook():
    generator = np.random.default_rng(0)
    above, below = generator.normal(10, 3, 400), generator.integers(5, 15, 400)
    interval = ratio_interval(above, below)
    ratio = above.sum() / below.sum()
    error = np.std(above - ratio * below) / below.mean() / np.sqrt(400)  # delta method
    assert interval.value == pytest.approx(ratio)
    assert interval.low == pytest.approx(ratio - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(ratio + 1.96 * error, abs=0.2 * error)
    assert ratio_interval(above, below) == interval != ratio_interval(above, below, seed=1)
    quarter = ratio_interval(above[:100], below[:100])
    assert 1.5 < (quarter.high - quarter.low) / (interval.high - interval.low) < 2.5
    assert interval.value != pytest.approx(np.mean(above / below)), "a mean of ratios would be another figure"


def test_the_bootstrap_of_little():
    assert ratio_interval([3.0], [2.0]) == Interval(1.5, 1.5, 1.5)
    same = ratio_interval(np.full(50, 0.1), np.full(50, 0.3))
    assert same.low <= same.value <= same.high
    assert all(math.isnan(end) for end in ratio_interval([], []) + ratio_interval([0.0], [0]))
    sparse = ratio_interval([1, 0, 0], [1, 0, 0])
    assert sparse == Interval(1, 1, 1), "samples without an occasion say nothing"
    for mistake, message in (
        ({"confidence": 1}, "`confidence`"),
        ({"resamples": 0}, "`resamples`"),
        ({"denominators": [1, 2, 3]}, "one length"),
    ):
        with pytest.raises(ValueError, match=message):
            ratio_interval(**{"numerators": [1, 2], "denominators": [1, 2], **mistake})


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    above, below = np.arange(1, 2001), np.full(2000, 3)
    interval = ratio_interval(above, below, resamples=1500)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * above.std() / 3 / np.sqrt(2000), rel=0.1)


def test_wilson_keeps_its_promise():
    """Coverage of the 95 % interval by exact enumeration, where the usual normal interval fails."""
    for trials, share in ((10, 0.05), (20, 0.9), (50, 0.5), (200, 0.01)):
        hits = 0.0
        for successes in range(trials + 1):
            low, high = wilson_interval(successes, trials)[1:]
            chance = math.comb(trials, successes) * share**successes * (1 - share) ** (trials - successes)
            hits += chance * (low <= share <= high)
        assert 0.9 < hits < 0.995
    # Newcombe 1998, table I: 81 of 263, and none of 20.
    assert wilson_interval(81, 263) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0, 0, 0.1611), abs=1e-4)
    assert math.isnan(wilson_interval(0, 0).value)
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        wilson_interval(3, 2)


def test_flatten():
    assert flatten({"a": Interval(1, 0, 2), "b": 3.0}) == {"a": 1, "a_low": 0, "a_high": 2, "b": 3.0}


# ---- evaluate modules


@pytest.fixture
def load(monkeypatch):
    monkeypatch.chdir(ROOT)
    return lambda name: evaluate.load(f"metrics/{name}")


@pytest.mark.parametrize("name", METRICS)
def test_the_examples_of_the_card_and_of_the_module_run(name, load):
    module = load(name)
    card = (ROOT / "metrics" / name / "README.md").read_text()
    tests = doctest.DocTestParser()
    for text in (card, module.inputs_description):
        test = tests.get_doctest(text, {}, name, None, 0)
        failures = []
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
            test, out=failures.append
        )
        assert result.attempted >= 3 and not result.failed, "".join(failures)
    kind = "measurement" if name in ("article_statistics", "repetition") else "metric"
    front = card.split("---")[1]
    assert module.module_type == kind and re.search(r"^- evaluate$", front, re.M)
    assert re.search(rf"^- {kind}$", front, re.M)
    for field in re.findall(r"^- \*\*(\w+)\*\*", card.split("### Inputs")[1].split("###")[0], re.M):
        assert f"    {field} (" in module.inputs_description, field


def test_the_figures_are_those_of_the_package(load):
    texts = STORIES[:20]
    assert load("article_statistics").compute(data=texts) == flatten(article_statistics(texts))
    assert load("repetition").compute(data=texts, seed=3) == flatten(repetition(texts, seed=3))
    nats = np.linspace(100, 300, 20)
    expected = bits_per_byte_interval(nats, [len(text.encode()) for text in texts], confidence=0.9)
    found = load("bits_per_byte").compute(predictions=nats, references=texts, confidence=0.9)
    assert found == {f"bits_per_byte{end}": value for end, value in zip(("", "_low", "_high"), expected, strict=True)}


def test_without_the_package_one_line_says_what_to_install(load, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "tinystories"]:
        monkeypatch.setitem(sys.modules, module, None)
    for name in METRICS:
        with pytest.raises(ImportError, match="pip install tinyllama-stories") as error:
            load(name)
        assert "\n" not in str(error.value)


def test_metrics_are_found_by_name_in_the_repository_and_where_they_are_installed(monkeypatch, tmp_path):
    assert [Path(metric_path(name)) for name in METRICS] == [ROOT / "metrics" / name for name in METRICS]
    assert not [path for path in (ROOT / "metrics").rglob("*") if path.is_symlink()]
    with pytest.raises(UserError, match="There is no metric 'bleu'; there are article_statistics, bits_per_byte,"):
        metric_path("bleu")

    installed = tmp_path / "site-packages" / "tinystories"
    shutil.copytree(ROOT / "metrics", installed / "metrics")
    monkeypatch.setattr(paths, "__file__", str(installed / "utils" / "paths.py"))
    assert metric_path("bits_per_byte") == str(installed / "metrics" / "bits_per_byte")
    found = evaluate.load(metric_path("bits_per_byte")).compute(predictions=[1.0], references=["é"])
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2) / 2)


def test_all_files_of_the_metrics_are_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    folder = ROOT / "metrics"
    patterns = setup["options.package_data"]["tinystories.metrics"].split(", ")
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert installed == {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_minimal_pairs(load):
    metric = load("minimal_pair_accuracy")
    generator = np.random.default_rng(0)
    kinds = ["article"] * 30 + ["verb"] * 70
    good = metric.compute(predictions=[[-1.0, -2.0]] * 60 + [[-2.0, -1.0]] * 40, kinds=kinds)
    assert good["accuracy"] == 0.6 and good["accuracy_article"] == 1 and good["accuracy_verb"] == 30 / 70
    assert good["accuracy_low"] < 0.6 < good["accuracy_high"]
    constant = metric.compute(predictions=np.zeros((100, 2)))
    assert constant["accuracy"] == 0.5 and constant["ties"] == 100, "knowing nothing is no success"
    noise = metric.compute(predictions=generator.normal(size=(2000, 2)))
    assert noise["accuracy_low"] < 0.5 < noise["accuracy_high"]
    for mistake, message in (
        ({"predictions": [[1.0, 2.0, 3.0]]}, "is a pair"),
        ({"predictions": [[math.nan, 1.0]]}, "1 pairs cannot be compared"),
        ({"predictions": [[1.0, 2.0]], "kinds": ["a", "b"]}, "1 pairs, but 2 `kinds`"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(**mistake)


def test_losses_given_as_log_likelihoods_are_refused(load):
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="none can be negative or nan"):
            load("bits_per_byte").compute(predictions=[wrong], references=["a"])


def test_batches_add_up(load):
    metric = load("bits_per_byte")
    for nats, text in zip((10.0, 20.0, 30.0), STORIES, strict=False):
        metric.add_batch(predictions=[nats], references=[text])
    assert metric.compute()["bits_per_byte"] == pytest.approx(
        60 / math.log(2) / sum(len(text.encode()) for text in STORIES[:3])
    )


def code_blocks(name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "metrics" / name / "README.md").read_text(), re.S)
    return "\n".join(block for block in blocks if not block.startswith(">>>"))


class Rows(torch.utils.data.Dataset):
    """Texts as bytes: a beginning (1), the bytes (from 10 on), an end (2), padding (0)."""

    def __init__(self, texts, length=60):
        self.rows = []
        for text in texts:
            ids = torch.zeros(length, dtype=torch.long)
            labels = torch.full((length,), -100)
            body = torch.tensor([10 + byte % 80 for byte in text.encode()])
            ids[: len(body) + 2] = torch.cat((torch.tensor([1]), body, torch.tensor([2])))
            labels[: len(body) + 1] = ids[: len(body) + 1]
            self.rows.append({"input_ids": ids, "labels": labels})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def evaluated(model, texts, name, load, tmp_path):
    """What a `Trainer` reports that evaluates with the functions of the metric's card."""
    scope = {"torch": torch, "texts": texts, "metric": load(name)}
    exec(code_blocks("bits_per_byte"), scope)
    exec(code_blocks(name), scope)
    arguments = TrainingArguments(
        tmp_path, per_device_eval_batch_size=3, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = Trainer(
        model,
        arguments,
        eval_dataset=Rows(texts),
        compute_metrics=scope["compute_metrics"],
        preprocess_logits_for_metrics=scope["nats_of_rows"],
    )
    return trainer.evaluate()


def nats_by_hand(model, text):
    ids = Rows([text])[0]["input_ids"][: len(text.encode()) + 1]
    with torch.no_grad():
        log_probs = model(ids[None]).logits[0].double().log_softmax(-1)
    return -log_probs[:-1].gather(1, ids[1:, None]).sum().item()


def test_bits_per_byte_in_a_trainer(load, tmp_path):
    model = tiny_model()
    texts = [story[: 20 + 4 * number] for number, story in enumerate(STORIES[:8])]
    reported = evaluated(model, texts, "bits_per_byte", load, tmp_path)
    nats = sum(nats_by_hand(model, text) for text in texts)
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    assert reported["eval_bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert reported["eval_bits_per_byte_low"] < expected < reported["eval_bits_per_byte_high"]


def test_minimal_pairs_in_a_trainer(load, tmp_path):
    model = tiny_model()
    pairs = [("a dog", "an dog"), ("an egg", "a egg"), ("the cat sat", "the cat sit"), ("I am", "I are")]
    reported = evaluated(model, [text for pair in pairs for text in pair], "minimal_pair_accuracy", load, tmp_path)
    right = sum(nats_by_hand(model, good) < nats_by_hand(model, bad) for good, bad in pairs)
    assert reported["eval_accuracy"] == right / 4 and reported["eval_ties"] == 0


# ---- where the word lists come from


WORD_LISTS = str(ROOT / "metrics" / "article_statistics" / "word_lists.py")


def test_the_rule_behind_the_word_lists():
    text = (
        "She saw a dog and the big dog. She saw a cat and two cats and the red cat. They saw dogs. She drank some "
        "water. A walk was fun, and they walk and walk and walk a mile. He put a spoon in a water. The water was on a "
        "walk. Dog has a big cat, and Cat has a big dog. She likes walks and waters. "
    )
    nouns, modifiers = runpy.run_path(WORD_LISTS)["make_word_lists"]([text * 20])
    assert nouns == ["cat", "dog"], "water is uncountable, walk is a verb, and spoon has no plural here"
    assert modifiers == ["big", "red"]


def test_the_word_list_script_prints_them(tmp_path, monkeypatch, capsys):
    stories = tmp_path / "stories.txt"
    stories.write_text("<|endoftext|>".join(["She saw a dog and two dogs and the big dog. "] * 30))
    monkeypatch.setattr(sys, "argv", [WORD_LISTS, str(stories)])
    runpy.run_path(WORD_LISTS, run_name="__main__")
    printed = capsys.readouterr().out
    assert "COUNTABLE_NOUNS: 1\n    dog\n" in printed and "MODIFIERS: 1\n    big\n" in printed
