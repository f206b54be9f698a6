"""What TARGET is, what is needed to look at it, and which checks it gets.

| target | what is looked at |
|---|---|
| a recipe | the text, the vocabulary, real batches through a fresh model, settings, the machine |
| a run folder, or a checkpoint in one | the same without the machine; what it has learnt; its log |
| any other causal model, or the origin's `.pth` | what it has learnt, its vocabulary; its log where it has one |
| stories | the text |
"""

import dataclasses
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    get_scheduler,
)

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.tokenization import train_bpe

from .. import training
from ..corpus import FORMATS, Corpus, load_corpus
from ..decoding import load_model, load_tokenizer
from ..errors import UserError, first_line
from ..random_state import preserved_random_state
from ..recipe import Recipe, load_recipe
from ..schedules import schedule
from . import history, objective, text
from .before_training import Scale, examine_trainer, vocabulary_findings
from .findings import Finding, tried


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
) -> list[Finding]:
    """Look at a recipe, a run folder, a model or stories, and say what is proven, what is wrong and what is not known.

    Args:
        target: a recipe (.yaml), a run folder or a checkpoint in one, any causal model of transformers (folder or Hub
            id), the origin's `.pth`, or stories (`sample`, a file or a folder).
        corpus: stories to look at and to measure on; by default those of the recipe.
        tokenizer: folder or Hub id; by default the target's own.
        limit: stories to look at, spread evenly over the corpus.
        quick: measure no training steps, and score fewer stories.
        strict: warnings of text quality are faults.

    Raises:
        UserError: for a target, corpus or tokenizer that cannot be found or read.
    """
    if limit < 1:
        raise UserError(f"--limit must be at least 1, but is {limit}.")
    with preserved_random_state():
        findings = _examine(str(target), corpus, tokenizer, limit, quick, strict)
    # The vocabulary of a run folder is looked at with its weights and with its batches.
    return [finding for number, finding in enumerate(findings) if finding not in findings[:number]]


def _examine(
    target: str, corpus: str | None, tokenizer: str | None, limit: int, quick: bool, strict: bool
) -> list[Finding]:
    path = Path(target)
    if path.suffix in (".yaml", ".yml"):
        return _examine_recipe(target, corpus, tokenizer, limit, quick, strict)
    if is_corpus(target):
        stories = _Stories.load(Recipe(corpus=target), limit, given=True)
        known = load_tokenizer(tokenizer, as_saved=True) if tokenizer else None
        return [*stories.findings(known, strict), *_token_findings(known, stories)]
    if path.suffix in (".pth", ".pt") and not path.is_dir():
        return _examine_pth(path, corpus, tokenizer, limit, quick, strict)
    return _examine_model(path if path.exists() else target, corpus, tokenizer, limit, quick, strict)


def is_corpus(target: str) -> bool:
    """Whether a target names stories: `sample`, a file of them, or a folder that holds such files and no model."""
    path = Path(target)
    if target == "sample" or (path.is_file() and _is_stories(path)):
        return True
    model = ("config.json", "trainer_state.json", "recipe.yaml", "tokenizer.json")
    return (
        path.is_dir() and not any((path / name).exists() for name in model) and any(map(_is_stories, path.rglob("*")))
    )


def _is_stories(path: Path) -> bool:
    return Path(path.name.removesuffix(".gz")).suffix in FORMATS


def corpus_of(target: str, corpus: str | None) -> Corpus:
    """The corpus that a target is about, to be cleaned.

    Raises:
        UserError: where it names none.
    """
    if corpus is None and not is_corpus(target):
        recipe = _recipe_of(Path(target)) if Path(target).is_dir() else None
        if Path(target).suffix in (".yaml", ".yml"):
            recipe = load_recipe(target)
        if recipe is None:
            raise UserError(f"{target} names no stories; name them with --corpus.")
    else:
        recipe = Recipe(corpus=corpus or target)
    return training.recipe_corpus(dataclasses.replace(recipe, streaming=False))


# Stories


