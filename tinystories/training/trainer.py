"""transformers' `Trainer` on packed stories.

- The loss is the model's own; bits per byte and the loss per word class are additional metrics.
- No older checkpoint is deleted before a new one is complete (`runs/checkpoints.py`).
- With an exponential moving average (EMA), `model.safetensors` holds the average, which was evaluated, and
  `training_weights.safetensors` the weights from which training resumes.
- Non-finite weights are never saved, so training can resume from the last checkpoint.
"""

import errno
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from ..data.packing import IGNORE_INDEX, PackedStories
from ..data.streaming import PackedStream
from ..evaluation.coherence import Probe
from ..evaluation.token_classes import ARTICLE, TokenClassifier
from ..runs import checkpoints
from ..runs.run_folder import checkpoint_folder
from ..utils.errors import UserError, first_line
from .arguments import user_errors
from .callbacks import EMACallback, TrainingProgressCallback
from .coherence import probe_metrics
from .hub_push import CheckpointPushTrainer
from .interrupt import InterruptCallback
from .kernels.head_loss import head_loss, supports_head_loss
from .lr_schedules import lr_lambda, timed_lr_lambda
from .metrics import PackedMetrics, token_losses
from .optimizers import BatchedMuon, MuonWithAdamW, hidden_matrices
from .packed_attention import packed_attention
from .throughput import ThroughputCallback, logged_seconds, rows_per_step
from .time_limit import TimeLimitCallback


TRAINING_WEIGHTS = "training_weights.safetensors"
OLD_METRICS = ("eval_old_bits_per_byte", "eval_old_nats_per_token")


class ArticleWeightCollator:
    """Adds `loss_weights` `[batch, length]`: `weight` for each token of an article, 1 for the others.

    It is a class and not a closure because spawned data loader workers unpickle it.
    """

    def __init__(self, classify: TokenClassifier, weight: float):
        self.classify, self.weight = classify, weight

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        articles = np.stack([self.classify(row["input_ids"].tolist()) == ARTICLE for row in rows])
        weights = torch.where(torch.from_numpy(articles), self.weight, 1.0)
        return {**default_data_collator(rows), "loss_weights": weights}


