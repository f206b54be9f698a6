"""transformers' `TrainingArguments` from a recipe, with what can be said of each value before any work is done.

`TrainingArguments` takes most values as they are, and many a wrong one fails only at the first step, the first
evaluation or the first checkpoint. The rules here refuse what is known to; `preflight.py` tries the rest.
"""

import dataclasses
import math
import multiprocessing
import os
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from huggingface_hub import get_token
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
from .lr_schedules import KINDS, schedule, timed_schedule
from .time_limit import STEPS_WITHOUT_END, TimeLimit


# What every recipe starts from; sources of the figures are named where the recipes state them.
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
    "greater_is_better": False,
    "report_to": "csv",
    # The filter would put the mean of earlier losses in the place of one that is not a number.
    "logging_nan_inf_filter": False,
    "restore_callback_states_from_checkpoint": True,
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}
METRICS = (
    *("loss", "bits_per_byte", "nats_per_token", *(f"nats_per_token_{kind}" for kind in WORD_CLASSES)),
    *("runtime", "samples_per_second", "steps_per_second"),
)
# What to install for a name of `report_to`, where the package has another name.
PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit", "tensorboard": "tensorboardX"}

Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda value: 0 < value < math.inf, "a number above 0")
_NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "a number of at least 0")
_AT_LEAST_ONE: Rule = (lambda value: value >= 1, "at least 1")
_SHARE: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_SEED: Rule = (lambda value: 0 <= value < 2**32, f"from 0 to {2**32 - 1}")
# Of values that are not None; more follows from several settings together.
RULES: dict[str, Rule] = {
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "max_steps": (lambda value: value == -1 or value >= 1, "at least 1, or -1 to train for `num_train_epochs`"),
    "seed": _SEED,
    "data_seed": _SEED,
    "per_device_train_batch_size": _AT_LEAST_ONE,
    "per_device_eval_batch_size": _AT_LEAST_ONE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "eval_accumulation_steps": _AT_LEAST_ONE,
    "torch_empty_cache_steps": _AT_LEAST_ONE,
    "eval_delay": _NOT_NEGATIVE,
    "dataloader_num_workers": (lambda value: value >= 0, "at least 0"),
    "dataloader_prefetch_factor": _AT_LEAST_ONE,
    "ddp_timeout": _AT_LEAST_ONE,
    "ddp_bucket_cap_mb": _AT_LEAST_ONE,
}


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """transformers' arguments for a recipe, with what is `auto` decided for this machine.

    Raises:
        UserError: for a setting that training could not go on with.
    """
    settings = {**TRAINER_DEFAULTS, **recipe.trainer}
    if "lr_scheduler_kwargs" not in recipe.trainer and "min_lr_rate" not in KINDS.get(
        settings["lr_scheduler_type"], ()
    ):
        del settings["lr_scheduler_kwargs"]
    _check_settings(settings, recipe)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        settings.setdefault("use_cpu", True)
    on_gpu = torch.cuda.is_available() and not settings.get("use_cpu", False)
    bf16 = computes_in_bf16(settings.get("use_cpu", False)) and not settings.get("fp16", False)
    settings["bf16"] = _decided("bf16", settings, bf16)
    # torch compiles for a GPU by Triton, which is not everywhere that torch is.
    compiles = on_gpu and find_spec("triton") is not None
    settings["torch_compile"] = _decided("torch_compile", settings, compiles)
    settings["report_to"] = [name for name in reports(recipe) if name != "csv"] or "none"
    settings.setdefault("save_strategy", settings["eval_strategy"])
    settings.setdefault("save_steps", settings["eval_steps"])
    if recipe.max_minutes is not None:
        settings["max_steps"] = STEPS_WITHOUT_END
        if shares := [name for name in ("eval_steps", "save_steps", "logging_steps") if 0 < settings[name] < 1]:
            raise UserError(f"With `max_minutes` the number of steps is not known: give {', '.join(shares)} in steps.")
    _let_defaults_give_way(settings, recipe)
    with user_errors("trainer"):
        arguments = TrainingArguments(**settings)
    _check_arguments(arguments, recipe)
    # Refuses what it does not know before any work is done.
    schedule(arguments, 100) if recipe.max_minutes is None else timed_schedule(arguments, TimeLimit(60))
    return arguments


def reports(recipe: Recipe) -> list[str]:
    """What a recipe reports to, `csv` for our own log."""
    asked = recipe.trainer.get("report_to", TRAINER_DEFAULTS["report_to"])
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked or [])
    return [name for name in names if name not in ("none", "")]


