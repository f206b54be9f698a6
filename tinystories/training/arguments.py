"""transformers' `TrainingArguments` of a recipe.

`TrainingArguments` checks few values, and many wrong ones fail only at the first step, evaluation or checkpoint. The
rules here refuse known ones; `dry_run` in `checks/preflight.py` finds the others.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    is_azureml_available,
    is_flytekit_available,
)

from ..evaluation.token_classes import CLASSES as WORD_CLASSES
from ..recipe import Recipe
from ..utils.errors import UserError, first_line
from ..utils.hardware import computes_in_bf16
from .lr_schedules import KINDS, lr_lambda, timed_lr_lambda
from .time_limit import STEPS_WITHOUT_END, TimeLimitCallback


# Defaults of every recipe; the recipes in configs/ name their sources.
TRAINER_DEFAULTS = {
    "output_dir": "runs/story",
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "bf16": "auto",
    "eval_strategy": "steps",
    "eval_steps": 500,
    "logging_steps": 50,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "bits_per_byte",
    "report_to": "csv",
    # The filter would replace a non-finite loss with the mean of earlier ones.
    "logging_nan_inf_filter": False,
    "restore_callback_states_from_checkpoint": True,
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}
METRICS = ("loss", "bits_per_byte", "nats_per_token", *(f"nats_per_token_{name}" for name in WORD_CLASSES))

Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda value: 0 < value < math.inf, "a number above 0")
_NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "a number of at least 0")
_AT_LEAST_ONE: Rule = (lambda value: value >= 1, "at least 1")
_FRACTION: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_SEED: Rule = (lambda value: 0 <= value < 2**32, f"from 0 to {2**32 - 1}")
# For values that are not None.
RULES: dict[str, Rule] = {
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), _FRACTION),
    **dict.fromkeys(("weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps", "eval_delay"), _NOT_NEGATIVE),
    **dict.fromkeys(("neftune_noise_alpha", "dataloader_num_workers"), _NOT_NEGATIVE),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _AT_LEAST_ONE),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps"), _AT_LEAST_ONE),
    **dict.fromkeys(("torch_empty_cache_steps", "ddp_timeout", "ddp_bucket_cap_mb"), _AT_LEAST_ONE),
    **dict.fromkeys(("seed", "data_seed"), _SEED),
    "learning_rate": _POSITIVE,
    "max_steps": (lambda value: value == -1 or value >= 1, "at least 1, or -1 to train for `num_train_epochs`"),
    "dataloader_prefetch_factor": _AT_LEAST_ONE,
    "lr_scheduler_kwargs": (lambda value: isinstance(value, dict), "a mapping, such as '{min_lr_rate: 0.1}'"),
    "label_names": (lambda value: value == ["labels"], "[labels], the name that packed rows use"),
    "debug": (lambda value: "tpu" not in str(value), "empty or underflow_overflow"),
    "include_for_metrics": (lambda value: {*value} <= {"inputs", "loss"}, "a list of inputs and loss"),
    "prediction_loss_only": (lambda value: not value, "false (bits per byte need the loss of each token)"),
    "use_liger_kernel": (lambda value: not value, "false (Liger has no kernels for this model)"),
}


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The `TrainingArguments` of a recipe, with `auto` resolved for this machine.

    Raises:
        UserError: for a setting that training cannot use.
    """
    given, settings = recipe.trainer, {**TRAINER_DEFAULTS, **recipe.trainer}
    _check_settings(settings, recipe)
    if "lr_scheduler_kwargs" not in given and "min_lr_rate" not in KINDS.get(settings["lr_scheduler_type"], ()):
        del settings["lr_scheduler_kwargs"]
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        settings.setdefault("use_cpu", True)
    use_cpu = settings.get("use_cpu", False)
    if settings["bf16"] == "auto":
        settings["bf16"] = computes_in_bf16(use_cpu) and not settings.get("fp16", False)
    if settings.get("torch_compile") == "auto":
        # On a GPU, torch compiles with Triton, which not every platform has.
        settings["torch_compile"] = torch.cuda.is_available() and not use_cpu and find_spec("triton") is not None
    settings["report_to"] = [name for name in reports(recipe) if name != "csv"] or "none"
    settings.setdefault("save_strategy", settings["eval_strategy"])
    settings.setdefault("save_steps", settings["eval_steps"])
    settings.setdefault("greater_is_better", False)
    if recipe.max_minutes is not None:
        settings["max_steps"] = STEPS_WITHOUT_END
        if fractions := [name for name in ("eval_steps", "save_steps", "logging_steps") if 0 < settings[name] < 1]:
            names = ", ".join(fractions)
            raise UserError(
                f"With `max_minutes`, the number of steps is not known in advance: set {names} to a number of steps."
            )
    arguments = _build(settings, recipe)
    _check_arguments(arguments, recipe)
    # Both raise an error for unknown settings.
    lr_lambda(arguments, 100) if recipe.max_minutes is None else timed_lr_lambda(arguments, TimeLimitCallback(60))
    return arguments


def _build(settings: dict[str, Any], recipe: Recipe) -> TrainingArguments:
    """The arguments, without our default of `load_best_model_at_end` if the checkpoints do not allow it."""
    optional = [name for name in ("load_best_model_at_end", "metric_for_best_model") if name not in recipe.trainer]
    with user_errors("trainer"):
        try:
            return TrainingArguments(**settings)
        except ValueError as error:
            if "load_best_model_at_end" not in str(error) or "load_best_model_at_end" not in optional:
                raise
        return TrainingArguments(**{name: value for name, value in settings.items() if name not in optional})


