"""The checks of `tinystories doctor TARGET`, by the kind of TARGET.

| target | what is checked |
|---|---|
| a recipe | the text, the vocabulary, real batches through a new model, settings, the machine |
| a run folder, or a checkpoint in one | the same without the machine; which token it predicts; its log |
| another causal model, or a file that `tinystories import` reads | which token it predicts; its vocabulary; its log |
| a tokenizer | its special tokens, what it adds to prompts, its vocabulary |
| stories | the text |
"""

import dataclasses
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, TrainingArguments

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.tokenization import train_bpe

from ..data.corpus import load_corpus, recipe_corpus
from ..data.formats import SUFFIXES
from ..data.packing import PackedStories
from ..export.base_model import load_base
from ..export.import_model import UnknownFormatError, read_source
from ..export.wikimini import load_wikimini
from ..recipe import Recipe, load_recipe
from ..runs.loading import load_tokenizer
from ..runs.run_folder import run_recipe
from ..training import build as training
from ..training.arguments import training_arguments
from ..training.fine_tuning import complete_recipe
from ..utils.errors import UserError, first_line
from ..utils.random_state import preserved_random_state
from . import targets, vocabulary
from .before_training import examine_trainer
from .findings import Finding, as_check, error, has_error, inconclusive, note, ok
from .learned import check_learned
from .log import read_log
from .loss import check_model_shift
from .prediction_offset import beginning_of_text, check_objective
from .preflight import dry_run
from .story_sample import TOKENIZER_STORIES, StorySample, evenly
from .trained_run import TrainedRun


LIMIT = 2_000  # stories
SCORED, SCORED_QUICKLY = 100, 24  # stories that a model is scored on
REPLACED = "The built-in sample stories are used instead"


@dataclass
class _Options:
    """The arguments of [`examine`].

    Attributes:
        reading: the fields of a recipe for reading stories; None for the values of the recipe.
        cleaned: counts of `write_clean`, summed over the splits.
    """

    corpus: str | None
    tokenizer: str | None
    limit: int
    quick: bool
    strict: bool
    reading: dict[str, Any]
    cleaned: dict | None = None

    def load_stories(self, recipe: Recipe | None = None) -> StorySample:
        """A sample of the stories that the user named, or else of those of the recipe.

        Raises:
            UserError: if they cannot be loaded.
        """
        recipe = targets.with_corpus(recipe or Recipe(), self.corpus, self.reading)
        return StorySample.of(recipe_corpus(recipe), self.limit)

    def try_load_stories(self, recipe: Recipe | None) -> StorySample | Finding:
        """As [`load_stories`], but a finding if the stories of the recipe, which the user did not name, cannot be
        loaded."""
        advice = "Specify stories with --corpus."
        if recipe is None and self.corpus is None:
            evidence = "no stories were specified; the built-in sample stories are used"
            return inconclusive(evidence, advice, check="corpus")
        try:
            return self.load_stories(recipe)
        except UserError as reason:
            if self.corpus is not None:
                raise
            return inconclusive(str(reason), advice, check="corpus")

    def check_text(self, stories: StorySample, tokenizer: PreTrainedTokenizerBase | None) -> list[Finding]:
        """Findings on the text, and on how the tokenizer encodes prompts and these stories."""
        findings = stories.check_text(tokenizer, strict=self.strict, cleaned=self.cleaned)
        if tokenizer is not None:
            findings += vocabulary.check_prompt_ends(tokenizer)
            findings += vocabulary.check_tokens(tokenizer, stories.checked)
        return findings


