"""From a recipe to a run folder, through transformers' own `Trainer`.

What is added to it: packed rows, bits per byte at each evaluation, a progress bar that counts story tokens, and a
folder that any transformers user can load. The objective is the model's own standard cross-entropy; nothing here
touches the labels.
"""

import math
import shutil
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tokenization import train_bpe

from .corpus import Corpus, load_corpus
from .decoding import check_preset, load_tokenizer, preset_config, tell_story
from .errors import UserError, first_line
from .folders import output_folder
from .optimizers import MuonWithAdamW, hidden_matrices
from .packing import IGNORE_INDEX, PackedStories, tokenize_stories
from .plots import plot_loss
from .recipe import Recipe, save_recipe


# What every recipe starts from; sources of the figures are named where the recipes state them.
TRAINER_DEFAULTS = {
    "output_dir": "runs/story",
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine_warmup_with_min_lr",
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
    "report_to": "none",
}


def train(recipe: Recipe) -> Path:
    """Train as the recipe says and return the run folder.

    Raises:
        UserError: for a setting, corpus or folder that training cannot go on with.
    """
    arguments = training_arguments(recipe)
    output_dir = output_folder(arguments.output_dir)
    checkpoint = _checkpoint_to_resume(arguments, recipe)
    check_preset(recipe.preset)
    with _blaming("model"):
        TinyLlamaConfig(**recipe.model)
    set_seed(arguments.seed)

    with arguments.main_process_first(desc="reading the corpus"):
        corpus = load_corpus(
            recipe.corpus,
            validation=recipe.validation_corpus,
            text_column=recipe.text_column,
            max_stories=recipe.max_stories,
            max_validation_stories=recipe.max_validation_stories,
            num_proc=recipe.num_proc,
        )
    with arguments.main_process_first(desc="tokenizer"):
        # The other processes of a machine read what its first one has written.
        written = checkpoint is not None or arguments.local_process_index > 0
        tokenizer = load_tokenizer(checkpoint or str(output_dir)) if written else _tokenizer(recipe, corpus)
        if arguments.local_process_index == 0:
            if checkpoint is None:
                # Only now, when nothing that the user gave can be refused any more.
                for folder in output_dir.glob("checkpoint-*"):
                    shutil.rmtree(folder)
            tokenizer.save_pretrained(output_dir)
            save_recipe(recipe, output_dir / "recipe.yaml")
    with arguments.main_process_first(desc="tokenising"):
        train_rows, validation_rows = pack_corpus(corpus, tokenizer, recipe, arguments.seed)

    model = TinyLlamaForCausalLM(model_config(recipe, tokenizer))
    model.generation_config = preset_config(recipe.preset, tokenizer, max_new_tokens=recipe.max_length * 3 // 4)
    trainer = StoryTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=tokenizer,
        use_muon=recipe.optimizer == "muon",
    )
    if arguments.process_index == 0:
        print(_summary(corpus, tokenizer, model, train_rows, validation_rows, arguments))
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("eval", metrics)
    if arguments.process_index == 0:
        plot_loss(trainer.state.log_history, output_dir / "loss.png")
        print(
            f"\nValidation: {metrics['eval_bits_per_byte']:.4f} bits per byte "
            f"({metrics['eval_nats_per_token']:.3f} nats a token) on {len(corpus.validation):,} held-out stories of "
            f"{corpus.name}.\nTraining took {timedelta(seconds=round(trained.metrics['train_runtime']))}, "
            f"with {trainer.state.global_step:,} steps in all."
        )
        for number, prompt in enumerate(recipe.prompts):
            print(f"\n--- story {number + 1}")
            print(tell_story(trainer.model, tokenizer, prompt, preset=recipe.preset, seed=arguments.seed + number))
        print(f'\nThe model is in {output_dir}. Next: tinystories generate {output_dir} "Once upon a time"')
    return output_dir


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """transformers' arguments for a recipe, with `bf16: auto` decided for this machine."""
    settings = {**TRAINER_DEFAULTS, **recipe.trainer}
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        settings.setdefault("use_cpu", True)
    settings["bf16"] = _wants_bf16(settings)
    settings.setdefault("save_strategy", settings["eval_strategy"])
    settings.setdefault("save_steps", settings["eval_steps"])
    with _blaming("trainer"):
        return TrainingArguments(**settings)


