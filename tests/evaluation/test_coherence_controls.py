"""Coherence probes of models that were trained on incoherent stories, and of one that sees four tokens."""

import random
import re
from collections import Counter, defaultdict

import pytest
import torch
from coherent_stories import NAMES_BY_GENDER, coherent_stories
from helpers import tiny_model

from tinystories.evaluation.coherence import KINDS, accuracy, make_probes, score_probes
from tinystories.evaluation.minimal_pairs import accuracy as grammar_accuracy
from tinystories.evaluation.minimal_pairs import make_pairs, score_pairs
from tinystories.tokenization import train_bpe


pytestmark = pytest.mark.slow
TRAINING = coherent_stories(5000, seed=1)
HELD_OUT = coherent_stories(900, seed=2)
LENGTH = 160  # tokens
GRAMMAR = ("article_deleted", "article_moved", "word_order")
CHANCE = (0.35, 0.65)
LEARNED = 0.7  # of grammar: minimal pairs are single sentences, with which no training story begins


def renamed(stories: list[str], rng: random.Random) -> list[str]:
    """Each mention of a name replaced with a random name of the same gender."""
    pattern = re.compile("|".join(rf"\b{name}\b" for name in NAMES_BY_GENDER))
    return [pattern.sub(lambda match: rng.choice(NAMES_BY_GENDER[match[0]]), story) for story in stories]


def sentences_of_other_stories(stories: list[str], rng: random.Random) -> list[str]:
    """As many sentences per story, drawn from all stories."""
    sentences = [re.findall(r"[^.]+\.", story) for story in stories]
    pool = [sentence.strip() for each in sentences for sentence in each]
    rng.shuffle(pool)
    left = iter(pool)
    return [" ".join(next(left) for _ in each) for each in sentences]


def words_of_other_stories(stories: list[str], rng: random.Random) -> list[str]:
    """As many words per story, drawn from all stories."""
    pool = [word for story in stories for word in story.split()]
    rng.shuffle(pool)
    left = iter(pool)
    return [" ".join(next(left) for _ in story.split()) for story in stories]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TRAINING[:500], vocab_size=500, progress=False)


@pytest.fixture(scope="module")
def probes():
    return make_probes(HELD_OUT, per_kind=100, progress=False)


@pytest.fixture(scope="module")
def measure(tokenizer, probes):
    """Accuracies of a model by kind of probe, and its mean accuracy on minimal pairs."""
    pairs = make_pairs(HELD_OUT, per_kind=60, kinds=GRAMMAR, progress=False)

    def measured(model) -> tuple[dict[str, float], float]:
        coherent = accuracy(score_probes(model, tokenizer, probes, progress=False))
        grammar = grammar_accuracy(score_pairs(model, tokenizer, pairs, progress=False))
        assert coherent.keys() == KINDS.keys() and grammar.keys() == set(GRAMMAR)
        rates = [kind["accuracy"] for kind in grammar.values()]
        return {kind: rate["accuracy"] for kind, rate in coherent.items()}, sum(rates) / len(rates)

    return measured


def new_model(tokenizer):
    return tiny_model(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
    )


def trained(tokenizer, stories: list[str], steps: int = 500, batch: int = 32, rate: float = 3e-3):
    """A model after `steps` on batches of `stories`, each between two EOS."""
    torch.manual_seed(0)
    model, eos = new_model(tokenizer), tokenizer.eos_token_id
    labels = torch.full((len(stories), LENGTH), -100)
    for row, ids in zip(labels, tokenizer(stories)["input_ids"], strict=True):
        ids = torch.tensor([eos, *ids, eos])[:LENGTH]
        row[: len(ids)] = ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = labels[torch.randint(len(labels), (batch,))]
        model(input_ids=rows.clamp(min=0), labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def five_gram_model(tokenizer, stories: list[str]):
    """A model whose logits are those of the longest of the contexts of 4, 3, 2, 1 and 0 tokens that training has."""
    counts: dict[tuple[int, ...], Counter] = defaultdict(Counter)
    eos = tokenizer.eos_token_id
    for ids in tokenizer(stories)["input_ids"]:
        ids = [eos, *ids, eos]
        for place, token in enumerate(ids):
            for width in range(min(4, place) + 1):
                counts[tuple(ids[place - width : place])][token] += 1
    model = new_model(tokenizer)

    def logits(ids: list[int]) -> torch.Tensor:
        rows = torch.empty(len(ids), len(tokenizer))
        for place in range(len(ids)):
            seen = ids[max(0, place - 3) : place + 1]
            found = next(counts[context] for w in range(len(seen) + 1) if (context := tuple(seen[w:])) in counts)
            row = torch.full((len(tokenizer),), 0.01)
            row[list(found)] += torch.tensor(list(found.values()), dtype=torch.float32)
            rows[place] = (row / row.sum()).log()
        return rows

    def replace(module, arguments, options, output):
        output.logits = torch.stack([logits(ids) for ids in options["input_ids"].tolist()])

    model.register_forward_hook(replace, with_kwargs=True)
    return model


def at_chance(value: float) -> bool:
    return CHANCE[0] <= value <= CHANCE[1]


def test_whole_stories_teach_all_kinds(tokenizer, measure):
    coherent, grammar = measure(trained(tokenizer, TRAINING))
    assert min(coherent.values()) > CHANCE[1], coherent
    assert grammar > LEARNED, grammar


def test_random_names_lose_names_only(tokenizer, measure):
    coherent, grammar = measure(trained(tokenizer, renamed(TRAINING, random.Random(0))))
    assert at_chance(coherent.pop("name"))
    assert min(coherent.values()) > CHANCE[1], coherent
    assert grammar > LEARNED, grammar


def test_sentences_of_other_stories_keep_grammar_and_lose_coherence(tokenizer, measure):
    coherent, grammar = measure(trained(tokenizer, sentences_of_other_stories(TRAINING, random.Random(0))))
    assert all(map(at_chance, coherent.values())), coherent
    assert grammar > LEARNED, grammar


def test_words_of_other_stories_lose_grammar_and_coherence(tokenizer, measure):
    coherent, grammar = measure(trained(tokenizer, words_of_other_stories(TRAINING, random.Random(0))))
    assert all(map(at_chance, coherent.values())), coherent
    assert grammar < 0.65


def test_a_five_gram_model_is_at_chance(tokenizer, measure):
    coherent, grammar = measure(five_gram_model(tokenizer, TRAINING))
    assert all(map(at_chance, coherent.values())), coherent
    assert grammar > LEARNED, grammar