def examine(
    target: str | Path,
    *,
    corpus: str | None = None,
    tokenizer: str | None = None,
    limit: int = LIMIT,
    quick: bool = False,
    strict: bool = False,
    text_column: str | None = None,
    split: str | None = None,
    skip_bad_rows: bool | None = None,
    cleaned: dict | None = None,
) -> list[Finding]:
    """Check a recipe, a run folder, a model, a tokenizer or stories.

    Args:
        target: a recipe (file or name), a run folder or a checkpoint in one, any causal model of transformers (folder
            or Hub id), a file that `tinystories import` reads (`.pth`, `.bin`), a folder with a tokenizer, or stories
            (`sample`, a file or a folder).
        corpus: stories to check and to measure on; by default those of the recipe.
        tokenizer: folder or Hub id; by default the target's own, or for a file the one beside it.
        limit: stories to check, spread evenly over the corpus.
        quick: measure no training steps, and score fewer stories.
        strict: warnings about text quality, and everything that cleaning would change, are errors.
        text_column, split, skip_bad_rows: as in a [`Recipe`]; by default those of the recipe.
        cleaned: counts of `write_clean` by split, if it was applied to this corpus.

    Raises:
        UserError: for a target, corpus or tokenizer that cannot be found or read.
    """
    if limit < 1:
        raise UserError(f"`limit` must be at least 1, but is {limit}.")
    targets.require_target(str(target))
    reading = {"text_column": text_column, "split": split, "skip_bad_rows": skip_bad_rows}
    options = _Options(corpus, tokenizer, limit, quick, strict, reading, _total(cleaned) if cleaned else None)
    with preserved_random_state():
        findings = _examine(str(target), options)
    # The vocabulary of a run folder is checked with its weights and with its batches.
    return [finding for number, finding in enumerate(findings) if finding not in findings[:number]]


def _total(cleaned: dict) -> dict:
    """The counts of all splits together."""
    total: dict[str, Any] = {"stories": sum(counts["stories"] for counts in cleaned.values())}
    for kind in ("repaired", "dropped"):
        total[kind] = sum((Counter(counts[kind]) for counts in cleaned.values()), Counter())
    return total


def _examine(target: str, options: _Options) -> list[Finding]:
    path = Path(target)
    if targets.is_recipe(target):
        return _examine_recipe(target, options)
    if targets.is_corpus(target):
        options.corpus = target
        tokenizer = load_tokenizer(options.tokenizer, as_saved=True) if options.tokenizer else None
        return options.check_text(options.load_stories(), tokenizer)
    if path.is_file():
        return _examine_file(path, options)
    if targets.is_tokenizer(path):
        return _examine_tokenizer(target, options)
    return _examine_model(target, options)


def _examine_tokenizer(target: str, options: _Options) -> list[Finding]:
    tokenizer = load_tokenizer(target, as_saved=True)
    findings = [
        *vocabulary.check_special_tokens(tokenizer),
        *vocabulary.check_prompt_ends(tokenizer),
        *vocabulary.check_prompt_start(tokenizer, beginning_of_text(tokenizer)),
        *vocabulary.check_vocabulary(tokenizer),
        *vocabulary.check_articles(tokenizer),
    ]
    return findings if options.corpus is None else findings + options.check_text(options.load_stories(), tokenizer)


# A recipe


def _examine_recipe(target: str, options: _Options) -> list[Finding]:
    recipe = targets.with_corpus(load_recipe(target), options.corpus, options.reading)
    recipe = dataclasses.replace(recipe, tokenizer=options.tokenizer or recipe.tokenizer)
    base = None
    if recipe.init_from is not None:
        base = load_base(recipe.init_from, recipe.tokenizer)
        base.add_tokens(recipe.add_tokens or [])
        recipe = complete_recipe(recipe, base)
    local = targets.local_recipe(recipe)
    arguments = training_arguments(local)
    findings = [_check_arguments(recipe, local, arguments)]
    stories = options.try_load_stories(recipe)
    if isinstance(stories, Finding):
        evidence = f"{stories.evidence} {REPLACED}, only to check batches and the machine."
        findings.append(dataclasses.replace(stories, evidence=evidence))
        stories = StorySample.of(load_corpus("sample"), options.limit, is_replacement=True)
    if base is not None:
        tokenizer = base.tokenizer
    elif recipe.tokenizer:
        tokenizer = load_tokenizer(recipe.tokenizer, as_saved=True)
    else:
        tokenizer = _new_tokenizer(recipe, stories)
    findings += _check_special_tokens(tokenizer, recipe)
    if not stories.is_replacement:
        findings += options.check_text(stories, tokenizer)
    folder, time = str(arguments.output_dir), not options.quick
    if base is None:
        return findings + _examine_new_model(recipe, tokenizer, stories, folder, time=time)
    scored = evenly(stories.validation, SCORED_QUICKLY)
    findings += check_objective(base.model, tokenizer, scored)
    return findings + _examine_batches(recipe, base.new_model(recipe), tokenizer, stories, folder, time=time)