class StoryTrainer(CheckpointPushTrainer):
    """`Trainer` on packed rows.

    Each evaluation returns `eval_bits_per_byte`, which counts every byte of every validation story once and excludes
    the EOS token, so that it is comparable across tokenizers; `eval_nats_per_token`, the loss per scored token,
    including EOS; and `eval_nats_per_token_{articles,function_words,other_words}`.

    Args:
        use_muon: Muon for the matrices of the layers, AdamW for the rest.
        ema_decay: of an exponential moving average of the weights, which is then evaluated and saved.
        article_loss_weight: weight of articles in the training loss; 1 is the standard objective.
        max_minutes: train for this many minutes, regardless of `max_steps`; the learning rate schedule follows
            elapsed time.
        fine_tunes: whether the model was trained before; the checks before training need it.
        old_rows: of stories that the model was trained on before; each evaluation also returns
            `eval_old_bits_per_byte` and `eval_old_nats_per_token`.
        probes: returns probes of validation stories; each evaluation also returns the accuracy on each of their
            kinds, such as `eval_name_accuracy`.
        write_model_card: writes README.md to the run folder when the run is pushed; by default `Trainer`'s own card.
    """

    model: PreTrainedModel
    train_dataset: PackedStories | PackedStream
    eval_dataset: PackedStories
    processing_class: PreTrainedTokenizerBase

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
        fine_tunes: bool = False,
        old_rows: PackedStories | None = None,
        probes: Callable[[], Sequence[Probe]] | None = None,
        write_model_card: Callable[["StoryTrainer"], None] | None = None,
    ):
        self.use_muon = use_muon
        self.fine_tunes = fine_tunes
        self.old_rows = old_rows
        self.probes = probes
        self.write_model_card = write_model_card
        classify = TokenClassifier(processing_class)
        eos = processing_class.eos_token_id
        self._old_metrics = None if old_rows is None else PackedMetrics(old_rows, eos, classify)
        weighted = article_loss_weight != 1
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=ArticleWeightCollator(classify, article_loss_weight) if weighted else default_data_collator,
            callbacks=callbacks,
            compute_metrics=PackedMetrics(eval_dataset, eos, classify),
            preprocess_logits_for_metrics=token_losses,
        )
        if (use_muon or ema_decay is not None) and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            name = "optimizer: muon" if use_muon else "ema_decay"
            raise UserError(f"`{name}` needs unsharded weights: remove it, or train without FSDP and DeepSpeed.")
        # Outside of the forward pass, FSDP and DeepSpeed keep only a shard of the head's weight in each process.
        self._uses_head_loss = (
            supports_head_loss(_inner_model(model))
            and self.label_smoother is None
            and args.n_gpu <= 1
            and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        )
        self._head_loss = head_loss
        if args.torch_compile:
            backend = args.torch_compile_backend or "inductor"
            self._head_loss = torch.compile(head_loss, backend=backend, mode=args.torch_compile_mode)
        if model.config.tie_word_embeddings:
            # Otherwise `Trainer` warns that the head is missing in the best checkpoint, which stores it once.
            model._keys_to_ignore_on_save = list(model._tied_weights_keys)
        self._resumed_random_state: str | None = None
        self.ema = None if ema_decay is None else EMACallback(ema_decay)
        self.time_limit = None if max_minutes is None else TimeLimitCallback(max_minutes * 60)
        self.throughput = ThroughputCallback(train_dataset)
        self.interrupt = InterruptCallback()
        progress = None if args.disable_tqdm else TrainingProgressCallback(self.time_limit)
        self.remove_callback(DEFAULT_PROGRESS_CALLBACK)
        for callback in (self.ema, self.time_limit, self.throughput, self.interrupt, progress):
            if callback is not None:
                self.add_callback(callback)

    # Training

    def train(self, *args, **kwargs):
        """As `Trainer.train`. Ctrl-C saves a checkpoint before it raises KeyboardInterrupt."""
        with self.interrupt.handling(self.args.world_size):
            return super().train(*args, **kwargs)

    def attention_context(self) -> AbstractContextManager[None]:
        """A context in which the model attends document by document, where [`packed_attention`] supports it."""
        return packed_attention(self.model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights = inputs.pop("loss_weights", None)
        uses_head_loss = self._uses_head_loss and not return_outputs
        with self.attention_context():
            if not model.training or (weights is None and not uses_head_loss):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = inputs["labels"]
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
            if uses_head_loss:
                none = torch.empty(0, dtype=torch.long, device=labels.device)
                outputs = model(**inputs, output_hidden_states=True, logits_to_keep=none)
                # accelerate's autocast ends with the model's forward.
                with self.accelerator.autocast():
                    head = self.model.get_output_embeddings()
                    total = self._head_loss(outputs.hidden_states[-1], head, labels, weights)
            else:
                outputs = model(**inputs)
                total = (token_losses(outputs.logits, labels) * weights).sum()
        scored = (labels[:, 1:] != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / scored
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, *args, **kwargs):
        samples = super().get_batch_samples(*args, **kwargs)
        if self._resumed_random_state is not None:
            # The new data loader iterator has drawn a seed, as the one of the original run did before the checkpoint.
            self._load_rng_state(self._resumed_random_state)
            self._resumed_random_state = None
        return samples

    def _init_training_state(self, max_steps, *args, **kwargs):
        initialized = super()._init_training_state(max_steps, *args, **kwargs)
        # Use the intervals of the recipe instead of those in the state of the checkpoint.
        self.state.compute_steps(self.args, max_steps)
        if self.time_limit is not None:
            self.time_limit.elapsed = logged_seconds(self.state.log_history)
        if self.state.global_step and not self.state.num_input_tokens_seen:
            # Checkpoints of earlier releases do not have this number.
            self.state.num_input_tokens_seen = self._tokens(self.state.global_step * rows_per_step(self.args))
        return initialized

    def _track_num_input_tokens(self, inputs) -> None:
        """Count tokens without padding also where `include_num_input_tokens_seen` is "no"."""
        if self.args.include_num_input_tokens_seen != "no":
            return super()._track_num_input_tokens(inputs)
        # Estimated from the rows, since counting their tokens would wait for the GPU.
        self.state.num_input_tokens_seen += self._tokens(len(inputs["input_ids"]) * self.args.world_size)

    def _tokens(self, rows: int) -> int:
        return round(rows * self.train_dataset.tokens_per_row)

    def _run_epoch(self, *args, **kwargs):
        out_of_time = self.time_limit is not None and self.time_limit.progress == 1
        if self.state.global_step >= self.state.max_steps or out_of_time:
            # `Trainer` would make one more step when a finished run is resumed.
            self.control.should_training_stop = True
            return
        if isinstance(self.train_dataset, PackedStories):
            # With several processes, and when it skips batches to resume, accelerate informs only the sampler.
            self.train_dataset.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        if self.interrupt.requested:
            # `Trainer` would load the best checkpoint, and delete the last one if `save_total_limit` is 1.
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            self._finish_current_push()
            raise KeyboardInterrupt
        return super()._finalize_training(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        # Also for the backward pass, in which gradient checkpointing runs the layers again.
        with self.attention_context():
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.device.type == "cpu" and not torch.isfinite(loss):
            # On a GPU this would synchronize in every step, so there only the logged loss is tested.
            self._stop_on_divergence()
        return loss

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.use_muon:
            self.optimizer = self._muon_with_adamw(self.model if model is None else model)
        with user_errors("trainer"):
            return super().create_optimizer(model)

    def _muon_with_adamw(self, model: PreTrainedModel) -> MuonWithAdamW:
        args = self.args
        lr, weight_decay, betas = args.learning_rate, args.weight_decay, (args.adam_beta1, args.adam_beta2)
        matrices = hidden_matrices(model)
        decayed = self.get_decay_parameter_names(model)
        rest = {name: weight for name, weight in model.named_parameters() if name not in matrices}
        groups = [
            {"params": [w for name, w in rest.items() if name in decayed], "weight_decay": weight_decay},
            {"params": [w for name, w in rest.items() if name not in decayed], "weight_decay": 0.0},
        ]
        return MuonWithAdamW(
            BatchedMuon(matrices.values(), lr=lr, weight_decay=weight_decay),
            torch.optim.AdamW(groups, lr=lr, betas=betas, eps=args.adam_epsilon, fused=True),
        )

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            limit = self.time_limit
            factor = lr_lambda(self.args, num_training_steps) if limit is None else timed_lr_lambda(self.args, limit)
            if factor is not None:
                self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), factor)
                self._created_lr_scheduler = True
        with user_errors("trainer"):
            scheduler = super().create_scheduler(num_training_steps, optimizer)
            # Some schedules of transformers divide by zero, but only after the warm-up.
            for factor in getattr(scheduler, "lr_lambdas", ()):
                factor(num_training_steps)
        return scheduler

    # Evaluation and logs

    def get_eval_dataloader(self, *args, **kwargs):
        # All rows, since the loss is divided by the bytes of all stories.
        with _attributes(self.args, dataloader_drop_last=False):
            return super().get_eval_dataloader(*args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self._averaged_weights(), self.throughput.paused():
            metrics = super().evaluate(*args, **kwargs)
        if not all(math.isfinite(value) for key, value in metrics.items() if key.endswith(("loss", "per_byte"))):
            self._stop_on_divergence()
        return metrics

    def evaluation_loop(self, dataloader, *args, **kwargs):
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if dataloader.dataset is self.old_rows:
            return output
        # What follows is in the same entry of the log.
        if self.probes is not None and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            output.metrics.update(probe_metrics(self.model, self.processing_class, self.probes()))
        if self.old_rows is None:
            return output
        with _attributes(self, compute_metrics=self._old_metrics):
            old = super().evaluation_loop(
                self.get_eval_dataloader(self.old_rows), description="Evaluation", metric_key_prefix="eval_old"
            )
        output.metrics.update({name: old.metrics[name] for name in OLD_METRICS})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and "learning_rate" in logs:
            if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
                self._stop_on_divergence()
            logs = {**logs, **self.throughput.read(self.state.global_step)}
        if "train_runtime" not in logs:
            logs = {**logs, "seconds": self.throughput.seconds()}
        super().log(logs, start_time)

    # Checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            self._stop_on_divergence()
        folder = checkpoint_folder(Path(self._get_output_dir(trial=trial)), self.state.global_step)
        with self.throughput.paused():
            try:
                with _attributes(self.args, save_total_limit=None):
                    super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self._save_extra_state(folder)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    checkpoints.write_manifest(folder)
                if self.args.push_to_hub:
                    self.push_checkpoint(folder)
            except (OSError, RuntimeError, SafetensorError) as error:
                if not _disk_is_full(error):
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                raise UserError(
                    f"The disk is full: {folder} could not be written ({first_line(error)}). "
                    f"{checkpoints.resume_hint(folder.parent)}"
                ) from None
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                keep = {folder, *self.checkpoints_in_push(), *([Path(best)] if best else [])}
                checkpoints.delete_oldest(folder.parent, self.args.save_total_limit, keep)

    def _save_extra_state(self, folder: Path) -> None:
        if self.ema is not None:
            weights = {name: weight.detach() for name, weight in self.model.named_parameters()}
            safetensors.torch.save_file(weights, folder / TRAINING_WEIGHTS)
        if isinstance(self.train_dataset, PackedStream):
            self.train_dataset.save_state(folder, self.state.global_step * rows_per_step(self.args))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if isinstance(self.train_dataset, PackedStream):
            self._resumed_random_state = resume_from_checkpoint
        if self.ema is not None:
            path = Path(resume_from_checkpoint) / TRAINING_WEIGHTS
            if not path.is_file():
                raise UserError(
                    f"{resume_from_checkpoint} is from a run without `ema_decay`: remove it, or start a new run."
                )
            self.ema.begin(self.model)
            self.model.load_state_dict(safetensors.torch.load_file(path), strict=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"The optimizer state in {checkpoint} does not match the optimizer of this recipe "
                f"({first_line(error)}): resume with the recipe of the run."
            ) from None
        scheduler = self.lr_scheduler
        if checkpoint is None or not isinstance(scheduler, LambdaLR):
            return
        base, before = scheduler.base_lrs[0], scheduler.get_last_lr()[0]
        now = base * scheduler.lr_lambdas[0](scheduler.last_epoch)
        if now > before * (1 + 1e-6) and before < base:
            raise UserError(
                f"Resuming from {checkpoint} with these settings would raise the learning rate again, from "
                f"{before:.2e} to {now:.2e}: keep the number of steps and the schedule of the run, or start a new run "
                f"(only constant and warmup_stable_decay can be extended, and only before their decay)."
            )

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.ema is not None:
            self.ema.forget()

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        # `Trainer` disables the cache during training, but a saved model is for generation.
        model = self.accelerator.unwrap_model(self.model)
        with _attributes(model.config, use_cache=True), self._averaged_weights():
            super()._save(output_dir, state_dict)
        if _inner_model(model) is not model and self.args.should_save:
            # peft saves only the adapter, and a model card of its own.
            folder = Path(output_dir or str(self.args.output_dir))
            (folder / "README.md").unlink(missing_ok=True)
            _inner_model(model).generation_config.save_pretrained(folder)

    def create_model_card(self, *args, **kwargs) -> None:
        if self.write_model_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            self.write_model_card(self)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        if self.ema is None:
            yield
            return
        self.ema.swap(self.model)
        try:
            yield
        finally:
            self.ema.swap(self.model)

    def _stop_on_divergence(self) -> None:
        raise UserError(
            f"The loss is not finite at step {self.state.global_step:,} (learning rate "
            f"{self._get_learning_rate():.1e}): lower --learning_rate, lengthen --warmup_steps or set "
            f"--max_grad_norm. {checkpoints.resume_hint(Path(self._get_output_dir(trial=None)))}"
        )


def _inner_model(model: Any) -> PreTrainedModel:
    """The model in which `peft` trains an adapter; any other model is returned unchanged."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes for the duration of the block."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _disk_is_full(error: Exception) -> bool:
    # torch and safetensors report ENOSPC with the last three.
    signs = ("No space left", "file write failed", "unexpected pos", "os error 28")
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error) for sign in signs)