def reports(recipe: Recipe) -> list[str]:
    """The entries of `report_to`; `csv` is this package's own log."""
    asked = recipe.trainer.get("report_to", TRAINER_DEFAULTS["report_to"])
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked or [])
    return [name for name in names if name not in ("none", "")]


@contextmanager
def user_errors(section: str) -> Iterator[None]:
    """Turn a library's error about a section of the recipe into a one-line `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The message of a KeyError or AttributeError is only a name.
        plain = isinstance(error, (ValueError, TypeError, ImportError, RuntimeError, OSError))
        name = "" if plain else f"{type(error).__name__}: "
        raise UserError(f"The `{section}` section of the recipe is invalid: {name}{first_line(error)}.") from None


def _check_settings(settings: dict[str, Any], recipe: Recipe) -> None:
    """Refuse values that transformers accepts silently, or fails on with a traceback."""
    rules = dict(RULES)
    for name in ("eval", "save", "logging"):
        if settings.get(f"{name}_strategy", "steps") == "steps":
            rules[f"{name}_steps"] = _POSITIVE
    if settings.get("max_steps", -1) == -1:
        rules["num_train_epochs"] = _POSITIVE
    for field in dataclasses.fields(TrainingArguments):
        if choices := list(field.metadata.get("choices") or []):
            rules[field.name] = (choices.__contains__, f"one of {', '.join(choices)}")
    for name, (allowed, text) in rules.items():
        value = settings.get(name)
        if value is not None and not allowed(value):
            raise UserError(f"`trainer.{name}` is {value!r}, but must be {text}.")
    if settings.get("hub_token") is not None:
        raise UserError(
            "`trainer.hub_token` must not be in a recipe, which is published with the model: run `hf auth login`."
        )
    if not str(settings["output_dir"] or "").strip():
        raise UserError("`trainer.output_dir` is empty: set it to the folder that the run will write to.")
    if settings.get("label_smoothing_factor") and recipe.article_loss_weight != 1:
        raise UserError("`label_smoothing_factor` and `article_loss_weight` cannot be combined: remove one of them.")
    if recipe.streaming and settings.get("dataloader_num_workers"):
        raise UserError("`streaming` reads stories in the training process: set `dataloader_num_workers` to 0.")
    if settings["eval_strategy"] == "no" and recipe.trainer.get("load_best_model_at_end"):
        raise UserError("`load_best_model_at_end` needs evaluations: set `eval_strategy` to steps or epoch.")
    if settings.get("deepspeed") and find_spec("deepspeed") is None:
        raise UserError("`trainer.deepspeed` needs a package that is not installed: pip install deepspeed.")
    for name in ("fsdp", "ddp_backend"):
        if settings.get(name) and "LOCAL_RANK" not in os.environ:
            raise UserError(
                f"`trainer.{name}` needs several processes: start training with `accelerate launch` or `torchrun`."
            )
    _check_reports([name for name in reports(recipe) if name not in ("csv", "all")])


def _check_reports(names: list[str]) -> None:
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UserError(f"`report_to: {name}` is not supported: use csv, none, or one of {known}.")
    available = get_available_reporting_integrations()
    # transformers lists neither of these two.
    available += ["azure_ml"] * is_azureml_available() + ["flyte"] * is_flytekit_available()
    for name in names:
        if name not in available:
            package = {"azure_ml": "azureml-sdk", "flyte": "flytekit"}.get(name, name)
            raise UserError(f"`report_to: {name}` needs a package that is not installed: pip install {package}.")


def _check_arguments(arguments: TrainingArguments, recipe: Recipe) -> None:
    """Refuse contradictions that can be detected only in the complete arguments."""
    evaluates, metric, steps = arguments.eval_strategy != "no", arguments.metric_for_best_model, arguments.max_steps
    if evaluates and metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise UserError(f"`trainer.metric_for_best_model` cannot be {metric}: the metrics are {', '.join(METRICS)}.")
    if recipe.early_stopping_patience is not None and not (evaluates and arguments.load_best_model_at_end):
        raise UserError(
            "`early_stopping_patience` needs evaluations, a checkpoint at each of them, and "
            "`load_best_model_at_end: true`: set `eval_strategy` and `save_strategy` to steps or epoch."
        )
    if arguments.lr_scheduler_type == "polynomial" and 0 < steps <= arguments.get_warmup_steps(steps):
        raise UserError(f"`trainer.warmup_steps` must be below `max_steps` ({steps}) with a polynomial schedule.")
    with user_errors("trainer"):
        DataLoader(
            TensorDataset(torch.zeros(1)),
            num_workers=arguments.dataloader_num_workers,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            multiprocessing_context=arguments.dataloader_multiprocessing_context,
        )
        if arguments.torch_compile:
            backend, mode = arguments.torch_compile_backend or "inductor", arguments.torch_compile_mode
            compiled = torch.compile(torch.nn.Identity(), backend=backend, mode=mode)
            if backend != "inductor":
                # Many backends are separate packages, which are imported at the first call.
                compiled(torch.zeros(1))
