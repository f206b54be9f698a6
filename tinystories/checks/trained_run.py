"""A run that was trained: its length and number of tokens, from its log, recipe and `run.json`, and checks of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, TrainingArguments

from ..recipe import Recipe
from ..runs.metadata import padded_tokens
from ..runs.run_folder import RUN_METADATA, is_checkpoint
from ..training.arguments import training_arguments
from .findings import Finding
from .hyperparameters import RunLength
from .learning_rate import check_learning_rate, expected_rate
from .log import Log
from .progress import check_best_checkpoint, check_end, check_overfitting, check_tokens, check_validation
from .targets import local_recipe


@dataclass
class TrainedRun:
    """A run folder, or a checkpoint in one.

    Attributes:
        recipe: None for a run of another package.
        tokens_per_row: returns the mean number of tokens in a training row, or None if it is unknown.
    """

    folder: Path
    log: Log
    model: PreTrainedModel
    recipe: Recipe | None = None
    tokens_per_row: Callable[[], float | None] = lambda: None

    @cached_property
    def arguments(self) -> TrainingArguments | None:
        return None if self.recipe is None else training_arguments(local_recipe(self.recipe))

    @cached_property
    def tokens(self) -> tuple[float | None, str]:
        """Number of tokens in all sessions, and the source of that number."""
        args, state = self.arguments, self.log.state
        if state.num_input_tokens_seen:
            padded = args is not None and args.include_num_input_tokens_seen == "all"
            return state.num_input_tokens_seen, f"counted in training{', padding included' if padded else ''}"
        if recorded := self._recorded_tokens():
            return recorded, f"from {RUN_METADATA}"
        if args is not None and (tokens := self.tokens_per_row()):
            rows = state.global_step * args.train_batch_size * args.gradient_accumulation_steps
            return rows * tokens, "steps x rows per step x tokens per row, assuming a single process"
        if state.total_flos:
            return padded_tokens(state.total_flos, self.model), "from total_flos, padding included"
        return None, ""

    def _recorded_tokens(self) -> float | None:
        try:
            metadata = "{}" if is_checkpoint(self.folder) else (self.folder / RUN_METADATA).read_text("utf-8")
            return json.loads(metadata).get("tokens_seen")
        except (OSError, ValueError):  # missing or damaged
            return None

    @property
    def length(self) -> RunLength | None:
        """The length according to the log, which does not depend on the recipe or the number of processes."""
        log, (tokens, _) = self.log, self.tokens
        if self.recipe is None or not log.steps:
            return None
        # A stream has no epochs; for it, the trainer logs a fraction of the steps as the epoch.
        epochs = None if self.recipe.streaming else log.state.epoch
        return RunLength(
            steps=log.steps,
            epochs=epochs,
            tokens_per_step=None if tokens is None else tokens / log.steps,
            planned=log.planned or None,
            minutes=self.recipe.max_minutes,
            corpus_tokens=tokens / epochs if tokens and epochs else None,
        )

    def check(self) -> list[Finding]:
        """Findings on the log."""
        log, expected, restarts, minutes, patience = self.log, None, False, None, None
        if self.recipe is not None and self.arguments is not None:
            minutes, patience = self.recipe.max_minutes, self.recipe.early_stopping_patience
            restarts = "restart" in self.arguments.lr_scheduler_type
            # With a time limit, the rate at a step is not known.
            expected = expected_rate(self.arguments, log.planned) if log.planned and minutes is None else None
        best = check_best_checkpoint(self.folder, log)
        return [
            *check_learning_rate(log, expected, restarts),
            *check_end(self.folder, log, minutes=minutes, patience=patience),
            *check_tokens(log, self.model.num_parameters(), *self.tokens),
            *check_validation(log),
            *check_overfitting(log, best_is_kept=best[0].status == "ok"),
            *best,
        ]
