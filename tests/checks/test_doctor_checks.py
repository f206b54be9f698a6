"""Single checks, each on input that must be reported and on input that must pass."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import by_check
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainingArguments

from tinystories.checks import Finding, examine, report_lines, vocabulary
from tinystories.checks.batches import find_stories
from tinystories.checks.findings import as_check
from tinystories.checks.held_out import check_held_out
from tinystories.checks.hyperparameters import SETTINGS, SOURCES, RunLength, compare_settings, end_of_schedule
from tinystories.checks.learning_rate import check_learning_rate, expected_rate
from tinystories.checks.log import read_log
from tinystories.checks.progress import (
    check_best_checkpoint,
    check_end,
    check_overfitting,
    check_tokens,
    check_validation,
)
from tinystories.checks.targets import is_corpus
from tinystories.data.corpus import load_corpus
from tinystories.tokenization import train_bpe
from tinystories.training.arguments import TRAINER_DEFAULTS
from tinystories.utils.errors import UserError


# Findings


def test_a_finding_is_one_line_and_has_a_known_status():
    assert str(Finding("loss", "error", "it is 3", "Shift once.")) == "error         loss: it is 3 -> Shift once."
    with pytest.raises(ValueError, match="status"):
        Finding("loss", "wrong", "it is 3")


def test_a_check_that_fails_is_inconclusive():
    @as_check("loss")
    def check():
        raise RuntimeError("first\nsecond")

    [found] = check()
    assert found.status == "inconclusive" and "RuntimeError: first" in found.evidence and "\n" not in found.evidence


# The log


def log(tmp_path, entries, **state):
    path = tmp_path / "trainer_state.json"
    last = max((entry["step"] for entry in entries), default=0)
    path.write_text(json.dumps({"global_step": last, "max_steps": last, "log_history": entries, **state}))
    return read_log(tmp_path)


def rates(*values):
    return [{"step": 10 * number, "learning_rate": value} for number, value in enumerate(values, 1)]


def evaluations(*values, key="eval_bits_per_byte"):
    return [{"step": 100 * number, key: value} for number, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    "values, status",
    [
        ((1e-4, 3e-4, 5e-4, 4e-4, 2e-4, 5e-5), "ok"),
        ((5e-4, 5e-4, 5e-4, 5e-4), "ok"),
        ((1e-4, 5e-4, 5e-4, 5e-4, 3e-4, 0.0), "ok"),
        ((5e-4, 4e-4, 4.0000001e-4, 3e-4), "ok"),
        ((1e-4, 5e-4, 3e-4, 5e-4, 3e-4), "error"),
        ((5e-4, 3e-4, 1e-4, 0.0, 0.0, 1e-4), "error"),
        ((5e-4, 4e-4, 3e-4, 3.5e-4), "error"),
        ((5e-4,), "inconclusive"),
    ],
)
def test_a_learning_rate_that_rises_again_is_an_error(tmp_path, values, status):
    assert check_learning_rate(log(tmp_path, rates(*values)))[0].status == status


def test_a_configured_restart_is_a_note(tmp_path):
    found = check_learning_rate(log(tmp_path, rates(5e-4, 1e-4, 5e-4)), restarts_wanted=True)
    assert found[0].status == "note"


@pytest.mark.parametrize("kind", ["cosine_warmup_with_min_lr", "linear", "cosine_with_restarts", "constant"])
def test_logged_learning_rates_are_compared_with_the_recipe(tmp_path, kind):
    arguments = TrainingArguments(str(tmp_path), learning_rate=1e-3, lr_scheduler_type=kind, warmup_steps=10)
    rate = expected_rate(arguments, 200)
    logged = [{"step": step, "learning_rate": rate(step)} for step in range(10, 201, 10)]
    wanted = kind == "cosine_with_restarts"
    assert check_learning_rate(log(tmp_path, logged), rate, wanted)[-1].status == "ok"
    for entry in logged:
        entry["learning_rate"] *= 1.1
    assert check_learning_rate(log(tmp_path, logged), rate, wanted)[-1].status == "error"


def test_tokens_per_parameter(tmp_path):
    made = log(tmp_path, rates(1e-3, 1e-3), max_steps=100)
    [unfinished] = check_end(tmp_path, made)
    assert unfinished.status == "note" and "20 of 100" in unfinished.evidence and "resume" in unfinished.advice
    [seen] = check_tokens(made, 1_000, 20_000, "counted in training")
    assert (
        seen.status == "ok" and "20 tokens per parameter" in seen.evidence and "counted in training" in seen.evidence
    )
    assert check_tokens(made, 1_000, 1_000)[0].status == "note"
    assert check_tokens(made, 1_000, None)[0].status == "inconclusive"


def test_a_falling_and_a_flat_validation_curve(tmp_path):
    [falling] = check_validation(log(tmp_path, evaluations(1.0, 0.8, 0.7, 0.6)))
    assert falling.status == "note" and "still falling" in falling.evidence
    assert "-0.1300 per hundred steps" in falling.evidence and "bits per byte" in falling.evidence
    [flat] = check_validation(log(tmp_path, evaluations(1.0, 0.6, 0.502, 0.5)))
    assert flat.status == "ok" and "levelled out" in flat.evidence
    assert check_validation(log(tmp_path, evaluations(1.0)))[0].status == "inconclusive"
    [nats] = check_validation(log(tmp_path, evaluations(3.0, 2.0, key="eval_loss")))
    assert "nats per token" in nats.evidence


def test_the_evaluation_of_the_reloaded_best_checkpoint_is_left_out(tmp_path):
    """After the last step, `Trainer` evaluates the best weights and logs the result under the number of that step."""
    entries = [
        {"step": 20, "eval_loss": 2.0},
        {"step": 21, "train_runtime": 1.0},
        {"step": 21, "eval_loss": 2.0 + 1e-7},
    ]
    once = log(tmp_path, entries)
    assert once.evaluations == {20: 2.0} and once.ended
    assert check_validation(once)[0].status == "inconclusive"
    # Another value is that of other weights, and counts.
    entries[-1]["eval_loss"] = 1.9
    assert log(tmp_path, entries).evaluations == {20: 2.0, 21: 1.9}
    # An equal value during training counts, too, because no weights are loaded then.
    flat = evaluations(1.0, 0.6, 0.5, 0.5)
    assert len(log(tmp_path, flat).evaluations) == 4


def test_a_flat_curve_needs_three_distant_evaluations(tmp_path):
    def status(*steps):
        figures = [{"step": step, "eval_loss": 1.0 + 1e-4 * number} for number, step in enumerate(reversed(steps))]
        return check_validation(log(tmp_path, figures))[0].status

    assert status(100, 200, 300) == "ok"
    assert status(100, 200) == "inconclusive"
    assert status(95, 98, 100) == "inconclusive"


def test_overfitting_is_a_note_if_the_best_weights_were_kept(tmp_path):
    falling = [{"step": 100 * number, "loss": 3.0 - number / 4} for number in range(1, 6)]
    made = log(tmp_path, [*falling, *evaluations(1.0, 0.8, 0.7, 0.75, 0.8)])
    assert check_overfitting(made)[0].status == "error"
    kept = check_overfitting(made, best_is_kept=True)[0]
    assert kept.status == "note" and "these are the weights of the best step" in kept.evidence


def test_how_a_run_ended_is_read_from_its_log(tmp_path):
    def ended(entries, folder=tmp_path, **state):
        made = log(tmp_path, entries, **{"max_steps": 500, **state})
        return lambda **settings: check_end(folder, made, **settings)

    trained = evaluations(1.0, 0.8, 0.9)
    stopped = ended([*trained, {"step": 300, "train_runtime": 5.0}])
    assert "early stopping" in stopped(patience=1)[0].evidence and "0.8000" in stopped(patience=1)[0].evidence
    assert "by a callback" in stopped()[0].evidence and "resume" not in stopped()[0].advice
    assert "unfinished" in ended(trained)()[0].evidence
    assert ended(trained, max_steps=300)()[0].status == "ok"
    by_the_clock = [{**entry, "seconds": 60.0} for entry in trained]
    [found] = ended(by_the_clock, max_steps=10**8)(minutes=4)
    assert found.status == "note" and "300 steps in 1 of 4 minutes: the run is unfinished" in found.evidence
    assert ended([*by_the_clock, {"step": 300, "train_runtime": 9}], max_steps=300)(minutes=1)[0].status == "ok"


def test_overfitting_is_rising_validation_with_a_falling_training_loss(tmp_path):
    falling = [{"step": 100 * number, "loss": 3.0 - number / 4} for number in range(1, 6)]
    rising = [{"step": 100 * number, "loss": 2.0 + number / 4} for number in range(1, 6)]
    worse = evaluations(1.0, 0.8, 0.7, 0.75, 0.8)
    [over] = check_overfitting(log(tmp_path, [*falling, *worse]))
    assert over.status == "error" and "step 300" in over.advice
    assert check_overfitting(log(tmp_path, [*rising, *worse]))[0].status == "note"
    better = evaluations(1.0, 0.8, 0.7, 0.65, 0.6)
    assert check_overfitting(log(tmp_path, [*falling, *better]))[0].status == "ok"


def test_the_best_checkpoint_is_named(tmp_path):
    run = tmp_path / "run"
    for step in (200, 300):
        (run / f"checkpoint-{step}").mkdir(parents=True)
        log(run / f"checkpoint-{step}", evaluations(1.0, 0.5, 0.7)[: step // 100])
    whole = log(run, evaluations(1.0, 0.5, 0.7))
    found = check_best_checkpoint(run, whole)[0]
    assert found.status == "error" and "0.2000" in found.evidence and str(run / "checkpoint-200") in found.advice
    best = check_best_checkpoint(run / "checkpoint-200", read_log(run / "checkpoint-200"))[0]
    assert best.status == "ok"
    last = check_best_checkpoint(run / "checkpoint-300", read_log(run / "checkpoint-300"))[0]
    assert last.status == "error"
    # The best weights were loaded at the end, as equal files or another evaluation show.
    for folder in (run, run / "checkpoint-200"):
        (folder / "model.safetensors").write_bytes(b"the same")
    assert check_best_checkpoint(run, whole)[0].status == "ok"
    (run / "model.safetensors").write_bytes(b"others")
    again = log(run, [*evaluations(1.0, 0.5, 0.7), {"step": 300, "eval_bits_per_byte": 0.5}])
    assert check_best_checkpoint(run, again)[0].status == "ok"
    assert check_validation(again)[0].evidence.startswith("0.7000")


def test_a_missing_or_damaged_log_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no trainer_state"):
        read_log(tmp_path)
    for content in ("[]", "{", '{"log_history": 3}'):
        (tmp_path / "trainer_state.json").write_text(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_log(tmp_path)


# Settings


def compared(tmp_path, run=None, muon=False, **arguments):
    made = TrainingArguments(str(tmp_path), use_cpu=True, **arguments)
    found = compare_settings(made, run or RunLength(), muon=muon)
    return {finding.check.removeprefix("setting: "): finding for finding in found}


def test_published_settings_are_ok_and_distant_ones_are_notes(tmp_path):
    usual = dict(TRAINER_DEFAULTS)
    usual = {name: usual[name] for name in ("learning_rate", "adam_beta2", "weight_decay", "max_grad_norm")}
    run = RunLength(steps=10_000, epochs=3, tokens_per_step=131_072)
    found = compared(tmp_path, run, **usual, warmup_steps=500, lr_scheduler_type="cosine")
    assert {finding.status for finding in found.values()} == {"ok"} and len(found) == len(SETTINGS)
    far = compared(
        tmp_path, RunLength(steps=10, tokens_per_step=100), learning_rate=0.1, weight_decay=0.9, max_grad_norm=0
    )
    for name in ("learning rate", "weight decay", "gradient clipping", "tokens per step", "total tokens"):
        assert far[name].status == "note", name
    assert "AdamW" in compared(tmp_path, muon=True, learning_rate=0.02)["learning rate"].remark


def test_the_end_of_each_schedule_is_known(tmp_path):
    def end(kind, **kwargs):
        return end_of_schedule(
            TrainingArguments(str(tmp_path), lr_scheduler_type=kind, learning_rate=1e-3, lr_scheduler_kwargs=kwargs)
        )

    assert end("constant") == 1.0 and end("linear") == end("cosine") == 0.0
    assert end("cosine_with_min_lr", min_lr=1e-4) == pytest.approx(0.1)
    assert end("cosine_warmup_with_min_lr", min_lr_rate=0.2) == 0.2
    assert end("inverse_sqrt") is None


def test_every_published_figure_has_a_source_and_a_column(tmp_path):
    assert {source for setting in SETTINGS.values() for source in setting.published} == set(SOURCES)
    lines = report_lines(list(compared(tmp_path, RunLength(100, 1, 1_000)).values()))
    header = lines[0].split("  ")
    for source in SOURCES:
        assert any(cell.strip() == source for cell in header)
        assert any(line.startswith(f"{source}: ") for line in lines)
    at = lines[0].index("llama2.c")
    rate = next(line for line in lines if line.startswith("learning rate"))
    assert rate[at : at + 4] == "5e-4"


# Stories and vocabulary


def words(count, seed=0):
    """`count` words, in which no sequence repeats."""
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).permutation(10_000)[:count])


def test_validation_stories_in_training_are_found_in_any_case(tmp_path):
    train, held = [words(60, seed) for seed in range(100)], [words(60, seed) for seed in range(200, 300)]
    same, runs = check_held_out(train, held, 1_000, 100)
    assert same.status == runs.status == "ok" and "100 of 1,000" in same.evidence
    again = [train[5].upper().replace(" ", ",  ", 3) + "!", *held[1:]]
    assert check_held_out(train, again, 100, 100)[0].status == "error"
    assert check_held_out(train, again + held * 2, 100, 300)[0].status == "note", "one in 300"


def test_long_shared_word_runs_are_counted(tmp_path):
    train, held = [words(60, seed) for seed in range(10)], [words(60, seed) for seed in range(20, 30)]

    def shared(stories):
        return check_held_out(train, stories, 10, 10)[1]

    def spliced(count):
        return [" ".join(held[0].split()[:20] + train[3].split()[:count]), *held[1:]]

    assert "0 of 10" in shared(held).evidence
    assert "0 of 10" in shared(spliced(19)).evidence and "1 of 10" in shared(spliced(20)).evidence
    assert shared(spliced(20)).status == "ok" and shared(spliced(60)).status == "note"
    assert shared(["too short"]).status == "inconclusive"


@pytest.fixture(scope="module")
def sample():
    return load_corpus("sample", max_stories=600, max_validation_stories=10).train["text"][:]


@pytest.fixture(scope="module")
def tokenizer(sample):
    return train_bpe(sample, 900, progress=False)


def test_articles_must_be_single_tokens(sample, tokenizer):
    [found] = vocabulary.check_articles(tokenizer)
    assert '" the"' not in found.evidence and '" a"' not in found.evidence
    bytes_only = train_bpe(sample[:50], 262, progress=False)
    [found] = vocabulary.check_articles(bytes_only)
    assert found.status == "note" and '" the"' in found.evidence


def test_the_vocabulary_is_checked_on_text(sample, tokenizer):
    found = by_check(vocabulary.check_tokens(tokenizer, sample))
    assert found["round trip"].status == "ok" and found["bytes per token"].status == "ok"
    assert found["unused vocabulary"].status in ("ok", "note")
    few = by_check(vocabulary.check_tokens(tokenizer, sample[:20]))
    assert few["unused vocabulary"].status == "inconclusive"
    other = train_bpe([" ".join(f"zq{number}x" for number in range(4_000))] * 2, 4_000, progress=False)
    found = by_check(vocabulary.check_tokens(other, sample))
    assert found["bytes per token"].status == "note" and found["unused vocabulary"].status == "note"


def test_text_with_unknown_tokens_is_an_error(sample):
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    found = vocabulary.check_tokens(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), sample[:50])
    assert {finding.check: finding.status for finding in found}["round trip"] == "error"


def test_embeddings_are_compared_with_the_vocabulary(tokenizer):
    def status(embeddings, parameters=10**6):
        model = SimpleNamespace(
            get_input_embeddings=lambda: torch.nn.Embedding(embeddings, 64), num_parameters=lambda: parameters
        )
        return vocabulary.check_vocabulary(tokenizer, model)[0].status

    size = len(tokenizer)
    assert status(size) == "ok" and status(size - 1) == "error" and status(2 * size) == "note"
    assert status(size, parameters=size * 64 + 1_000) == "note"


def test_packed_rows_need_three_special_tokens(tokenizer, tmp_path):
    assert vocabulary.check_special_tokens(tokenizer)[0].status == "ok"
    tokenizer.save_pretrained(tmp_path)
    for wrong in ({"pad_token": None}, {"pad_token": "<|endoftext|>"}):
        known = PreTrainedTokenizerFast.from_pretrained(tmp_path, **wrong)
        assert vocabulary.check_special_tokens(known)[0].status == "error"


# Stories in batches


def test_stories_are_found_by_position_ids_or_by_eos():
    ids = torch.tensor([[0, 5, 6, 0, 0, 7, 8, 9, 0, 1]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0]])
    labels = ids.clone()
    packed = find_stories({"input_ids": ids, "labels": labels, "position_ids": positions}, eos=0, pad=1)
    assert packed.stories == [(0, 0, 4), (0, 4, 9)] and packed.marked
    joined = find_stories({"input_ids": ids, "labels": labels}, eos=0, pad=1)
    assert joined.stories == [(0, 0, 4), (0, 4, 9)] and not joined.marked
    bare = find_stories({"input_ids": torch.tensor([[5, 6, 0, 7, 8, 0, 9, 9]]), "labels": labels}, 0, 1)
    assert bare.stories == [(0, 0, 3), (0, 3, 6), (0, 6, 8)]
    mask = torch.tensor([[0, 0, 1, 1]])
    left = find_stories({"input_ids": torch.tensor([[0, 0, 0, 5]]), "attention_mask": mask, "labels": labels}, 0, 0)
    assert left.stories == [(0, 2, 4)] and left.padding.tolist() == [[True, True, False, False]]


def test_which_targets_are_stories(tmp_path):
    assert is_corpus("sample") and not is_corpus("openai-community/gpt2") and not is_corpus(str(tmp_path))
    (tmp_path / "stories.txt").write_text("Once.")
    assert is_corpus(str(tmp_path)) and is_corpus(str(tmp_path / "stories.txt"))
    (tmp_path / "config.json").write_text("{}")
    assert not is_corpus(str(tmp_path))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert not is_corpus(str(tmp_path / "adapter"))


def test_a_file_of_unknown_format_may_be_meant_as_stories_or_as_a_model(tmp_path):
    file = tmp_path / "foo.xyz"
    file.write_text("Once upon a time there was a fox.")
    with pytest.raises(UserError, match=r"neither a file of stories nor a model: .*\.txt, .*\.pth") as error:
        examine(str(file))
    assert "\n" not in str(error.value)
