"""The `evaluate` modules in `metrics/`: their cards, their figures and where they are installed."""

import configparser
import doctest
import math
import re
import runpy
import shutil
import sys
import uuid
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from helpers import tiny_model
from transformers import Trainer, TrainingArguments

from tinystories.data.synthetic import sample_stories
from tinystories.evaluation import metric_path
from tinystories.evaluation.articles import article_statistics
from tinystories.evaluation.intervals import (
    bits_per_byte_interval,
    flatten,
)
from tinystories.evaluation.text_statistics import (
    repetition,
)
from tinystories.utils import paths
from tinystories.utils.errors import UserError


ROOT = Path(__file__).parents[2]
METRICS = ("article_statistics", "bits_per_byte", "minimal_pair_accuracy", "repetition")
STORIES = list(sample_stories(300, seed=5))


@pytest.fixture
def load(monkeypatch):
    monkeypatch.chdir(ROOT)
    # Metrics with the same experiment_id wait a second for each other's lock.
    return lambda name: evaluate.load(f"metrics/{name}", experiment_id=uuid.uuid4().hex)


@pytest.mark.parametrize("name", METRICS)
def test_examples_of_card_and_module(name, load):
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
        with pytest.raises(ImportError, match="pip install [.]'") as error:
            load(name)
        assert "\n" not in str(error.value)


def test_metrics_are_found_by_name_in_the_repository_and_where_they_are_installed(monkeypatch, tmp_path):
    assert [Path(metric_path(name)) for name in METRICS] == [ROOT / "metrics" / name for name in METRICS]
    assert not [path for path in (ROOT / "metrics").rglob("*") if path.is_symlink()]
    with pytest.raises(
        UserError, match="There is no metric 'bleu'; the metrics are article_statistics, bits_per_byte,"
    ):
        metric_path("bleu")

    installed = tmp_path / "site-packages" / "tinystories"
    shutil.copytree(ROOT / "metrics", installed / "metrics")
    monkeypatch.setattr(paths, "__file__", str(installed / "utils" / "paths.py"))
    assert metric_path("bits_per_byte") == str(installed / "metrics" / "bits_per_byte")
    found = evaluate.load(metric_path("bits_per_byte"), experiment_id="installed").compute(
        predictions=[1.0], references=["é"]
    )
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
    """Texts as token ids: BOS (1), the bytes (from 10 on), EOS (2), padding (0)."""

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
    """The metrics of a `Trainer` that uses the functions on the metric's card."""
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


# The word lists of the article statistics


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