def _check_special_tokens(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> list[Finding]:
    """Findings on the special tokens; those that training adds are added."""
    findings = vocabulary.check_special_tokens(tokenizer, in_recipe=True)
    if recipe.tokenizer is not None and not has_error(findings):
        try:
            training.complete_special_tokens(tokenizer, recipe.tokenizer)
        except UserError as reason:
            findings.append(error(str(reason), check="special tokens"))
    return findings


@as_check("batches")
def _examine_new_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, stories: StorySample, output_dir: str, *, time: bool
) -> list[Finding]:
    config = training.model_config(recipe, tokenizer)
    if recipe.tokenizer is None:
        # A sample may be too small for the vocabulary size that the whole corpus gives.
        config.vocab_size = max(config.vocab_size, recipe.vocab_size)
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(config)
    findings = _examine_batches(recipe, model, tokenizer, stories, output_dir, time=time)
    # These findings would be about the replacement, not about the corpus of the recipe.
    unknown = ("vocabulary size", "articles") if stories.is_replacement and recipe.tokenizer is None else ()
    return [finding for finding in findings if finding.check not in unknown]


def _check_arguments(recipe: Recipe, local: Recipe, arguments: TrainingArguments) -> Finding:
    """Whether training accepts these settings, by their rules and by one step of a one-layer model."""
    check = "training arguments"
    try:
        training_arguments(recipe)
        dry_run(local, arguments)
    except UserError as reason:
        return error(str(reason).rstrip("."), "Training would fail with this message.", check=check)
    except Exception as reason:
        return error(f"a training step fails: {type(reason).__name__}: {first_line(reason)}", check=check)
    return ok("a step, an evaluation and a checkpoint succeeded with a one-layer model", check=check)


def _new_tokenizer(recipe: Recipe, stories: StorySample) -> PreTrainedTokenizerBase:
    most, size = TOKENIZER_STORIES, recipe.vocab_size
    if stories.is_replacement:
        most, size = stories.limit, min(size, 1_000)
    texts = evenly(stories.train, most)
    return train_bpe(texts, size, model_max_length=recipe.max_length, total=len(texts))


@as_check("batches")
def _examine_batches(
    recipe: Recipe,
    model: TinyLlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    stories: StorySample,
    output_dir: str,
    **options: Any,
) -> list[Finding]:
    """The findings of [`examine_trainer`] for the trainer of a recipe, with batches of the sample, but the run length
    of the whole corpus."""
    sample = stories.for_batches()
    with tempfile.TemporaryDirectory() as scratch:
        # A trainer creates its output folder, and the real one must not be changed.
        local = targets.local_recipe(recipe, output_dir=scratch, disable_tqdm=True)
        local = dataclasses.replace(local, streaming=False)
        arguments = training_arguments(local)
        rows, held_out = training.pack_corpus(sample, tokenizer, local, arguments.seed)
        trainer = training.build_trainer(local, arguments, model, tokenizer, rows, held_out)
        total = None
        if isinstance(rows, PackedStories) and stories.of_train is not None and not stories.is_replacement:
            total = round(len(rows) * stories.of_train / len(sample.train))
        return examine_trainer(trainer, total, output_dir, **options)


# A model


