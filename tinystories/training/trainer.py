"""transformers' `Trainer` for packed stories: what a run that can be trusted and resumed needs beside it.

Design decisions:

- The loss is the model's own. What is added is measured beside it: bits per byte and the loss by kind of word.
- A checkpoint counts when it is whole (see `checkpoints.py`); nothing older is deleted before that.
- With averaged weights (EMA), `model.safetensors` holds the average, which is what evaluation measured, and
  `training_weights.safetensors` beside it what training goes on from.
- Weights that are not finite are never saved, so that the last checkpoint is always one to go back to.
"""

import errno
import inspect
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_utils import EvalPrediction, HubStrategy

from ..data.packing import IGNORE_INDEX, PackedStories
from ..data.streaming import PackedStream
from ..evaluation.token_classes import ARTICLE, CLASSES, TokenClassifier
from ..generation.native.attention import use_native_attention
from ..runs import checkpoints
from ..utils.errors import UserError, first_line
from .arguments import user_errors
from .callbacks import EMACallback, StoryProgress
from .lr_schedules import schedule, timed_schedule
from .optimizers import MuonWithAdamW, hidden_matrices
from .throughput import Speedometer, logged_seconds, rows_per_step
from .time_limit import TimeLimit


TRAINING_WEIGHTS = "training_weights.safetensors"


class ArticleWeights:
    """A collator that adds `loss_weights` `[batch, length]`: `weight` for each token of an article, 1 for the others.

    A class and no method of the trainer, since data loading processes that are spawned get it pickled.
    """

    def __init__(self, token_kinds: TokenClassifier, weight: float):
        self.token_kinds, self.weight = token_kinds, weight

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        articles = np.stack([self.token_kinds(row["input_ids"].tolist()) == ARTICLE for row in rows])
        weights = torch.where(torch.from_numpy(articles), self.weight, 1.0)
        return {**default_data_collator(rows), "loss_weights": weights}