@dataclass
class _Stories:
    """A corpus and the sample of it that is looked at.

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
        """Or a finding that says why they cannot be had; where the user has named them, that is an error."""
        try:
            corpus = training.recipe_corpus(recipe)
        except UserError as error:
            if given:
                raise
            return Finding("corpus", "cannot tell", str(error), "Name stories with --corpus.")
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
        """As many training stories as are looked at."""
        train = self.corpus.train.select(text.evenly(len(self.train), self.limit))
        return dataclasses.replace(self.corpus, train=train, fingerprint=f"{self.corpus.fingerprint}-rows")

    def findings(self, tokenizer: PreTrainedTokenizerBase | None, strict: bool) -> list[Finding]:
        """Of the text alone."""
        searched = [self.train[index] for index in text.evenly(len(self.train), self.limit * TRAINING_STORIES)]
        return [
            *tried(
                "text quality",
                lambda: text.quality_findings([*self.some(), *self.validation], tokenizer, strict=strict),
            ),
            *tried(
                "held-out stories",
                lambda: text.check_held_out(
                    searched, self.validation, self.of_train or len(self.train), self.of_validation
                ),
            ),
        ]


def _token_findings(tokenizer: PreTrainedTokenizerBase | None, stories: "_Stories") -> list[Finding]:
    if tokenizer is None:
        return []
    return [
        *tried("end of a prompt", lambda: [text.check_prompt_ends(tokenizer)]),
        *tried("bytes per token", lambda: text.check_tokens(tokenizer, stories.some())),
    ]


# A recipe


def _examine_recipe(
    target: str, corpus: str | None, tokenizer: str | None, limit: int, quick: bool, strict: bool
) -> list[Finding]:
    recipe = _with(load_recipe(target), corpus, tokenizer)
    output_dir = training.training_arguments(recipe).output_dir
    stories = _Stories.load(recipe, limit, given=corpus is not None)
    findings = []
    if isinstance(stories, Finding):
        findings.append(
            dataclasses.replace(
                stories, evidence=f"{stories.evidence} The built-in sample stands in, for batches and machine only."
            )
        )
        stories = _Stories.sample(load_corpus("sample"), limit)
        stories.stands_in = True
    known = load_tokenizer(recipe.tokenizer, as_saved=True) if recipe.tokenizer else _new_tokenizer(recipe, stories)
    findings.append(text.check_special_tokens(known))
    if not stories.stands_in:
        findings += stories.findings(known, strict)
        findings += _token_findings(known, stories)

    def with_trainer() -> list[Finding]:
        config = training.model_config(recipe, known)
        if recipe.tokenizer is None:
            # A small sample cannot fill the vocabulary that the whole corpus will.
            config.vocab_size = max(config.vocab_size, recipe.vocab_size)
        torch.manual_seed(0)
        model = TinyLlamaForCausalLM(config)
        found = _through_trainer(recipe, model, known, stories, output_dir, time=not quick, needs=True)
        # Of a stand-in's vocabulary, nothing is worth knowing.
        own = ("vocabulary size", "articles") if stories.stands_in and recipe.tokenizer is None else ()
        return [finding for finding in found if finding.check not in own]

    return [*findings, *tried("batches", with_trainer)]


def _with(recipe: Recipe, corpus: str | None, tokenizer: str | None) -> Recipe:
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
    output_dir: str,
    *,
    time: bool,
    needs: bool,
) -> list[Finding]:
    """What [`check_trainer`] finds in the trainer of a recipe, on the sample and for the size of the whole."""
    sample = stories.for_batches()
    with tempfile.TemporaryDirectory() as scratch:
        # A trainer makes its output folder, and the real one is none of ours.
        settings = {**recipe.trainer, "output_dir": scratch, "disable_tqdm": True, "report_to": "none"}
        quiet = dataclasses.replace(recipe, trainer=settings, streaming=False)
        arguments = training.training_arguments(quiet)
        rows, held_out = training.pack_corpus(sample, tokenizer, quiet, arguments.seed)
        trainer = training.story_trainer(quiet, arguments, model, tokenizer, rows, held_out)
        whole = None
        if stories.of_train is not None and not stories.stands_in:
            whole = round(len(rows) * stories.of_train / len(sample.train))
        return examine_trainer(trainer, Scale(whole, output_dir), time=time, needs=needs)


# A model


def _examine_pth(
    path: Path, corpus: str | None, tokenizer: str | None, limit: int, quick: bool, strict: bool
) -> list[Finding]:
    from ..interop.wikimini import load_wikimini, load_wikimini_tokenizer

    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if tokenizer is None:
        raise UserError(f"{path} holds no tokenizer: name the one that it was trained with, --tokenizer FOLDER.")
    model = load_wikimini(path)
    if Path(tokenizer).exists():
        # As that project saves it, with truncation and padding baked in, which this leaves out.
        known = load_wikimini_tokenizer(tokenizer, model.config.max_position_embeddings)
    else:
        known = load_tokenizer(tokenizer, as_saved=True)
    return _learnt(model, known, _stories_for_model(None, corpus, limit), quick, strict)


def _examine_model(
    path: Path | str, corpus: str | None, tokenizer: str | None, limit: int, quick: bool, strict: bool
) -> list[Finding]:
    model, known = _load(path, tokenizer)
    folder = Path(path)
    recipe = _recipe_of(folder) if folder.is_dir() else None
    if recipe is not None:
        recipe = _with(recipe, corpus, None)
    stories = _stories_for_model(recipe, corpus, limit)
    findings = _learnt(model, known, stories, quick, strict)
    per_row = None
    if recipe is not None and isinstance(stories, _Stories) and isinstance(model, TinyLlamaForCausalLM):
        findings += tried(
            "batches",
            lambda: _through_trainer(recipe, model, known, stories, str(folder), time=False, needs=False),
        )
        per_row = _tokens_per_row(recipe, known, stories)
    elif recipe is None:
        findings.append(
            Finding("settings", "cannot tell", f"{path} has no recipe.yaml, so how it was trained is not known")
        )
    return [*findings, *tried("training log", lambda: _log_findings(folder, model, recipe, per_row))]


def _load(path: Path | str, tokenizer: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").exists():
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda found: (len(found.name), found.name))
        if checkpoints:
            raise UserError(f"{folder} holds no finished model, but checkpoints: give {checkpoints[-1]}.")
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


def _stories_for_model(recipe: Recipe | None, corpus: str | None, limit: int) -> "_Stories | Finding":
    if recipe is not None or corpus is not None:
        return _Stories.load(recipe or Recipe(corpus=corpus), limit, given=corpus is not None)
    return Finding(
        "corpus", "cannot tell", "no stories were named; the built-in sample stands in", "Name some with --corpus."
    )


def _learnt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stories: "_Stories | Finding",
    quick: bool,
    strict: bool,
) -> list[Finding]:
    findings = []
    if isinstance(stories, Finding):
        findings.append(stories)
        held_out = load_corpus("sample").validation[:LIMIT]["text"]
    else:
        held_out = stories.validation
        findings += stories.findings(tokenizer, strict)
        findings += _token_findings(tokenizer, stories)
    scored = [held_out[index] for index in text.evenly(len(held_out), SCORED_QUICKLY if quick else SCORED)]
    findings += tried("vocabulary size", lambda: vocabulary_findings(model, tokenizer))
    findings += tried("shift in the model", lambda: [objective.check_model_shift(model, tokenizer, scored[0])])

    def what_it_learnt() -> list[Finding]:
        found, told = objective.check_objective(model, tokenizer, scored)
        return [*found, objective.check_beginning(model, tokenizer, scored)] if told else found

    return [*findings, *tried("objective", what_it_learnt)]


def _tokens_per_row(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, stories: _Stories) -> float | None:
    try:
        return training.pack_corpus(stories.for_batches(), tokenizer, recipe, 0)[0].tokens_per_row
    except (UserError, ValueError):
        return None


def _log_findings(
    folder: Path, model: PreTrainedModel, recipe: Recipe | None, tokens_per_row: float | None
) -> list[Finding]:
    log = history.read_log(folder)
    arguments = training.training_arguments(recipe) if recipe is not None else None
    wanted = arguments is not None and "restart" in getattr(
        arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type
    )
    tokens = None
    if arguments is not None and tokens_per_row is not None:
        rows = log.steps * arguments.train_batch_size * arguments.gradient_accumulation_steps
        tokens = (history.rows_seen(log) or rows) * tokens_per_row
    return [
        *tried(
            "learning rate",
            lambda: history.check_learning_rate(
                # Of a run by the clock the rate at a step is not known.
                log,
                expected_rate(arguments, log.planned) if arguments and not recipe.max_minutes else None,
                restarts_wanted=wanted,
            ),
        ),
        *tried("tokens seen", lambda: history.check_length(log, model.num_parameters(), tokens)),
        *tried("validation curve", lambda: history.check_validation(log)),
        *tried("best checkpoint", lambda: [history.check_checkpoint(folder, log)]),
    ]


def expected_rate(arguments: TrainingArguments, steps: int) -> Callable[[int], float] | None:
    """The learning rate by step (from 0) that the arguments give for a run of so many steps, where it can be said."""
    factor = schedule(arguments, steps)
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
