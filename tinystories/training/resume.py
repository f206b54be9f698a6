"""Find the checkpoint that a run resumes from, and check that the recipe matches that run."""

from pathlib import Path

from transformers import TrainingArguments

from modeling_tinyllama import TinyLlamaConfig

from ..recipe import SECTIONS, Recipe, load_recipe
from ..runs import checkpoints
from ..runs.run_folder import ADAPTER_WEIGHTS, RECIPE, find_checkpoints
from ..utils.errors import UserError
from .fine_tuning import with_values_of


# `Trainer` restores these from the checkpoint and ignores the recipe, or the best metric depends on them.
FIXED = {
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optimizer", "optim", "ema_decay"),
    *("vocab_size", "tokenizer", "tokenizer_stories", "corpus", "validation_corpus", "text_column", "split"),
    *(
        "init_from",
        "lora",
        "add_tokens",
        "keep_corpus",
        "replay",
        "template",
        "template_dropout",
        "train_on_template",
        "skip_bad_rows",
        "max_stories",
        "max_validation_stories",
        "validation_fraction",
    ),
}
WITHOUT_EFFECT = {
    *("overwrite_output_dir", "num_proc", "prompts", "preset", "check"),
    *("resume_from_checkpoint", "output_dir", "disable_tqdm", "report_to", "logging_steps"),
}
SHAPE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "tie_word_embeddings", "rope_parameters"),
)


def checkpoint_to_resume(arguments: TrainingArguments, recipe: Recipe) -> Path | None:
    """The checkpoint in `resume_from_checkpoint`, or for `true` the last complete one of the run; None for a new run.

    Raises:
        UserError: if there is no such checkpoint, if the recipe changes settings that a resumed run keeps, or if the
            output folder of a new run already holds one.
    """
    output_dir, asked = Path(str(arguments.output_dir)), arguments.resume_from_checkpoint
    if asked in (None, "false", "no"):
        exists = find_checkpoints(output_dir) or any(
            (output_dir / name).exists() for name in ("model.safetensors", ADAPTER_WEIGHTS)
        )
        if exists and not recipe.overwrite_output_dir:
            raise UserError(
                f"{output_dir} already contains a run: resume it with --resume_from_checkpoint, start over with "
                f"--overwrite_output_dir, or choose another --output_dir."
            )
        return None
    if asked == "true":
        checkpoint, reasons = checkpoints.last_complete_checkpoint(output_dir)
        unusable = "; ".join(f"{folder.name} cannot be used: {reason}" for folder, reason in reasons.items())
        if checkpoint is None:
            raise UserError(
                f"{output_dir} has no checkpoint to resume from{f' ({unusable})' if unusable else ''}. To start a new "
                f"run, remove --resume_from_checkpoint{' and use --overwrite_output_dir' if unusable else ''}."
            )
        if unusable and arguments.process_index == 0:
            print(f"note: {unusable}; resuming from {checkpoint.name}.")
    else:
        checkpoint = Path(asked)
        if reason := checkpoints.incomplete_reason(checkpoint):
            raise UserError(
                f"{checkpoint} is not a checkpoint to resume from: {reason}. To train its weights on other stories or "
                f"with other settings, start a new run with --init_from {checkpoint}."
                if (checkpoint / "config.json").is_file()
                else f"{checkpoint} is not a checkpoint to resume from: {reason}."
            )
    if arguments.process_index == 0:
        _compare_recipes(checkpoint, recipe)
    return checkpoint


def require_same_model(checkpoint: Path, config: TinyLlamaConfig) -> None:
    """Refuse a checkpoint whose model has another shape than the recipe's.

    Raises:
        UserError: if a field differs.
    """
    saved = TinyLlamaConfig.from_pretrained(checkpoint)
    for name in SHAPE:
        if getattr(saved, name) != getattr(config, name):
            raise UserError(
                f"`{name}` is {getattr(saved, name)} in {checkpoint}, but {getattr(config, name)} in the recipe: use "
                f"the recipe of that run, {checkpoint.parent / RECIPE}."
            )


def resumed_recipe(checkpoint: Path, recipe: Recipe) -> Recipe:
    """The recipe with the values that the run of a checkpoint took from its base model."""
    try:
        return with_values_of(recipe, load_recipe(checkpoint.parent / RECIPE))
    except UserError:
        return recipe


def _compare_recipes(checkpoint: Path, recipe: Recipe) -> None:
    """Refuse changes to settings that a resumed run keeps, and report other changes that have an effect."""
    path = checkpoint.parent / RECIPE
    try:
        before = load_recipe(path)
    except UserError:
        return
    old, new = _flat(before), _flat(with_values_of(recipe, before))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if kept := [name for name in changed if name in FIXED]:
        raise UserError(
            f"A resumed run cannot change {', '.join(kept)}: use the value in {path}, or start a new run with another "
            f"--output_dir; with --init_from {checkpoint}, it starts from the weights of this run."
        )
    if others := [name for name in changed if name not in WITHOUT_EFFECT]:
        print(
            f"note: these settings have changed since the start of the run, so its result will differ from that of an "
            f"uninterrupted run: {', '.join(others)}."
        )


def _flat(recipe: Recipe) -> dict:
    top = {name: value for name, value in vars(recipe).items() if name not in SECTIONS}
    return {**top, **recipe.model, **recipe.trainer}
