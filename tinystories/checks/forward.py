"""Forward passes as in a trainer: under its autocast, with its own loss and its own attention."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from ..utils.errors import UserError


def model_of(trainer: Trainer) -> PreTrainedModel:
    """The model of a trainer. A PEFT model is not a `PreTrainedModel`, but has its attributes and methods."""
    model: Any = trainer.model
    return model


def embedding_count(model: PreTrainedModel) -> int:
    """The number of token ids that a model has embeddings for."""
    embeddings: Any = model.get_input_embeddings()
    return embeddings.num_embeddings


def attention_context(trainer: Trainer) -> AbstractContextManager:
    """The context in which `StoryTrainer` attends document by document; for any other trainer, one without effect."""
    return getattr(trainer, "attention_context", nullcontext)()


@contextmanager
def autocast(trainer: Trainer) -> Iterator[None]:
    with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
        yield


def _loss(trainer: Trainer, inputs: dict, num_items: Tensor | None = None) -> Tensor:
    loss: Any = trainer.compute_loss(model_of(trainer), inputs, num_items_in_batch=num_items)
    return loss


@contextmanager
def training_pass(trainer: Trainer, inputs: dict) -> Iterator[Tensor]:
    """Yield the loss of a training step, with its graph.

    The backward pass must run within the block, because gradient checkpointing computes the layers again.
    """
    with torch.enable_grad(), attention_context(trainer):
        with autocast(trainer):
            loss = _loss(trainer, inputs)
        yield loss


@contextmanager
def _forward_pass(trainer: Trainer, inputs: dict) -> Iterator[dict]:
    """Yield the inputs on the trainer's device, for a pass without gradients, with the same dropout in each pass.

    Raises:
        UserError: for token ids without an embedding. On a GPU, looking them up would fail with a device-side assert,
            after which the process can no longer use the GPU.
    """
    known, largest = embedding_count(model_of(trainer)), int(inputs["input_ids"].max())
    if largest >= known:
        raise UserError(f"the rows contain ids up to {largest:,}, but the model has {known:,} embeddings")
    torch.manual_seed(0)
    with torch.no_grad(), autocast(trainer):
        yield trainer._prepare_inputs(dict(inputs))


def training_loss(trainer: Trainer, inputs: dict, num_items: int | None = None) -> float:
    """The loss as a training step computes it, perhaps without storing logits; the same dropout in each call.

    Args:
        num_items: scored tokens of all accumulated batches.
    """
    items = None if num_items is None else torch.tensor(num_items, device=trainer.args.device)
    with _forward_pass(trainer, inputs) as prepared:
        return float(_loss(trainer, prepared, items))


def training_logits(trainer: Trainer, inputs: dict) -> Tensor:
    """Logits `[rows, length, vocabulary]` on the CPU, computed as in a training step, with the same dropout."""
    with _forward_pass(trainer, inputs) as prepared:
        _, outputs = trainer.compute_loss(model_of(trainer), prepared, return_outputs=True)
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
    return logits.float().cpu()


def masked_logits(trainer: Trainer, inputs: dict) -> Tensor:
    """As [`training_logits`], with the mask that transformers builds from `position_ids` for a plain `Trainer`."""
    inputs = {name: value for name, value in inputs.items() if name not in ("labels", "loss_weights")}
    with _forward_pass(trainer, inputs) as prepared:
        return model_of(trainer)(**prepared).logits.float().cpu()


def forward_and_backward(trainer: Trainer, inputs: dict) -> None:
    """Run a training step on these inputs without the optimizer; no gradient remains in the model."""
    weights = [weight for weight in model_of(trainer).train().parameters() if weight.requires_grad]
    with training_pass(trainer, trainer._prepare_inputs(dict(inputs))) as loss:
        torch.autograd.grad(loss, weights, allow_unused=True)


def evaluate_batch(trainer: Trainer, inputs: dict) -> None:
    """Compute what `Trainer.evaluate` computes for one batch."""
    model = model_of(trainer).eval()
    _, logits, labels = trainer.prediction_step(model, dict(inputs), prediction_loss_only=False)
    if trainer.preprocess_logits_for_metrics is not None and logits is not None and labels is not None:
        trainer.preprocess_logits_for_metrics(logits, labels)