class StoryTrainer(Trainer):
    """`Trainer` on packed rows.

    Each evaluation gives `eval_bits_per_byte`, which counts every byte of every validation story once and leaves out
    the end-of-text token, so that it compares across tokenizers; `eval_nats_per_token`, the loss per scored token,
    end of text included; and `eval_nats_per_token_{articles,function_words,other_words}`.

    Args:
        use_muon: Muon for the matrices inside the layers, AdamW for the rest.
        ema_decay: of an exponential moving average of the weights, which is then what is evaluated and saved.
        article_loss_weight: what the loss on articles is multiplied by in training; 1 is the standard objective.
        max_minutes: train for so long, whatever `max_steps` says, with a learning rate that falls by the clock.
        write_model_card: writes README.md in the run folder when the run is pushed; by default `Trainer`'s own card.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: PackedStories | PackedStream,
        eval_dataset: PackedStories,
        processing_class: PreTrainedTokenizerBase,
        callbacks: list | None = None,
        use_muon: bool = False,
        ema_decay: float | None = None,
        article_loss_weight: float = 1.0,
        max_minutes: float | None = None,
        write_model_card: Callable[["StoryTrainer"], None] | None = None,
    ):
        if args.device.type == "cpu":
            use_native_attention()
        self.use_muon = use_muon
        self.write_model_card = write_model_card
        self._token_kinds = TokenClassifier(processing_class)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=(
                default_data_collator
                if article_loss_weight == 1
                else ArticleWeights(self._token_kinds, article_loss_weight)
            ),
            callbacks=callbacks,
            compute_metrics=story_metrics(eval_dataset, processing_class.eos_token_id, self._token_kinds),
            preprocess_logits_for_metrics=token_losses,
        )
        self._takes_skip_logits = "skip_logits" in inspect.signature(model.forward).parameters
        self._random_state_of = None
        self._pushed: list[Path] = []  # in the push that is under way, or was the last
        self._not_pushed: list[Path] = []  # because that failed, and there is no later one in their place
        self.ema = None
        if ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise UserError(
                    "`ema_decay` needs whole weights on each process; leave it out with FSDP or DeepSpeed."
                )
            self.ema = EMACallback(ema_decay)
            self.add_callback(self.ema)
        if model.config.tie_word_embeddings:
            # Else `Trainer` warns that the head is missing when it loads the best checkpoint, which stores it once.
            model._keys_to_ignore_on_save = list(model._tied_weights_keys)
        self.time_limit = None
        if max_minutes is not None:
            self.time_limit = TimeLimit(max_minutes * 60)
            self.add_callback(self.time_limit)
        self.speed = Speedometer(train_dataset)
        self.add_callback(self.speed)
        self.remove_callback(ProgressCallback)
        if not args.disable_tqdm:
            self.add_callback(StoryProgress(self.time_limit))

    # What is trained

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights = inputs.pop("loss_weights", None)
        if weights is None or not model.training:
            if model.training and not return_outputs and self._takes_skip_logits:
                inputs = {**inputs, "skip_logits": True}
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        scored = (labels != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        loss = (token_losses(outputs.logits, labels) * weights).sum() / scored
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, *args, **kwargs):
        samples = super().get_batch_samples(*args, **kwargs)
        if self._random_state_of is not None:
            # A new iterator has drawn a seed, which that of the run that is resumed did long ago.
            self._load_rng_state(self._random_state_of)
            self._random_state_of = None
        return samples

    def _init_training_state(self, max_steps, *args, **kwargs):
        trained = super()._init_training_state(max_steps, *args, **kwargs)
        # A checkpoint brings the intervals of its run along; those of the recipe count.
        self.state.compute_steps(self.args, max_steps)
        if self.time_limit is not None:
            self.time_limit.elapsed = logged_seconds(self.state.log_history)
        if self.state.global_step and not self.state.num_input_tokens_seen:
            # A checkpoint of a release that counted nothing.
            steps = self.state.global_step * rows_per_step(self.args)
            self.state.num_input_tokens_seen = round(steps * self.train_dataset.tokens_per_row)
        return trained

    def _track_num_input_tokens(self, inputs) -> None:
        """Count the tokens without padding, in every session of a run, also where the arguments do not ask for it."""
        if self.args.include_num_input_tokens_seen != "no":
            return super()._track_num_input_tokens(inputs)
        # Rows, and not the tokens in them, which a GPU would have to be waited for.
        rows = len(inputs["input_ids"]) * self.args.world_size
        self.state.num_input_tokens_seen += round(rows * self.train_dataset.tokens_per_row)

    def _run_epoch(self, *args, **kwargs):
        out_of_time = self.time_limit is not None and self.time_limit.progress == 1
        if self.state.global_step >= self.state.max_steps or out_of_time:
            # `Trainer` looks only after a step, and would add one to a run that is resumed at its end.
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.device.type == "cpu" and not torch.isfinite(loss):
            # Elsewhere this look would make the device wait, and the loss is looked at when it is logged.
            self._stop_on_diverged_training()
        return loss

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.use_muon:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise UserError(
                    "`optimizer: muon` needs whole matrices on each process; take adamw with this launcher."
                )
            self.optimizer = self._muon_with_adamw(self.model if model is None else model)
        with user_errors("trainer"):
            return super().create_optimizer(model)

    def _muon_with_adamw(self, model) -> MuonWithAdamW:
        args = self.args
        matrices = hidden_matrices(model)
        decayed = self.get_decay_parameter_names(model)
        rest = [(name, weight) for name, weight in model.named_parameters() if name not in matrices]
        return MuonWithAdamW(
            list(matrices.values()),
            [
                {"params": [w for name, w in rest if name in decayed], "weight_decay": args.weight_decay},
                {"params": [w for name, w in rest if name not in decayed], "weight_decay": 0.0},
            ],
            lr=args.learning_rate,
            weight_decay=args.weight_decay,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
        )

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        factor = None
        if self.lr_scheduler is None and self.time_limit is not None:
            factor = timed_schedule(self.args, self.time_limit)
        elif self.lr_scheduler is None:
            factor = schedule(self.args, num_training_steps)
        if factor is not None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        with user_errors("trainer"):
            scheduler = super().create_scheduler(num_training_steps, optimizer)
            # Some of transformers' schedules divide by the steps after the warm-up, only once that is over.
            for rate in getattr(scheduler, "lr_lambdas", ()):
                rate(num_training_steps)
        return scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"The optimizer state in {checkpoint} is not of this recipe's optimizer ({first_line(error)}): go on "
                f"with the recipe of the run."
            ) from None
        if checkpoint is None or not isinstance(self.lr_scheduler, torch.optim.lr_scheduler.LambdaLR):
            return
        step, before = self.lr_scheduler.last_epoch, self.lr_scheduler.get_last_lr()[0]
        now = self.lr_scheduler.base_lrs[0] * self.lr_scheduler.lr_lambdas[0](step)
        if now > before * (1 + 1e-6) and before < self.lr_scheduler.base_lrs[0]:
            raise UserError(
                f"Going on from {checkpoint} with these settings would raise the learning rate again, from "
                f"{before:.2e} to {now:.2e}: keep the run's number of steps and schedule, or begin a run of its own "
                f"(only constant and warmup_stable_decay can be lengthened, before their decay)."
            )

    # What is measured

    def get_eval_dataloader(self, *args, **kwargs):
        # Of what is measured nothing may be left out: the bytes of all stories are what the loss is divided by.
        asked, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = asked

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self._averaged_weights(), self.speed.paused():
            metrics = super().evaluate(*args, **kwargs)
        if not all(math.isfinite(value) for key, value in metrics.items() if key.endswith(("loss", "per_byte"))):
            self._stop_on_diverged_training()
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and "learning_rate" in logs:
            if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
                self._stop_on_diverged_training()
            logs = {**logs, **self.speed.read(self.state.global_step)}
        if "train_runtime" not in logs:
            logs = {**logs, "seconds": self.speed.seconds()}
        super().log(logs, start_time)

    # What is kept

    def _save_checkpoint(self, model, trial) -> None:
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            self._stop_on_diverged_training()
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        with self.speed.paused():
            try:
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self._save_what_resuming_needs(folder)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    checkpoints.seal(folder)
                if self.args.push_to_hub:
                    self._push_whole_checkpoint(folder)
            except (OSError, RuntimeError, SafetensorError) as error:
                if not _disk_is_full(error):
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                raise UserError(
                    f"The disk is full: {folder} could not be written ({first_line(error)}). {self._way_back()}"
                ) from None
            finally:
                self.args.save_total_limit = limit
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                keep = {folder, *self._in_upload()} | ({Path(best)} if best else set())
                checkpoints.delete_oldest(folder.parent, limit, keep)

    # What is pushed

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing yet: `Trainer` calls this before the checkpoint is whole."""

    def _push_whole_checkpoint(self, folder: Path) -> None:
        """Push in the background as `Trainer` does, which leaves out what is saved while another push is under way,
        but here never a checkpoint where all belong on the Hub, nor, where one does, the last.
        """
        if not self.is_world_process_zero():
            return
        strategy = self.args.hub_strategy
        last = strategy != HubStrategy.EVERY_SAVE and self.control.should_training_stop
        if last or strategy == HubStrategy.ALL_CHECKPOINTS:
            self._finish_current_push()
        if strategy == HubStrategy.END or (self._in_upload() and not self.args.hub_always_push):
            return
        self._tell_failed_push()
        for code in folder.glob("*.py"):
            shutil.copy(code, self.args.output_dir)
        super()._push_from_checkpoint(str(folder))
        self._pushed.append(folder)
        if last:
            # At once, because `Trainer` may delete it before it waits.
            self._finish_current_push()

    def _in_upload(self) -> list[Path]:
        """Checkpoints that are being pushed, whose files must stay."""
        push = getattr(self, "push_in_progress", None)
        return [] if push is None or push.is_done() else self._pushed

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._tell_failed_push()

    def _tell_failed_push(self) -> None:
        """Say what went wrong in a push that has ended, of which `Trainer` says nothing."""
        push = getattr(self, "push_in_progress", None)
        if push is None or not push.is_done():
            return
        if errors := [error for job in push.jobs if (error := job.exception()) is not None]:
            names = ", ".join(folder.name for folder in self._pushed)
            print(f"note: {names} could not be pushed: {first_line(errors[0])}.", file=sys.stderr)
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            self._not_pushed = self._pushed[-1:] if errors else []
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            self._not_pushed += self._pushed if errors else []
        self._pushed, self.push_in_progress = [], None

    def push_to_hub(self, *args, **kwargs):
        again, self._not_pushed = self._not_pushed, []
        for folder in again:
            # Before the model is saved: a checkpoint is pushed by way of the run folder.
            if folder.is_dir():
                self._push_whole_checkpoint(folder)
                self._finish_current_push()
            else:
                self._not_pushed.append(folder)
        pushed = super().push_to_hub(*args, **kwargs)
        if self._not_pushed:
            names = ", ".join(folder.name for folder in self._not_pushed)
            raise RuntimeError(f"{names} did not reach the Hub")
        return pushed

    def create_model_card(self, *args, **kwargs) -> None:
        if self.write_model_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            self.write_model_card(self)

    def _save_what_resuming_needs(self, folder: Path) -> None:
        if self.ema is not None:
            weights = {name: weight.detach() for name, weight in self.model.named_parameters()}
            safetensors.torch.save_file(weights, folder / TRAINING_WEIGHTS)
        if isinstance(self.train_dataset, PackedStream):
            self.train_dataset.save_state(folder, self.state.global_step * rows_per_step(self.args))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if isinstance(self.train_dataset, PackedStream):
            self._random_state_of = resume_from_checkpoint
        if self.ema is None:
            return
        if not (Path(resume_from_checkpoint) / TRAINING_WEIGHTS).is_file():
            raise UserError(f"{resume_from_checkpoint} is of a run without `ema_decay`, which cannot begin midway.")
        self.ema.begin(self.model)
        weights = safetensors.torch.load_file(Path(resume_from_checkpoint) / TRAINING_WEIGHTS)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(weights[name])

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.ema is not None:
            self.ema.forget()

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        # `Trainer` turns the cache off in the configuration while it trains; what is saved is there to generate.
        config = self.accelerator.unwrap_model(self.model).config
        training_value, config.use_cache = config.use_cache, True
        try:
            with self._averaged_weights():
                super()._save(output_dir, state_dict)
        finally:
            config.use_cache = training_value

    @contextmanager
    def _averaged_weights(self):
        if self.ema is None:
            yield
            return
        self.ema.swap(self.model)
        try:
            yield
        finally:
            self.ema.swap(self.model)

    def _stop_on_diverged_training(self) -> None:
        raise UserError(
            f"The loss is no longer a finite number at step {self.state.global_step} (learning rate "
            f"{self._get_learning_rate():.1e}): lower --learning_rate, lengthen --warmup_steps or set "
            f"--max_grad_norm. {self._way_back()}"
        )

    def _way_back(self) -> str:
        last, _ = checkpoints.last_whole_checkpoint(Path(self.args.output_dir))
        if last is None:
            return "No checkpoint was written before that."
        return f"The last whole checkpoint is {last}; --resume_from_checkpoint goes on from it."


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token `[batch, length]` in nats, at the place of the token that is predicted."""
    losses = torch.zeros(labels.shape, dtype=torch.float, device=logits.device)
    losses[:, 1:] = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    ).view(labels.shape[0], -1)
    return losses


def story_metrics(rows: PackedStories, eos_token_id: int, token_kinds: TokenClassifier):
    """`compute_metrics` for a `Trainer` that evaluates on `rows` with [`token_losses`].

    It takes the losses of all rows at once, in a list of batches (`eval_do_concat_batches: false`) or batch by batch
    (`batch_eval_metrics: true`), where it gives the figures with the last.
    """
    kinds = None
    batches: list[tuple[np.ndarray, np.ndarray]] = []

    def compute(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        nonlocal kinds
        batches.append((_joined(prediction.predictions), _joined(prediction.label_ids)))
        if not compute_result:
            return {}
        losses, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        batches.clear()
        if kinds is None:
            kinds = np.stack([token_kinds(rows[row]["input_ids"].tolist()) for row in range(len(rows))])
        scored = labels != IGNORE_INDEX
        nats = losses[scored & (labels != eos_token_id)].sum(dtype=np.float64)
        by_kind = {
            f"nats_per_token_{name}": float(losses[scored & (kinds == kind)].mean(dtype=np.float64))
            for kind, name in enumerate(CLASSES)
            if (scored & (kinds == kind)).any()
        }
        return {
            "bits_per_byte": float(nats / math.log(2) / rows.bytes),
            "nats_per_token": float(losses[scored].mean(dtype=np.float64)),
            **by_kind,
        }

    return compute


def scored_kinds(rows: PackedStories, token_kinds: TokenClassifier) -> set[str]:
    """Kinds of words, of `token_classes.CLASSES`, that evaluations on `rows` have a figure for."""
    found: set[int] = set()
    for number in range(len(rows)):
        row = rows[number]
        found |= set(token_kinds(row["input_ids"].tolist())[row["labels"].numpy() != IGNORE_INDEX].tolist())
        if len(found) == len(CLASSES):
            break
    return {CLASSES[kind] for kind in found}


def _joined(values) -> np.ndarray:
    if isinstance(values, (list, tuple)):
        return np.concatenate([_joined(value) for value in values])
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def _disk_is_full(error: Exception) -> bool:
    text = str(error)
    # What torch and safetensors make of ENOSPC.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        sign in text for sign in ("No space left", "file write failed", "unexpected pos", "os error 28")
    )