@contextmanager
def user_errors(section: str):
    """Raise what a library says of a section of the recipe as a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # A plain key or attribute says nothing without the kind of error that it is.
        plain = isinstance(error, (ValueError, TypeError, ImportError, RuntimeError, OSError))
        name = "" if plain else f"{type(error).__name__}: "
        raise UserError(f"The recipe's `{section}` section does not work: {name}{first_line(error)}.") from None


def _check_settings(settings: dict[str, Any], recipe: Recipe) -> None:
    """Refuse what transformers takes without a word, or fails on with a traceback."""
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    steps = {
        f"{what}_steps": _POSITIVE
        for what in ("eval", "save", "logging")
        if settings.get(f"{what}_strategy", "steps") == "steps"
    }
    rules = {**RULES, **steps}
    if settings.get("max_steps", -1) == -1:
        rules["num_train_epochs"] = _POSITIVE
    for name, (allowed, text) in rules.items():
        value = settings.get(name)
        if value is not None and not allowed(value):
            raise UserError(f"`trainer.{name}` cannot be {value}: it must be {text}.")
    for name, value in settings.items():
        choices = list(fields[name].metadata.get("choices") or [])
        if choices and not isinstance(value, bool) and value not in choices:
            raise UserError(f"`trainer.{name}` cannot be {value!r}: it must be one of {', '.join(map(str, choices))}.")
    if not str(settings["output_dir"] or "").strip():
        raise UserError("`trainer.output_dir` is empty: give the folder for the run.")
    if not isinstance(settings.get("lr_scheduler_kwargs") or {}, dict):
        raise UserError("`trainer.lr_scheduler_kwargs` must be a mapping, such as '{min_lr_rate: 0.1}'.")
    if unknown := set(settings.get("include_for_metrics") or ()) - {"inputs", "loss"}:
        names = ", ".join(sorted(map(str, unknown)))
        raise UserError(f"`trainer.include_for_metrics` cannot hold {names}: there are inputs and loss.")
    if settings.get("label_names") not in (None, ["labels"]):
        raise UserError("`trainer.label_names` must be [labels], which is what the rows call them.")
    if settings.get("prediction_loss_only"):
        raise UserError("`trainer.prediction_loss_only` must be false: bits per byte need the loss of each token.")
    if settings.get("use_liger_kernel"):
        raise UserError("`trainer.use_liger_kernel` must be false: Liger has no kernels for this model.")
    if settings.get("parallelism_config") is not None:
        raise UserError("`trainer.parallelism_config` cannot be given in a recipe: use `accelerate launch` for it.")
    if settings.get("label_smoothing_factor") and recipe.article_loss_weight != 1:
        raise UserError("`label_smoothing_factor` and `article_loss_weight` both change the loss: leave one out.")
    _check_packages(settings, recipe)
    _check_workers(settings, recipe)
    _check_hub_settings(settings)


def _check_packages(settings: dict[str, Any], recipe: Recipe) -> None:
    """Refuse what needs a package, a launcher or a device that is not there."""
    for name in reports(recipe):
        if name in ("csv", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["csv", "none", *INTEGRATION_TO_CALLBACK])
            raise UserError(f"`trainer.report_to` cannot be {name}: there are {known}.")
        if not _can_report_to(name):
            package = PACKAGES.get(name, name)
            raise UserError(f"`report_to: {name}` needs a package that is not installed: pip install {package}.")
    if settings.get("deepspeed") and find_spec("deepspeed") is None:
        raise UserError("`trainer.deepspeed` needs a package that is not installed: pip install deepspeed.")
    if settings.get("ddp_backend") and "LOCAL_RANK" not in os.environ:
        raise UserError(
            "`trainer.ddp_backend` is for several processes: start them with `accelerate launch` or `torchrun`, or "
            "leave it out."
        )
    if "tpu_metrics_debug" in str(settings.get("debug", "")) and find_spec("torch_xla") is None:
        raise UserError("`debug: tpu_metrics_debug` needs a TPU and the package torch_xla.")


def _can_report_to(name: str) -> bool:
    # These two are not in the list that transformers gives.
    unlisted = {"azure_ml": is_azureml_available, "flyte": is_flytekit_available}
    return unlisted[name]() if name in unlisted else name in get_available_reporting_integrations()


def _check_workers(settings: dict[str, Any], recipe: Recipe) -> None:
    """Refuse settings of processes that load data, where there are none, or that these cannot have."""
    if settings.get("dataloader_num_workers", 0):
        if recipe.streaming:
            raise UserError("A stream is read in the training process itself: set `dataloader_num_workers` to 0.")
    else:
        for name in (
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
        ):
            if settings.get(name):
                raise UserError(f"`trainer.{name}` needs `dataloader_num_workers` above 0.")
    method, there = settings.get("dataloader_multiprocessing_context"), multiprocessing.get_all_start_methods()
    if method is not None and method not in there:
        raise UserError(
            f"`trainer.dataloader_multiprocessing_context` cannot be {method!r}: this system has {', '.join(there)}."
        )


def _check_hub_settings(settings: dict[str, Any]) -> None:
    if settings.get("hub_token"):
        raise UserError("A token does not belong into a recipe, which is published with the model: `hf auth login`.")
    if settings.get("push_to_hub") and get_token() is None:
        raise UserError("`push_to_hub` needs a token of the Hub: `hf auth login`, or set HF_TOKEN.")


def _let_defaults_give_way(settings: dict[str, Any], recipe: Recipe) -> None:
    """Drop defaults of ours that contradict what the recipe says."""
    given = recipe.trainer
    metric = str(settings["metric_for_best_model"] or "").removeprefix("eval_")
    if "greater_is_better" not in given:
        settings["greater_is_better"] = metric.endswith("_per_second")
    if settings["eval_strategy"] == "no":
        for name in ("load_best_model_at_end", "metric_for_best_model"):
            if name not in given:
                del settings[name]
    elif settings["load_best_model_at_end"] and not _saves_at_evaluations(settings):
        # The best model can be loaded only where each evaluation that may be the best has a checkpoint.
        if "load_best_model_at_end" in given:
            raise UserError(
                "`load_best_model_at_end` needs evaluations at all checkpoints: let `save_strategy` be that of "
                "`eval_strategy`, or best, and `save_steps` a multiple of `eval_steps`."
            )
        settings["load_best_model_at_end"] = False


def _saves_at_evaluations(settings: dict[str, Any]) -> bool:
    """Whether transformers lets the best checkpoint be loaded with these strategies."""
    if settings["save_strategy"] == "best":
        return True
    if settings["save_strategy"] != settings["eval_strategy"]:
        return False
    save, evaluate = settings["save_steps"], settings["eval_steps"]
    if settings["eval_strategy"] != "steps" or not save or not evaluate:
        return True
    if (save < 1) != (evaluate < 1):
        return False
    return (save * 1_000_000) % (evaluate * 1_000_000) == 0


def _check_arguments(arguments: TrainingArguments, recipe: Recipe) -> None:
    """Refuse what contradicts itself in the arguments as transformers has completed them."""
    evaluates = arguments.eval_strategy != "no"
    metric = arguments.metric_for_best_model
    if evaluates and metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise UserError(f"`trainer.metric_for_best_model` cannot be {metric}: evaluations give {', '.join(METRICS)}.")
    if arguments.load_best_model_at_end and not evaluates:
        raise UserError("`load_best_model_at_end` needs evaluations: set `eval_strategy` to steps or epoch.")
    if recipe.early_stopping_patience is not None and not (evaluates and arguments.load_best_model_at_end):
        raise UserError(
            "`early_stopping_patience` needs evaluations with a checkpoint at each, and `load_best_model_at_end`."
        )
    steps = arguments.max_steps
    if arguments.lr_scheduler_type == "polynomial" and 0 < steps <= arguments.get_warmup_steps(steps):
        raise UserError(f"`trainer.warmup_steps` must be below `max_steps` ({steps}) with a polynomial schedule.")
    if arguments.fsdp and arguments.world_size == 1:
        raise UserError("`trainer.fsdp` is for several processes: start them with `accelerate launch` or `torchrun`.")
    if arguments.torch_compile:
        _check_compilation(arguments)


def _check_compilation(arguments: TrainingArguments) -> None:
    from accelerate.utils import DynamoBackend

    backend = arguments.torch_compile_backend
    known = [member.value.lower() for member in DynamoBackend if member != DynamoBackend.NO]
    if backend not in known:
        raise UserError(f"`trainer.torch_compile_backend` cannot be {backend!r}: there are {', '.join(known)}.")
    with user_errors("trainer"):
        torch.compile(torch.nn.Identity(), mode=arguments.torch_compile_mode)
        if backend != "inductor":
            # Many of them are packages of their own, which are looked for only when something is computed.
            torch.compile(torch.nn.Identity(), backend=backend)(torch.zeros(1))


def _decided(name: str, settings: dict, auto: bool) -> bool:
    asked = settings.get(name, False)
    if asked == "auto":
        return auto
    if isinstance(asked, bool):
        return asked
    raise UserError(f"`trainer.{name}` must be true, false or auto, but is {asked!r}.")