def _examine_file(path: Path, options: _Options) -> list[Finding]:
    """Check a file that `tinystories import` reads, with the tokenizer next to it or the one that was specified."""
    named = options.tokenizer
    if named is not None and not Path(named).exists():
        # A tokenizer on the Hub; of the formats of `import`, only WikiMini can have one.
        tokenizer = load_tokenizer(named, as_saved=True)
        model, kind = load_wikimini(path), "WikiMini checkpoint"
    else:
        try:
            source = read_source(path, named)
        except UnknownFormatError:
            raise UserError(
                f"{path} is neither a file of stories nor a model: a file of stories ends in {SUFFIXES}; a model is a "
                f"folder, a Hub id, a WikiMini checkpoint (.pth) or a llama2.c model (.bin)."
            ) from None
        model, tokenizer, kind = source.model, source.tokenizer, source.kind
    advice = "`tinystories import` converts it to a model folder."
    return [
        note(f"{path.name} is a {kind}", advice, check="format"),
        *_check_saved_prompt(path, named),
        *_examine_weights(model, tokenizer, options.try_load_stories(None), options),
    ]


@as_check("end of a prompt")
def _check_saved_prompt(path: Path, named: str | None) -> list[Finding]:
    """Check what the tokenizer file adds to prompts, which an import would change."""
    place = Path(named) if named is not None else path.parent
    file = place / "tokenizer.json" if place.is_dir() else place
    if file.name != "tokenizer.json" or not file.is_file():
        return []
    findings = vocabulary.check_prompt_ends(PreTrainedTokenizerFast(tokenizer_file=str(file)))
    return [finding for finding in findings if finding.status == "error"]


def _examine_model(target: str, options: _Options) -> list[Finding]:
    model, tokenizer = targets.load_target(target, options.tokenizer)
    folder = Path(target)
    recipe = run_recipe(folder) if folder.is_dir() else None
    stories = options.try_load_stories(recipe)
    findings = _examine_weights(model, tokenizer, stories, options)
    run = None

    def tokens_per_row() -> float | None:
        if recipe is None or isinstance(stories, Finding):
            return None
        try:
            return training.pack_corpus(stories.for_batches(), tokenizer, recipe, 0)[0].tokens_per_row
        except ValueError:  # as for a context that is too small for these stories
            return None

    try:
        run = TrainedRun(folder, read_log(folder), model, recipe, tokens_per_row)
    except UserError as reason:
        findings.append(inconclusive(str(reason), check="training log"))
    if recipe is None:
        evidence = f"{target} has no recipe.yaml, so its training settings are not known"
        findings.append(inconclusive(evidence, check="settings"))
    elif isinstance(model, TinyLlamaForCausalLM):
        # Rows are packed with the start token in front of each story, whatever the tokenizer adds.
        findings += vocabulary.check_prompt_start(tokenizer, [tokenizer.bos_token_id])
        if isinstance(stories, StorySample):
            made = run.length if run else None
            findings += _examine_batches(recipe, model, tokenizer, stories, target, made=made, machine=False)
    return findings if run is None else findings + run.check()


def _examine_weights(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: StorySample | Finding, options: _Options
) -> list[Finding]:
    """Check which token a model predicts, on the validation stories or, if there are none, on the sample stories."""
    if isinstance(stories, Finding):
        held_out = load_corpus("sample").validation[:LIMIT]["text"]
        findings = [stories, *vocabulary.check_prompt_ends(tokenizer)]
    else:
        held_out, findings = stories.validation, options.check_text(stories, tokenizer)
    scored = evenly(held_out, SCORED_QUICKLY if options.quick else SCORED)
    learned = [] if options.quick or isinstance(stories, Finding) else check_learned(model, tokenizer, held_out)
    return [
        *findings,
        *vocabulary.check_vocabulary(tokenizer, model),
        *vocabulary.check_articles(tokenizer),
        *check_model_shift(model, tokenizer, scored[0]),
        *check_objective(model, tokenizer, scored),
        *learned,
    ]