def rows_per_step(arguments: TrainingArguments) -> int:
    """Rows that one optimizer step sees, over all processes."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


def computes_in_bf16(use_cpu: bool) -> bool:
    """Whether this machine has instructions for bfloat16 products, so that autocast gains by them."""
    if use_cpu:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> TinyLlamaConfig:
    """The recipe's `model` section, completed by what follows from the tokenizer and the row length."""
    with _blaming("model"):
        return TinyLlamaConfig(
            **recipe.model,
            vocab_size=len(tokenizer),
            max_position_embeddings=recipe.max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


@contextmanager
def _blaming(section: str):
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"The recipe's `{section}` section does not work: {first_line(error)}.") from None


def pack_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, seed: int
) -> tuple[PackedStories, PackedStories]:
    """Rows to train on and rows to validate on. In both, each token of each story is scored once."""
    train_stories, validation_stories = (
        tokenize_stories(stories, tokenizer, f"{corpus.fingerprint}-{split}", recipe.num_proc)
        for split, stories in (("train", corpus.train), ("validation", corpus.validation))
    )
    context = recipe.max_length
    shape = {"context": context, "pad_token_id": tokenizer.pad_token_id, "seed": seed}
    train_rows = PackedStories(train_stories, length=recipe.row_length, overlap=context // 8, **shape)
    return train_rows, PackedStories(validation_stories, length=train_rows.length, overlap=context // 2, **shape)


class StoryTrainer(Trainer):
    """`Trainer` on packed rows, with bits per byte at each evaluation.

    `eval_bits_per_byte` counts every byte of every validation story once and leaves out the end-of-text token, so that
    it compares across tokenizers; `eval_nats_per_token` is the loss per scored token, end of text included.
    """

    def __init__(
        self,
        *,
        model,
        args,
        train_dataset: PackedStories,
        eval_dataset: PackedStories,
        processing_class,
        use_muon: bool = False,
    ):
        self.use_muon = use_muon
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=default_data_collator,
            compute_metrics=bits_per_byte_metrics(eval_dataset, processing_class.eos_token_id),
            preprocess_logits_for_metrics=token_losses,
        )
        if model.config.tie_word_embeddings:
            # Else `Trainer` warns that the head is missing when it loads the best checkpoint, which stores it once.
            model._keys_to_ignore_on_save = list(model._tied_weights_keys)
        self.remove_callback(ProgressCallback)
        if not args.disable_tqdm:
            self.add_callback(StoryProgress(train_dataset.tokens / len(train_dataset)))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.use_muon:
            self.optimizer = self._muon_with_adamw(self.model if model is None else model)
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

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        # `Trainer` turns the cache off in the configuration while it trains; what is saved is there to generate.
        config = self.accelerator.unwrap_model(self.model).config
        training_value, config.use_cache = config.use_cache, True
        try:
            super()._save(output_dir, state_dict)
        finally:
            config.use_cache = training_value


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token `[batch, length]` in nats, at the place of the token that is predicted."""
    losses = torch.zeros(labels.shape, dtype=torch.float, device=logits.device)
    losses[:, 1:] = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    ).view(labels.shape[0], -1)
    return losses


def bits_per_byte_metrics(rows: PackedStories, eos_token_id: int):
    """`compute_metrics` for a `Trainer` that evaluates on `rows` with [`token_losses`]."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        losses, labels = prediction.predictions, prediction.label_ids
        scored = labels != IGNORE_INDEX
        nats = losses[scored & (labels != eos_token_id)].sum(dtype=np.float64)
        return {
            "bits_per_byte": float(nats / math.log(2) / rows.bytes),
            "nats_per_token": float(losses[scored].mean(dtype=np.float64)),
        }

    return compute


class StoryProgress(ProgressCallback):
    """A bar with loss, learning rate, tokens per second and time left; a line for each evaluation.

    Args:
        tokens_per_row: mean number of story tokens in a row, padding not counted.
    """

    def __init__(self, tokens_per_row: float):
        super().__init__()
        self.tokens_per_row = tokens_per_row

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.tokens_per_step = rows_per_step(args) * self.tokens_per_row
        self._start_measuring(state)
        if self.training_bar is not None:
            # A log file keeps every redrawing of the bar as a line, so there it is drawn seldom.
            self.training_bar.mininterval = 0.5 if sys.stderr.isatty() else 30.0
            self.training_bar.set_description("Training")

    def _start_measuring(self, state):
        self._measured_from = state.global_step, time.perf_counter()

    def on_prediction_step(self, args, state, control, **kwargs):
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, **kwargs)

    def on_evaluate(self, args, state, control, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        self._start_measuring(state)

    def on_save(self, args, state, control, **kwargs):
        self._start_measuring(state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        if "loss" in logs:
            step, began = self._measured_from
            speed = (state.global_step - step) * self.tokens_per_step / (time.perf_counter() - began)
            self._start_measuring(state)
            self.training_bar.set_postfix_str(
                f"loss {float(logs['loss']):.3f}, lr {float(logs['learning_rate']):.1e}, {speed:,.0f} tokens/s",
                refresh=False,
            )
            self.training_bar.write(
                f"step {state.global_step:>6}/{state.max_steps}  loss {float(logs['loss']):.4f}  "
                f"lr {float(logs['learning_rate']):.2e}  {speed:,.0f} tokens/s"
            )
        elif "eval_bits_per_byte" in logs:
            self.training_bar.write(
                f"step {state.global_step:>6}/{state.max_steps}  validation: "
                f"{logs['eval_bits_per_byte']:.4f} bits per byte, {logs['eval_nats_per_token']:.3f} nats a token"
            )


def _tokenizer(recipe: Recipe, corpus: Corpus) -> PreTrainedTokenizerBase:
    if recipe.tokenizer is None:
        texts = (batch["text"] for batch in corpus.train.iter(batch_size=1_000))
        return train_bpe(texts, recipe.vocab_size, model_max_length=recipe.max_length, total=len(corpus.train))
    tokenizer = load_tokenizer(recipe.tokenizer)
    missing = [name for name in ("bos_token", "eos_token", "pad_token") if getattr(tokenizer, name) is None]
    if missing:
        raise UserError(
            f"The tokenizer {recipe.tokenizer} has no {' and no '.join(missing)}, which training needs; "
            f"`tinystories tokenizer` makes one that has."
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"The tokenizer {recipe.tokenizer} pads with its end-of-text token, so that the end of a story could not "
            f"be told from padding; give it a pad token of its own."
        )
    tokenizer.model_max_length = recipe.max_length
    return tokenizer


def _checkpoint_to_resume(arguments: TrainingArguments, recipe: Recipe) -> str | None:
    output_dir = Path(arguments.output_dir)
    last = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
    wanted = arguments.resume_from_checkpoint
    if wanted in (None, "false"):
        if last and not recipe.overwrite_output_dir:
            raise UserError(
                f"{output_dir} holds checkpoints of an earlier run: go on with --resume_from_checkpoint, choose "
                f"another --output_dir, or start again with --overwrite_output_dir."
            )
        return None
    if wanted == "true":
        if last is None:
            raise UserError(f"{output_dir} has no checkpoint to resume from; leave out --resume_from_checkpoint.")
        return last
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise UserError(f"{wanted} is not a checkpoint folder (it has no trainer_state.json).")
    return wanted


def _wants_bf16(settings: dict) -> bool:
    asked = settings["bf16"]
    if asked == "auto":
        return computes_in_bf16(settings.get("use_cpu", False)) and not settings.get("fp16", False)
    if isinstance(asked, bool):
        return asked
    raise UserError(f"`trainer.bf16` must be true, false or auto, but is {asked!r}.")


def _summary(corpus, tokenizer, model, train_rows: PackedStories, validation_rows: PackedStories, arguments) -> str:
    batch = rows_per_step(arguments)
    return "\n".join(
        (
            f"corpus      {corpus.name}: {len(corpus.train):,} stories to train on, "
            f"{len(corpus.validation):,} held out",
            f"tokens      {train_rows.tokens:,} in {len(train_rows):,} rows of {train_rows.length} "
            f"({train_rows.padding:.2%} padding), {train_rows.bytes / train_rows.scored:.2f} bytes a token",
            f"vocabulary  {len(tokenizer):,}",
            f"model       {model.num_parameters():,} parameters",
            f"batch       {batch} rows, {round(batch * train_rows.tokens / len(train_rows)):,} tokens",
            f"precision   {'bf16 autocast, fp32 weights' if arguments.bf16 else 'fp32'} on {arguments.device}",
        )
    )
