"""What TARGET is, what is needed to check it, and which checks it gets.

| target | what is checked |
|---|---|
| a recipe | the text, the vocabulary, real batches through a new model, settings, the machine |
| a run folder, or a checkpoint in one | the same without the machine; what it has learnt; its log |
| any other causal model, or a file that `tinystories import` reads | what it has learnt, its vocabulary; its log |
| a tokenizer | its special tokens, what it adds to prompts, its vocabulary |
| stories | the text |
"""

import dataclasses
import glob
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainingArguments,
    get_scheduler,
)

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.tokenization import train_bpe

from ..data.corpus import Corpus, load_corpus, recipe_corpus
from ..data.sources import may_hold_stories
from ..recipe import Recipe, load_recipe
from ..runs.loading import load_model, load_tokenizer
from ..training import build as training
from ..training.arguments import training_arguments
from ..training.lr_schedules import lr_lambda
from ..utils.errors import UserError, first_line
from ..utils.random_state import preserved_random_state
from . import english as writing
from . import log as history
from . import prediction_offset as objective
from . import text
from .before_training import Scale, examine_trainer, vocabulary_findings
from .findings import Finding, tried
from .hyperparameters import Run
from .preflight import rehearse


LIMIT = 2_000  # stories
TRAINING_STORIES = 10  # times as many training stories are searched for what stands in validation
TOKENIZER_STORIES = 20_000  # about 16 MB of text: enough to learn a vocabulary of 10,000 from
SCORED, SCORED_QUICKLY = 100, 24  # stories that a model is scored on


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
        target: a recipe (.yaml), a run folder or a checkpoint in one, any causal model of transformers (folder or Hub
            id), a file that `tinystories import` reads (`.pth`, `.bin`), a folder with a tokenizer, or stories
            (`sample`, a file or a folder).
        corpus: stories to check and to measure on; by default those of the recipe.
        tokenizer: folder or Hub id; by default the target's own, or for a file the one beside it.
        limit: stories to check, spread evenly over the corpus.
        quick: measure no training steps, and score fewer stories.
        strict: warnings of text quality, and all that cleaning would change, are errors.
        text_column, split, skip_bad_rows: how stories are read, as in a [`Recipe`]; by default as the recipe says.
        cleaned: counts of `write_clean` for this corpus, by split, where it has run.

    Raises:
        UserError: for a target, corpus or tokenizer that cannot be found or read.
    """
    if limit < 1:
        raise UserError(f"--limit must be at least 1, but is {limit}.")
    with preserved_random_state():
        reading = _reading(text_column, split, skip_bad_rows)
        options = _Options(corpus, tokenizer, limit, quick, strict, reading, _joined(cleaned))
        findings = _examine(str(target), options)
    # The vocabulary of a run folder is checked with its weights and with its batches.
    return [finding for number, finding in enumerate(findings) if finding not in findings[:number]]


def _reading(text_column: str | None, split: str | None, skip_bad_rows: bool | None) -> dict:
    """Of the fields of a recipe that say how stories are read, those that are given."""
    given = {"text_column": text_column, "split": split, "skip_bad_rows": skip_bad_rows}
    return {name: value for name, value in given.items() if value is not None}


@dataclass
class _Options:
    """The arguments of [`examine`].

    Attributes:
        reading: of the fields of a recipe that say how stories are read, those that are given.
        cleaned: counts of all splits together.
    """

    corpus: str | None
    tokenizer: str | None
    limit: int
    quick: bool
    strict: bool
    reading: dict
    cleaned: dict | None = None


def _joined(cleaned: dict | None) -> dict | None:
    if cleaned is None:
        return None
    total = {"stories": sum(counts["stories"] for counts in cleaned.values())}
    for what in ("repaired", "dropped"):
        total[what] = dict(sum((Counter(counts[what]) for counts in cleaned.values()), Counter()))
    return total


def _examine(target: str, options: _Options) -> list[Finding]:
    path = Path(target)
    if path.suffix in (".yaml", ".yml"):
        return _examine_recipe(target, options)
    if is_corpus(target):
        stories = _Stories.load(Recipe(corpus=target, **options.reading), options.limit, given=True)
        known = load_tokenizer(options.tokenizer, as_saved=True) if options.tokenizer else None
        return [*stories.findings(known, options), *_token_findings(known, stories)]
    if path.is_file() or path.suffix in (".pth", ".pt", ".bin"):
        return _examine_file(path, options)
    if is_tokenizer(path):
        return _examine_tokenizer(target, options)
    return _examine_model(path if path.exists() else target, options)


def is_tokenizer(path: Path) -> bool:
    """Whether a folder holds a tokenizer and no model, no run and no recipe."""
    others = ("config.json", "trainer_state.json", "recipe.yaml")
    return (
        (path / "tokenizer.json").is_file()
        and not any((path / name).exists() for name in others)
        and not any(path.glob("checkpoint-*"))
    )


def is_corpus(target: str) -> bool:
    """Whether a target names stories: `sample`, a file of them, or a folder that holds such files and no model."""
    path = Path(target)
    if target == "sample" or glob.has_magic(target) or (path.is_file() and may_hold_stories(path)):
        return True
    model = ("config.json", "trainer_state.json", "recipe.yaml", "tokenizer.json")
    return path.is_dir() and not any((path / name).exists() for name in model) and may_hold_stories(path)


def corpus_of(
    target: str,
    corpus: str | None,
    *,
    text_column: str | None = None,
    split: str | None = None,
    skip_bad_rows: bool | None = None,
) -> Corpus:
    """The corpus of a target, for cleaning; read as [`examine`] reads it.

    Raises:
        UserError: where it names none.
    """
    if corpus is None and not is_corpus(target):
        recipe = _recipe_of(Path(target)) if Path(target).is_dir() else None
        if Path(target).suffix in (".yaml", ".yml"):
            recipe = load_recipe(target)
        if recipe is None:
            raise UserError(f"{target} has no recipe, so its stories are not known; name them with --corpus.")
    else:
        recipe = Recipe(corpus=corpus or target)
    reading = _reading(text_column, split, skip_bad_rows)
    return recipe_corpus(dataclasses.replace(recipe, streaming=False, **reading))


def special_tokens_of(target: str, tokenizer: str | None) -> list[str]:
    """Names that the tokenizer of a target takes for special tokens, which cleaning removes from stories."""
    if tokenizer is None:
        folder = Path(target)
        recipe = load_recipe(target) if folder.suffix in (".yaml", ".yml") else None
        if recipe is not None:
            tokenizer = recipe.tokenizer
        elif (folder / "tokenizer.json").is_file():
            tokenizer = target
    return [] if tokenizer is None else load_tokenizer(tokenizer, as_saved=True).all_special_tokens


# Stories


@dataclass
class _Stories:
    """A corpus and the sample of it that is checked.

    Attributes:
        corpus: with as many training stories as batches and a tokenizer need.
        train, validation: texts.
        of_train: stories of the whole corpus, None for a stream.
        stands_in: it is not the corpus that was asked for.
    """

    corpus: Corpus
    train: list[str]
    validation: list[str]
    of_train: int | None
    of_validation: int
    limit: int
    stands_in: bool = False

    @classmethod
    def load(cls, recipe: Recipe, limit: int, given: bool) -> "_Stories | Finding":
        """Or a finding that says why they cannot be loaded; an exception where the user has named them."""
        try:
            corpus = recipe_corpus(recipe)
        except UserError as error:
            if given:
                raise
            return Finding("corpus", "inconclusive", str(error), "Name stories with --corpus.")
        return cls.sample(corpus, limit)

    @classmethod
    def sample(cls, corpus: Corpus, limit: int) -> "_Stories":
        most = max(limit * TRAINING_STORIES, TOKENIZER_STORIES)
        if isinstance(corpus.train, datasets.IterableDataset):
            of_train = None
            train = datasets.Dataset.from_list(list(corpus.train.take(most)))
        else:
            of_train = len(corpus.train)
            train = corpus.train.select(text.evenly(of_train, most))
        of_validation = len(corpus.validation)
        validation = corpus.validation.select(text.evenly(of_validation, limit))
        fingerprint = f"{corpus.fingerprint}-{most}-{limit}"
        small = dataclasses.replace(corpus, train=train, validation=validation, fingerprint=fingerprint)
        return cls(small, train["text"][:], validation["text"][:], of_train, of_validation, limit)

    def some(self) -> list[str]:
        return [self.train[index] for index in text.evenly(len(self.train), self.limit)]

    def for_batches(self) -> Corpus:
        """With as many training stories as are checked."""
        train = self.corpus.train.select(text.evenly(len(self.train), self.limit))
        return dataclasses.replace(self.corpus, train=train, fingerprint=f"{self.corpus.fingerprint}-rows")

    def findings(self, tokenizer: PreTrainedTokenizerBase | None, options: _Options) -> list[Finding]:
        """Of the text alone."""
        searched = [self.train[index] for index in text.evenly(len(self.train), self.limit * TRAINING_STORIES)]
        # Validation first, as cleaning reads them.
        both = [*self.validation, *self.some()]
        total = None if self.of_train is None else self.of_train + self.of_validation
        return [
            *tried(
                "text quality",
                lambda: text.quality_findings(
                    both, tokenizer, strict=options.strict, of=total, cleaned=options.cleaned
                ),
            ),
            *tried("text: language", self._writing),
            *tried(
                "held-out stories",
                lambda: text.check_held_out(
                    searched, self.validation, self.of_train or len(self.train), self.of_validation
                ),
            ),
        ]

    def _writing(self) -> list[Finding]:
        """Of validation stories, what training stories do not show."""
        findings = writing.check_writing(self.some())
        known = {(finding.check, finding.status) for finding in findings}
        return findings + [
            dataclasses.replace(finding, check=f"{finding.check} (validation)")
            for finding in writing.check_writing(self.validation, "validation")
            if finding.status in ("error", "note") and (finding.check, finding.status) not in known
        ]


def _token_findings(tokenizer: PreTrainedTokenizerBase | None, stories: "_Stories") -> list[Finding]:
    """What the tokenizer makes of prompts and of these stories."""
    if tokenizer is None:
        return []
    return [
        *tried("end of a prompt", lambda: [text.check_prompt_ends(tokenizer)]),
        *tried("bytes per token", lambda: text.check_tokens(tokenizer, stories.some())),
    ]


# A tokenizer


def _examine_tokenizer(target: str, options: _Options) -> list[Finding]:
    known = load_tokenizer(target, as_saved=True)
    begin = objective.beginning_of_text(known)
    findings = [
        text.check_special_tokens(known),
        *tried("end of a prompt", lambda: [text.check_prompt_ends(known)]),
        *tried("beginning of a prompt", lambda: [text.check_prompt_start(known, begin)]),
        *text.check_vocabulary(known, None, None, 0),
        text.check_articles(known),
    ]
    if options.corpus is None:
        return findings
    stories = _Stories.load(Recipe(corpus=options.corpus, **options.reading), options.limit, given=True)
    return [
        *findings,
        *stories.findings(known, options),
        *tried("bytes per token", lambda: text.check_tokens(known, stories.some())),
    ]


# A recipe


# Settings of the place where a run trains, which a check in another place need not have.
ELSEWHERE = ("fsdp", "fsdp_config", "deepspeed", "ddp_backend", "push_to_hub", "hub_token", "report_to")


def _examine_recipe(target: str, options: _Options) -> list[Finding]:
    recipe = _with(load_recipe(target), options.corpus, options.tokenizer, options.reading)
    local = _local(recipe)
    arguments = training_arguments(local)
    findings = [_check_arguments(recipe, local, arguments)]
    stories = _Stories.load(recipe, options.limit, given=options.corpus is not None)
    if isinstance(stories, Finding):
        evidence = f"{stories.evidence} The built-in sample replaces them, for batches and the machine only."
        findings.append(dataclasses.replace(stories, evidence=evidence))
        stories = _Stories.sample(load_corpus("sample"), options.limit)
        stories.stands_in = True
    known = load_tokenizer(recipe.tokenizer, as_saved=True) if recipe.tokenizer else _new_tokenizer(recipe, stories)
    findings.append(text.check_special_tokens(known))
    if not stories.stands_in:
        findings += stories.findings(known, options)
        findings += _token_findings(known, stories)

    def with_trainer() -> list[Finding]:
        config = training.model_config(recipe, known)
        if recipe.tokenizer is None:
            # A small sample cannot fill the vocabulary that the whole corpus will.
            config.vocab_size = max(config.vocab_size, recipe.vocab_size)
        torch.manual_seed(0)
        model = TinyLlamaForCausalLM(config)
        scale = Scale(None, arguments.output_dir)
        found = _through_trainer(local, model, known, stories, scale, time=not options.quick, needs=True)
        # The vocabulary of a replacement says nothing.
        own = ("vocabulary size", "articles") if stories.stands_in and recipe.tokenizer is None else ()
        return [finding for finding in found if finding.check not in own]

    return [*findings, *tried("batches", with_trainer)]


def _local(recipe: Recipe) -> Recipe:
    """The recipe without what belongs to the place where it trains, such as its launcher and its reports."""
    settings = {name: value for name, value in recipe.trainer.items() if name not in ELSEWHERE}
    return dataclasses.replace(recipe, trainer={**settings, "report_to": "none"})


def _check_arguments(recipe: Recipe, local: Recipe, arguments: TrainingArguments) -> Finding:
    """Whether training would take these settings: those of this place, and by one step of a small model."""
    check = "training arguments"
    try:
        training_arguments(recipe)
        rehearse(local, arguments)
    except UserError as error:
        return Finding(check, "error", str(error).rstrip("."), "Training would stop with this message.")
    except Exception as error:
        return Finding(check, "error", f"one step with them fails: {type(error).__name__}: {first_line(error)}")
    return Finding(check, "ok", "a step, an evaluation and a checkpoint of a small model worked with them")


def _with(recipe: Recipe, corpus: str | None, tokenizer: str | None, reading: dict) -> Recipe:
    recipe = dataclasses.replace(recipe, **reading)
    if corpus is not None:
        recipe = dataclasses.replace(recipe, corpus=corpus, validation_corpus=None)
    return recipe if tokenizer is None else dataclasses.replace(recipe, tokenizer=tokenizer)


def _new_tokenizer(recipe: Recipe, stories: _Stories) -> PreTrainedTokenizerBase:
    most, size = TOKENIZER_STORIES, recipe.vocab_size
    if stories.stands_in:
        most, size = stories.limit, min(size, 1_000)
    texts = [stories.train[index] for index in text.evenly(len(stories.train), most)]
    return train_bpe(texts, size, model_max_length=recipe.max_length, total=len(texts))


def _through_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stories: _Stories,
    scale: Scale,
    *,
    time: bool,
    needs: bool,
) -> list[Finding]:
    """What [`check_trainer`] finds in the trainer of a recipe, on the sample and for the size of the whole.

    Args:
        scale: its rows are counted here, where they can be.
    """
    sample = stories.for_batches()
    with tempfile.TemporaryDirectory() as scratch:
        # A trainer makes its output folder, and the real one must not be touched.
        settings = {**recipe.trainer, "output_dir": scratch, "disable_tqdm": True}
        quiet = dataclasses.replace(_local(dataclasses.replace(recipe, trainer=settings)), streaming=False)
        arguments = training_arguments(quiet)
        rows, held_out = training.pack_corpus(sample, tokenizer, quiet, arguments.seed)
        trainer = training.build_trainer(quiet, arguments, model, tokenizer, rows, held_out)
        if stories.of_train is not None and not stories.stands_in:
            whole = round(len(rows) * stories.of_train / len(sample.train))
            scale = dataclasses.replace(scale, rows=whole)
        return examine_trainer(trainer, scale, time=time, needs=needs)


# A model


def _examine_file(path: Path, options: _Options) -> list[Finding]:
    """A file that `tinystories import` reads, with the tokenizer beside it or the one that is named."""
    from ..export.import_model import read_source
    from ..export.wikimini import load_wikimini

    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    named = options.tokenizer
    if named is not None and not Path(named).exists():
        # A tokenizer on the Hub, which only a model of this kind may have.
        known = load_tokenizer(named, as_saved=True)
        model, kind = load_wikimini(path), "WikiMini checkpoint"
    else:
        source = read_source(path, named)
        model, known, kind = source.model, source.tokenizer, source.kind
    findings = [
        Finding("format", "note", f"{path.name} is a {kind}", "`tinystories import` converts it to a model folder.")
    ]
    findings += tried("end of a prompt", lambda: _check_saved_prompt(path, named))
    return findings + _learnt(model, known, _stories_for_model(None, options), options)


def _check_saved_prompt(path: Path, named: str | None) -> list[Finding]:
    """What the file of a tokenizer adds to prompts, before an import changes that."""
    place = Path(named) if named is not None else path.parent
    file = place / "tokenizer.json" if place.is_dir() else place
    if file.name != "tokenizer.json" or not file.is_file():
        return []
    saved = PreTrainedTokenizerFast(tokenizer_file=str(file))
    return [finding for finding in [text.check_prompt_ends(saved)] if finding.status == "error"]


def _examine_model(path: Path | str, options: _Options) -> list[Finding]:
    model, known = _load(path, options.tokenizer)
    folder = Path(path)
    recipe = _recipe_of(folder) if folder.is_dir() else None
    if recipe is not None:
        recipe = _with(recipe, options.corpus, None, options.reading)
    stories = _stories_for_model(recipe, options)
    findings = _learnt(model, known, stories, options)
    per_row = None
    if recipe is not None and isinstance(model, TinyLlamaForCausalLM):
        # Rows are packed with the start token in front of each story, whatever the tokenizer adds.
        begin = [known.bos_token_id]
        findings += tried("beginning of a prompt", lambda: [text.check_prompt_start(known, begin)])
    if recipe is not None and isinstance(stories, _Stories) and isinstance(model, TinyLlamaForCausalLM):
        per_row = _tokens_per_row(recipe, known, stories)
        scale = Scale(None, str(folder), _length_made(folder, model, recipe, per_row))
        findings += tried(
            "batches",
            lambda: _through_trainer(recipe, model, known, stories, scale, time=False, needs=False),
        )
    elif recipe is None:
        findings.append(
            Finding("settings", "inconclusive", f"{path} has no recipe.yaml, so how it was trained is not known")
        )
    return [*findings, *tried("training log", lambda: _log_findings(folder, model, recipe, per_row))]


def _length_made(folder: Path, model: PreTrainedModel, recipe: Recipe, per_row: float | None) -> Run | None:
    """The length of the run as its log has it, whatever its recipe and its number of processes."""
    try:
        log = history.read_log(folder)
        arguments = training_arguments(_local(recipe))
    except UserError:
        return None
    if not log.steps:
        return None
    tokens, _ = _tokens_seen(folder, log, model, arguments, per_row)
    return Run(
        steps=log.steps,
        # A stream has no epochs, for which the trainer counts steps.
        epochs=None if recipe.streaming else log.epoch,
        tokens_per_step=None if tokens is None else tokens / log.steps,
        planned=log.planned or None,
        minutes=recipe.max_minutes,
    )


def _load(path: Path | str, tokenizer: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").exists():
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda found: (len(found.name), found.name))
        if checkpoints:
            raise UserError(f"{folder} has no finished model, but checkpoints: give {checkpoints[-1]}.")
    if tokenizer is None:
        model, _ = load_model(str(path))
        return model, load_tokenizer(str(path), as_saved=True)
    known = load_tokenizer(tokenizer, as_saved=True)
    try:
        return AutoModelForCausalLM.from_pretrained(path).eval(), known
    except (OSError, ValueError) as error:
        raise UserError(f"The model {path} cannot be loaded: {first_line(error)}.") from None


def _recipe_of(folder: Path) -> Recipe | None:
    for place in (folder, folder.parent) if re.fullmatch(r"checkpoint-\d+", folder.name) else (folder,):
        if (place / "recipe.yaml").is_file():
            return load_recipe(place / "recipe.yaml")
    return None


def _stories_for_model(recipe: Recipe | None, options: _Options) -> "_Stories | Finding":
    if recipe is not None or options.corpus is not None:
        given = options.corpus is not None
        return _Stories.load(recipe or Recipe(corpus=options.corpus, **options.reading), options.limit, given=given)
    return Finding(
        "corpus",
        "inconclusive",
        "no stories were named; the built-in sample replaces them",
        "Name some with --corpus.",
    )


def _learnt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: "_Stories | Finding", options: _Options
) -> list[Finding]:
    findings = []
    if isinstance(stories, Finding):
        findings.append(stories)
        held_out = load_corpus("sample").validation[:LIMIT]["text"]
        findings += tried("end of a prompt", lambda: [text.check_prompt_ends(tokenizer)])
    else:
        held_out = stories.validation
        findings += stories.findings(tokenizer, options)
        findings += _token_findings(tokenizer, stories)
    count = SCORED_QUICKLY if options.quick else SCORED
    scored = [held_out[index] for index in text.evenly(len(held_out), count)]
    findings += tried("vocabulary size", lambda: vocabulary_findings(model, tokenizer))
    findings += tried("shift in the model", lambda: [objective.check_model_shift(model, tokenizer, scored[0])])

    def what_it_learnt() -> list[Finding]:
        found, trained = objective.check_objective(model, tokenizer, scored)
        return [*found, objective.check_beginning(model, tokenizer, scored)] if trained else found

    return [*findings, *tried("objective", what_it_learnt)]


def _tokens_per_row(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, stories: _Stories) -> float | None:
    try:
        return training.pack_corpus(stories.for_batches(), tokenizer, recipe, 0)[0].tokens_per_row
    except (UserError, ValueError):
        return None


def _tokens_seen(
    folder: Path, log: history.Log, model: PreTrainedModel, arguments: TrainingArguments | None, per_row: float | None
) -> tuple[float | None, str]:
    estimate, padded = None, False
    if arguments is not None:
        padded = arguments.include_num_input_tokens_seen == "all"
        rows = arguments.train_batch_size * arguments.gradient_accumulation_steps
        estimate = None if per_row is None else log.steps * rows * per_row
    return history.tokens_seen(folder, log, model, estimate=estimate, padded=padded)


def _log_findings(
    folder: Path, model: PreTrainedModel, recipe: Recipe | None, tokens_per_row: float | None
) -> list[Finding]:
    log = history.read_log(folder)
    arguments = training_arguments(_local(recipe)) if recipe is not None else None
    kind = "" if arguments is None else getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)
    minutes = recipe.max_minutes if recipe is not None else None
    patience = recipe.early_stopping_patience if recipe is not None else None
    # In a run by the clock the rate at a step is not known.
    expected = expected_rate(arguments, log.planned) if arguments and log.planned and minutes is None else None
    return [
        *tried(
            "learning rate",
            lambda: history.check_learning_rate(log, expected, restarts_wanted="restart" in kind),
        ),
        *tried("training length", lambda: history.check_end(folder, log, minutes=minutes, patience=patience)),
        *tried(
            "tokens seen",
            lambda: [
                history.check_tokens(
                    log, model.num_parameters(), *_tokens_seen(folder, log, model, arguments, tokens_per_row)
                )
            ],
        ),
        *tried("validation curve", lambda: history.check_validation(log, history.has_best_weights(folder, log))),
        *tried("best checkpoint", lambda: [history.check_checkpoint(folder, log)]),
    ]


def expected_rate(arguments: TrainingArguments, steps: int) -> Callable[[int], float] | None:
    """The learning rate by step (from 0) that the arguments give for a run of so many steps, where it is known."""
    factor = lr_lambda(arguments, steps)
    if factor is None:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
        scheduler = get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
        )
        factor = getattr(scheduler, "lr_lambdas", [None])[0]
    return None if factor is None else lambda step: arguments.learning_rate * factor(step)
