"""`tinystories train`: build the trainer of a recipe, check it, train, and generate samples from the result."""

import argparse
import dataclasses
import functools
import glob
import shutil
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.formats import file_format
from ..data.sources.files import hub_dataset, may_hold_stories
from ..recipe import (
    SHORT_NAMES,
    Recipe,
    is_in_recipe_folder,
    load_recipe,
    parse_overrides,
    recipe_names,
    recipe_reference,
    save_recipe,
)
from ..runs.run_folder import LOSS_PLOT, RECIPE, checkpoint_step, find_checkpoints, is_run_folder
from ..story_template import StoryTemplate
from ..utils.console import counted
from ..utils.errors import UserError, first_line
from ..utils.paths import expand_user, output_folder


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..data.corpus import Corpus
    from ..training.fine_tuning import BaseModel
    from ..training.trainer import StoryTrainer

FINE_TUNING = "finetune"  # the recipe
BASE_STORIES = 24  # on which a base model is checked
QUALITY_STORIES = 2_000
ENGLISH_STORIES = 500


def describe_keys() -> str:
    """The keys of a recipe with type, default and help text, and the short names, for `tinystories train --help`."""
    lines = ["keys of a recipe, each also an option (--key value):"]
    for key in recipe_reference():
        default = "null" if key.default is None else str(key.default)
        text = f"{key.help} [{key.type}; {default}]"
        lines += [f"  {key.name}", *textwrap.wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    lines += ["", "short names:"]
    lines += [f"  {', '.join(f'--{alias}' for alias in aliases)}: {name}" for name, aliases in SHORT_NAMES.items()]
    return "\n".join(lines)


EXAMPLES = """
tinystories train my_stories.txt --minutes 20          # chooses the settings for text, machine and time
tinystories train quickstart                           # the built-in stories, on a CPU
tinystories train quickstart --resume_from_checkpoint  # continue a run that was stopped
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model with a recipe, or on stories for a given time. If stories and --minutes are given, the command "
        "chooses the model shape, the vocabulary size, the batch size, the learning rate and the other settings for "
        "the amount of text, the speed of this machine and the time, and writes them to recipe.yaml in the run "
        "folder. With a recipe, --minutes limits the training time. Every key of the recipe, of TinyLlamaConfig and "
        "of TrainingArguments is also an option, for example --learning_rate 1e-3 --corpus my_stories.jsonl."
    )
    parser.usage = "%(prog)s [-h] <recipe or stories> [--key value ...]"
    parser.epilog = describe_keys()
    parser.add_argument(
        "recipe",
        type=expand_user,
        metavar="recipe or stories",
        help="an installed recipe, such as quickstart (`tinystories recipes` lists them), or a YAML file; or, with "
        "--minutes, a file or folder of stories, a dataset id on the Hub, or sample",
    )
    parser.set_defaults(overrides=[])


def take_rest(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """Take every `--key value` of the recipe, which `run` checks."""
    options.overrides = rest
    return []


def run(options: argparse.Namespace) -> None:
    given = parse_overrides(options.overrides)
    if names_stories(options.recipe, given):
        recipe, comment = _recipe_for_stories(options.recipe, given)
    else:
        recipe, comment = load_recipe(options.recipe, given), ""
    for source in (recipe.corpus, recipe.validation_corpus):
        if source is not None:
            hub_dataset(source)
    from torch import distributed
    from transformers.utils import logging

    # Libraries show a bar for each file that they read or write; the bar of the training steps stays.
    logging.disable_progress_bar()
    train(recipe, comment=comment)
    if distributed.is_available() and distributed.is_initialized():
        # The threads of the process group would otherwise run while Python exits, which can abort the process.
        distributed.destroy_process_group()


def names_stories(target: str, given: dict[str, str]) -> bool:
    """Whether the argument of `train` names stories, for which a recipe is to be chosen, and not a recipe.

    Raises:
        UserError: for stories without `--minutes`, and for a run folder.
    """
    path = Path(target)
    if path.suffix in (".yaml", ".yml") or (path.as_posix() in recipe_names() and not path.is_file()):
        return False
    if path.is_dir() and (is_run_folder(path) or (path / "config.json").exists()):
        raise UserError(
            f"{target} is a model folder, not a folder of stories: to repeat a run, specify its recipe, "
            f"{path / RECIPE}, and another --output_dir; to fine-tune the model, specify stories and "
            f"--init_from {target}."
        )
    is_local = target == "sample" or path.is_dir() or glob.has_magic(target) or file_format(path) is not None
    is_local |= path.is_file() and may_hold_stories(path)  # a document, whose error shows how to convert it
    timed = "max_minutes" in given
    if not is_local and not (timed and _may_be_on_hub(target)):
        return False
    if not timed and "init_from" in given:
        raise UserError(
            f"{target} names stories, not a recipe: add the time for training, such as --minutes 2, or use the recipe "
            f"for fine-tuning: `tinystories train {FINE_TUNING} --corpus {target} --init_from {given['init_from']}`."
        )
    if not timed:
        raise UserError(
            f"{target} names stories, not a recipe: add the time for training, such as --minutes 20, or choose a "
            f"recipe: `tinystories train tinystories-3m --corpus {target}`."
        )
    return True


def _may_be_on_hub(target: str) -> bool:
    """Whether a name may be a dataset on the Hub: owner/name, and neither a path nor a mistyped recipe."""
    return "/" in target and not is_in_recipe_folder(target) and not Path(target).exists()


def _recipe_for_stories(source: str, given: dict[str, str]) -> tuple[Recipe, str]:
    """The recipe chosen for stories and `--minutes`, and the reasons, which are printed; a resumed run keeps its own.

    Raises:
        UserError: for settings or stories that training cannot use.
    """
    hub_dataset(source)
    from ..training.choose_recipe import check_settings, choose_recipe, run_folder_for

    folder = run_folder_for(source, given)
    if given.get("resume_from_checkpoint", "false") not in ("false", "no") and (folder / RECIPE).is_file():
        lines = (folder / RECIPE).read_text("utf-8").splitlines()
        comment = "\n".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
        return load_recipe(folder / RECIPE, {"output_dir": str(folder), **given}), comment
    asked = check_settings(source, given)
    print(f"Reading {source} and measuring the speed of training on this machine ...", flush=True)
    base = None
    if asked.init_from is not None:
        from ..export.base_model import load_base

        base = load_base(asked.init_from, asked.tokenizer)
    recipe, plan, replaced = choose_recipe(source, given, asked, base)
    reasons = plan.reasons()
    if replaced:
        reasons.append(f"replaced    {', '.join(replaced)}")
    advice = plan.advice()
    print("\n".join([*reasons, *advice, f"The recipe is in {folder / RECIPE}.", ""]), flush=True)
    command = f"tinystories train {source} --minutes {given['max_minutes']}"
    command += f" --init_from {asked.init_from}" if asked.init_from else ""
    return recipe, "\n".join([f"Chosen by `{command}`:", *reasons, *advice])


def train(recipe: Recipe, *, comment: str = "") -> Path:
    """Train a model from a recipe, print its progress and sample stories, and return the run folder.

    Args:
        recipe: from `load_recipe`; its `output_dir` is the run folder.
        comment: for the beginning of `recipe.yaml` in the run folder.

    Raises:
        UserError: for a setting, corpus or folder that training cannot use.
        KeyboardInterrupt: with the checkpoint to resume from. During training, Ctrl-C saves one first.
    """
    from ..runs.checkpoints import resume_hint
    from ..training.arguments import training_arguments

    arguments = training_arguments(recipe)
    output_dir = output_folder(str(arguments.output_dir), probe=arguments.local_process_index == 0)
    try:
        return _train(recipe, arguments, output_dir, comment)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(resume_hint(output_dir)) from None


def _train(recipe: Recipe, arguments: "TrainingArguments", output_dir: Path, comment: str) -> Path:
    from transformers import set_seed

    from modeling_tinyllama import TinyLlamaForCausalLM

    from ..checks.overfitting import OverfittingCallback
    from ..checks.preflight import check_resources, dry_run, fitting_prompts
    from ..data.corpus import recipe_corpus
    from ..data.streaming import PackedStream
    from ..generation.generate import default_new_tokens, generate_story, preset_config
    from ..generation.presets import check_preset
    from ..runs.loading import load_model, load_tokenizer
    from ..runs.metadata import write_base_metadata
    from ..training import build, resume
    from ..training.coherence import training_probes
    from ..training.forgetting import load_old_stories, with_replay
    from ..training.lora import with_lora

    checkpoint = resume.checkpoint_to_resume(arguments, recipe)
    recipe, base = _with_base(recipe, checkpoint)
    check_preset(recipe.preset)
    check_resources(recipe, arguments)
    _check_hub(arguments)
    dry_run(recipe, arguments)
    keeps_last = arguments.eval_strategy != "no" and not arguments.load_best_model_at_end
    if keeps_last and "load_best_model_at_end" not in recipe.trainer and arguments.process_index == 0:
        print(
            "note: the final weights are kept, not the best ones. To keep the best, remove save_strategy and "
            "save_steps; checkpoints are then saved at the evaluations."
        )
    set_seed(arguments.seed)

    with arguments.main_process_first(desc="reading the corpus"):
        corpus = recipe_corpus(recipe)
    with arguments.main_process_first(desc="tokenizer"):
        # The first process of a machine writes the tokenizer, and the others load it.
        written = checkpoint is not None or arguments.local_process_index > 0
        if base is not None:
            tokenizer, config = base.tokenizer, base.config
        else:
            tokenizer = (
                load_tokenizer(str(checkpoint or output_dir)) if written else build.recipe_tokenizer(recipe, corpus)
            )
            config = build.model_config(recipe, tokenizer)
        if recipe.template is not None:
            StoryTemplate(recipe.template).add_to(tokenizer)
        if recipe.tokenizer is not None or base is not None:
            check_resources(recipe, arguments, config.vocab_size)
        prompts = fitting_prompts(recipe, corpus.validation, tokenizer)
        if checkpoint is not None and base is None:
            resume.require_same_model(checkpoint, config)
        if arguments.local_process_index == 0:
            if checkpoint is None:
                # Only after every check of the recipe, so that a mistake does not delete the earlier run.
                for folder in find_checkpoints(output_dir):
                    shutil.rmtree(folder)
            tokenizer.save_pretrained(output_dir)
            # Without the checkpoint, so that the recipe of a resumed run can be used for a new run.
            settings = {name: value for name, value in recipe.trainer.items() if name != "resume_from_checkpoint"}
            save_recipe(dataclasses.replace(recipe, trainer=settings), output_dir / RECIPE, comment)
            if checkpoint is None:
                write_base_metadata(output_dir, recipe.init_from)
    with arguments.main_process_first(desc="tokenising"):
        train_rows, validation_rows = build.pack_corpus(corpus, tokenizer, recipe, arguments.seed)
        old = load_old_stories(recipe)
        old_rows = None
        if old is not None:
            old_rows = old.rows("validation", tokenizer, recipe, train_rows.length, arguments.seed)
        train_rows = with_replay(train_rows, old, tokenizer, recipe, arguments.seed)
    build.require_names(train_rows)

    if base is not None:
        if checkpoint is None:
            _report_base(base, recipe, corpus)
            arguments.eval_on_start = arguments.eval_strategy != "no"
        model = base.new_model(recipe)
        model.generation_config = base.generation_config(recipe)
        if recipe.lora is not None:
            model = with_lora(model, base, recipe)
    else:
        model = TinyLlamaForCausalLM(config)
        if recipe.zero_init_residual:
            build.zero_init_residual(model)
        if recipe.copy_init is not None:
            build.copy_init(model, recipe.copy_init)
        model.generation_config = preset_config(
            recipe.preset, tokenizer, max_new_tokens=default_new_tokens(recipe.max_length)
        )
    if checkpoint is not None and isinstance(train_rows, PackedStream):
        train_rows.load_state(checkpoint)
        arguments.ignore_data_skip = True
    trainer = build.build_trainer(
        recipe,
        arguments,
        model,
        tokenizer,
        train_rows,
        validation_rows,
        prompt=prompts[0] if prompts else None,
        write_model_card=_write_model_card,
        old_rows=old_rows,
        probes=functools.cache(functools.partial(training_probes, corpus.validation)),  # not before the first step
    )
    if arguments.process_index == 0:
        print(build.summary(trainer, corpus))
    if recipe.check:
        _report_text_quality(corpus, recipe)
        _check(trainer, corpus)
    trainer.add_callback(OverfittingCallback())
    trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    metrics = trainer.evaluate()
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    trainer.save_metrics("eval", metrics)
    if arguments.process_index == 0:
        build.save_run_metadata(trainer, corpus, output_dir)
        print(
            f"\nValidation: {metrics['eval_bits_per_byte']:.4f} bits per byte "
            f"({metrics['eval_nats_per_token']:.3f} nats per token) on {len(corpus.validation):,} held-out stories of "
            f"{corpus.name}.{_change(trainer)}\n"
            f"Training took {timedelta(seconds=round(trained.metrics['train_runtime']))} "
            f"(total steps: {trainer.state.global_step:,}). {_kept_weights(trainer)}"
        )
        # A sharded model can only generate in all processes together.
        trained_model = load_model(str(output_dir))[0] if trainer.is_fsdp_enabled else trainer.model
        for number, prompt in enumerate(prompts):
            print(f"\n--- story {number + 1}")
            print(generate_story(trained_model, tokenizer, prompt, preset=recipe.preset, seed=arguments.seed + number))
        print(f'\nThe model is in {output_dir}. Next: tinystories generate {output_dir} "Once upon a time"')
    if arguments.push_to_hub:
        _push(trainer, output_dir)
    return output_dir


def _with_base(recipe: Recipe, checkpoint: Path | None) -> tuple[Recipe, "BaseModel | None"]:
    """The model that a recipe fine-tunes, if it does, and the recipe with the values of that model.

    A checkpoint to resume from has all that is needed of the base model, which need not exist any more.
    """
    if recipe.init_from is None:
        return recipe, None
    from ..export.base_model import load_base
    from ..training.fine_tuning import complete_recipe
    from ..training.lora import lora_settings
    from ..training.resume import resumed_recipe

    if recipe.lora is not None:
        lora_settings(recipe)
    if checkpoint is None:
        base = load_base(recipe.init_from, recipe.tokenizer)
        base.add_tokens(recipe.add_tokens or [])
        return complete_recipe(recipe, base), base
    # A checkpoint of LoRA has only the adapter.
    base = load_base(str(checkpoint) if recipe.lora is None else recipe.init_from)
    return complete_recipe(resumed_recipe(checkpoint, recipe), base, resumed=True), base


def _report_base(base: "BaseModel", recipe: Recipe, corpus: "Corpus") -> None:
    """Print what training starts from, and a warning if the model does not predict the next token."""
    from ..checks.prediction_offset import check_objective
    from ..checks.story_sample import evenly

    for change in base.changes:
        print(f"note: the tokenizer of {base.name} has {change}.")
    print(f"base        {base.name}, {base.model.num_parameters():,} parameters")
    if not recipe.check:
        return
    for finding in check_objective(base.model, base.tokenizer, evenly(corpus.validation, BASE_STORIES)["text"][:]):
        if finding.check == "objective" and finding.status == "error":
            print(
                f"warning: the base model {base.name}: {finding.evidence}. Here the labels are shifted once, so "
                f"training repairs the model, but takes longer than from a correct one. Afterwards, check the "
                f"run folder "
                f"with `tinystories doctor`."
            )


def _check_hub(arguments: "TrainingArguments") -> None:
    """Check before training whether the Hub will accept the push at its end."""
    if arguments.push_to_hub and arguments.process_index == 0:
        from ..hub.upload import check_push

        name = arguments.hub_model_id or Path(str(arguments.output_dir)).absolute().name
        check_push(name, revision=arguments.hub_revision)


def _report_text_quality(corpus: "Corpus", recipe: Recipe) -> None:
    from datasets import IterableDataset

    from ..checks.english import check_writing
    from ..data.cleaning import check_quality

    if isinstance(corpus.train, IterableDataset):
        return
    report = check_quality(corpus.train, limit=QUALITY_STORIES, progress=False)
    if report.errors:
        found = ", ".join(f"{finding.kind} in {finding.count:,}" for finding in report.errors)
        print(
            f"note: some of the first {report.stories:,} stories are unsuitable for training ({found}). "
            f"`tinystories doctor {recipe.corpus} --clean OUT` writes a cleaned copy."
        )
    for finding in check_writing(corpus.train[:ENGLISH_STORIES]["text"]):
        if finding.status == "error":
            print(f"warning: {finding.check}: {finding.evidence}. {finding.advice}")


def _check(trainer: "StoryTrainer", corpus: "Corpus") -> None:
    """Run the checks of `tinystories doctor` on a trainer, and print a verdict on the length of the run.

    Raises:
        UserError: if they find an error.
    """
    from datasets import IterableDataset

    from ..checks import check_trainer, summary
    from ..checks.verdict import check_validation_stories, verdict

    findings = check_trainer(trainer)
    number = None if isinstance(corpus.train, IterableDataset) else len(corpus.train)
    findings += check_validation_stories(number, len(corpus.validation))
    if trainer.args.process_index == 0:
        print(f"checks      {summary(findings)} (`tinystories doctor` lists them)")
        print(*verdict(findings), sep="\n")
    if errors := [finding for finding in findings if finding.status == "error"]:
        found = " ".join(f"{error.check}: {error.evidence}. {error.advice}".strip() for error in errors)
        raise UserError(f"The checks found an error: {found.rstrip('.')}. To train anyway, use --check false.")


def _change(trainer: "StoryTrainer") -> str:
    """What fine-tuning has changed, from the evaluation before the first step to the last one."""
    history = trainer.state.log_history
    before = next((entry for entry in history if entry["step"] == 0 and "eval_bits_per_byte" in entry), None)
    if before is None:
        return ""
    after = next(entry for entry in reversed(history) if "eval_bits_per_byte" in entry)
    names = {"eval_bits_per_byte": "new", "eval_old_bits_per_byte": "old"}
    parts = [
        f"{before[name]:.4f} to {after[name]:.4f} ({after[name] / before[name] - 1:+.1%}) on {kind} stories"
        for name, kind in names.items()
        if name in before and name in after
    ]
    text = f"\nFine-tuning changed bits per byte from {' and from '.join(parts)}."
    if after["eval_bits_per_byte"] >= before["eval_bits_per_byte"]:
        text += (
            " The base model is better on these stories than the fine-tuned one: they are too few, or too much like "
            "those that it was trained on, to improve it."
        )
    return text


def _kept_weights(trainer: "StoryTrainer") -> str:
    """A sentence on the weights that the run has kept, and a warning if it has overfitted."""
    from ..checks.log import Log
    from ..checks.progress import check_overfitting

    state, log = trainer.state, Log(trainer.state)
    if not (trainer.args.load_best_model_at_end and state.best_model_checkpoint):
        return f"The weights are those of the last step, {state.global_step:,}."
    kept = checkpoint_step(state.best_model_checkpoint)
    metric = str(trainer.args.metric_for_best_model).removeprefix("eval_").replace("_", " ")
    evaluations = counted(len(log.evaluations), "evaluation")
    text = f"The weights are those of step {kept:,} of {state.global_step:,}, the best of {evaluations} ({metric})."
    for finding in check_overfitting(log, best_is_kept=True):
        if finding.status not in ("ok", "inconclusive"):
            text += f"\nwarning: {finding.check}: {finding.evidence}. {finding.advice}"
    return text


def _write_model_card(trainer: "StoryTrainer") -> None:
    from ..hub.model_card import model_card
    from ..runs.metadata import read_run_metadata

    folder = Path(str(trainer.args.output_dir))
    metadata = read_run_metadata(folder, trainer.accelerator.unwrap_model(trainer.model))
    loss_plot = (folder / LOSS_PLOT).exists()
    model_card(metadata, str(trainer.hub_model_id), {}, loss_plot=loss_plot).save(folder / "README.md")


def _push(trainer: "StoryTrainer", output_dir: Path) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        trainer.push_to_hub(commit_message="End of training")
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The model in {output_dir} is complete, but could not be pushed: {first_line(error)}. To try again, run "
            f"`tinystories push {output_dir} --repo-id {trainer.hub_model_id}`."
        ) from None
