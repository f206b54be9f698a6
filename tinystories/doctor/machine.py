"""What a run needs of the machine: precision, attention kernel, memory, disk and time.

Design decisions:

- The memory of activations is counted, not guessed: one row goes forward, and what autograd keeps for the backward
  pass is added up. That holds for any architecture, precision and attention.
- The kernel is the one that torch itself would choose for these shapes, this precision and this mask.
- Time comes from real steps on a copy of the model, of which nothing stays behind. It leaves out evaluation, so it is
  an estimate.
"""

import copy
import shutil
import time
from datetime import timedelta
from pathlib import Path

import psutil
import torch
from torch.nn.attention import SDPBackend

from .batches import Rows
from .findings import Finding
from .settings import Run


GIB = 2**30
SECONDS_A_MEASUREMENT = 2.0
# Peak over what is counted: pieces that allocators cannot use again. With 1.5 the counts were within a sixth of the
# peaks measured on a CPU (3.4M parameters, 6 and 12 rows of 768, vocabularies of 400 to 4,096, bf16 and fp32).
WASTE = {"cpu": 1.5}
OTHER_WASTE = 1.2
KERNELS = {
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.MATH: "math",
}


def check_precision(args) -> Finding:
    """Whether the machine computes in bf16, and whether training does."""
    from ..speed import computes_in_bf16

    check = "precision"
    can = computes_in_bf16(args.device.type == "cpu")
    has = f"{args.device.type} has {'' if can else 'no '}bf16 instructions"
    if args.bf16 and can:
        return Finding(check, "ok", f"bf16 autocast; {has}")
    if args.bf16:
        return Finding(
            check,
            "note",
            f"bf16 autocast, but {has}",
            "It is emulated and slow: set bf16 to false, or in a recipe to auto.",
        )
    used = "fp16" if args.fp16 else "fp32"
    if can:
        return Finding(
            check, "note", f"{used}, although {has}", "bf16 is faster: set it to true, or in a recipe to auto."
        )
    return Finding(check, "ok", f"{used}; {has}")


def check_attention(model, args, rows: Rows) -> Finding:
    """The kernel that scaled dot-product attention would use for these rows."""
    check = "attention kernel"
    config = model.config
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != "sdpa":
        return Finding(check, "ok", f"the model attends by {implementation}, not through SDPA")
    length, device = rows.ids.shape[1], args.device
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else next(model.parameters()).dtype
    query = torch.empty(1, heads, length, head_dim, dtype=dtype, device=device)
    # A mask is made where stories are packed or a mask is given; else attention is plainly causal.
    masked = rows.marked or rows.inputs.get("attention_mask") is not None
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril() if masked else None
    dropout = getattr(config, "attention_dropout", 0.0) or 0.0
    chosen = SDPBackend(torch._fused_sdp_choice(query, query, query, mask, dropout, is_causal=not masked))
    shape = (
        f"{heads} heads of {head_dim}, rows of {length}, {str(dtype)[6:]}, "
        f"{'a mask for the stories' if rows.marked else 'a mask' if masked else 'no mask'}"
    )
    name = KERNELS.get(chosen, chosen.name.lower())
    if chosen == SDPBackend.MATH:
        bytes_needed = len(rows.ids) * heads * length**2 * query.element_size()
        why = " (attention dropout rules out the others here)" if dropout and device.type == "cpu" else ""
        return Finding(
            check,
            "note",
            f"{name}, for {shape}{why}: {bytes_needed / GIB:.2f} GiB of scores in each layer",
            "Shorter rows, no attention dropout, or another precision may allow a faster one.",
        )
    return Finding(check, "ok", f"{name}, for {shape}")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device; on a CPU, what this process may still take."""
    if device.type == "cuda":
        # What torch has cached is free for torch.
        return torch.cuda.mem_get_info(device)[0] + (
            torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        # A container may have less than the machine.
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        pass
    return free


def optimizer_bytes(model, args, optimizer: str | None) -> int:
    """Bytes of the optimizer's states: two numbers a weight for Adam and its like, one for Muon's matrices."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    numbers = 2 if "adam" in args.optim or optimizer == "muon" else 1
    size = sum(numbers * weight.numel() * weight.element_size() for weight in trained)
    if optimizer == "muon":
        from ..optimizers import hidden_matrices

        size -= sum(weight.numel() * weight.element_size() for weight in hidden_matrices(model).values())
    return size


def activation_bytes(trainer, rows: Rows) -> int:
    """Bytes that autograd keeps of one batch for the backward pass, from one row; and the logits' own gradients."""
    one = {
        name: value[:1] if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(rows.ids) else value
        for name, value in rows.inputs.items()
    }
    own = {weight.untyped_storage().data_ptr() for weight in trainer.model.parameters()}
    kept: dict[int, int] = {}
    # Kept alive, so that no storage is counted for another that took its place.
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    trainer.model.train()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
            loss, outputs = trainer.compute_loss(trainer.model, trainer._prepare_inputs(one), return_outputs=True)
    logits = outputs["logits"].numel() * 4
    del loss, outputs
    # In the backward pass the gradient of the logits stands beside them, once in fp32 and once in their own dtype.
    return (sum(kept.values()) + 2 * logits) * len(rows.ids)


def check_memory(trainer, rows: Rows, optimizer: str | None) -> Finding:
    model, args = trainer.model, trainer.args
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    gradients = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    states = optimizer_bytes(model, args, optimizer)
    # The last batch may be short, and the batch at hand is the size of any.
    activations = round(activation_bytes(trainer, rows) * WASTE.get(args.device.type, OTHER_WASTE))
    # The weights are there already.
    needed, free = gradients + states + activations, free_memory(args.device)
    evidence = (
        f"about {_gib(needed)} more ({_gib(gradients)} gradients, {_gib(states)} optimizer, {_gib(activations)} "
        f"activations and logits of {len(rows.ids)} rows of {rows.ids.shape[1]}; weights {_gib(weights)}); "
        f"{_gib(free)} free on {args.device}"
    )
    if needed > free and (args.gradient_checkpointing or args.auto_find_batch_size):
        return Finding("memory", "note", evidence, "Too much, but gradient checkpointing or another batch may do.")
    if needed > free:
        return Finding(
            "memory",
            "fault",
            evidence,
            "Lower per_device_train_batch_size and raise gradient_accumulation_steps by as much.",
        )
    if needed > 0.8 * free:
        return Finding("memory", "note", evidence, "It is tight: a smaller per_device_train_batch_size is safer.")
    return Finding("memory", "ok", evidence)


def check_disk(model, args, optimizer: str | None, steps: int | None, output_dir: str | Path) -> Finding:
    check = "disk"
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if getattr(model.config, "tie_word_embeddings", False):
        head = model.get_output_embeddings()
        shared = head is not None and head.weight is not model.get_input_embeddings().weight
        weights -= head.weight.numel() * head.weight.element_size() if shared else 0
    one = weights + (0 if args.save_only_model else optimizer_bytes(model, args, optimizer))
    kind = getattr(args.save_strategy, "value", args.save_strategy)
    if kind == "no":
        count, how = 0, "no checkpoints"
    elif args.save_total_limit:
        # A new one is whole before an old one goes, and the best one is kept beside the last ones.
        count = args.save_total_limit + 1
        how = f"{args.save_total_limit} checkpoints kept, and one being written"
    elif kind == "steps" and steps:
        every = args.save_steps if args.save_steps >= 1 else max(1, round(args.save_steps * steps))
        count = int(steps // every) + 1
        how = f"a checkpoint every {every:g} of {steps:,} steps, none deleted"
    elif kind == "epoch":
        count = int(args.num_train_epochs) + 1
        how = "a checkpoint each epoch, none deleted"
    else:
        return Finding(check, "cannot tell", "how many checkpoints will be kept depends on the length of the run")
    place = Path(output_dir).absolute()
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    needed, free = count * one + weights, shutil.disk_usage(place).free
    evidence = f"{_gib(needed)} ({how}, {_gib(one)} each, and the model); {_gib(free)} free in {place}"
    if needed > free:
        return Finding(check, "fault", evidence, "Set a save_total_limit, or an output_dir on another disk.")
    if needed > 0.5 * free:
        return Finding(check, "note", evidence, "It is tight: set a save_total_limit.")
    return Finding(check, "ok", evidence)


def measure_step(trainer, rows: Rows) -> float:
    """Seconds of one optimizer step, from real ones on a copy of the model with as many rows as fit the time."""
    args, total = trainer.args, len(rows.ids)
    model = copy.deepcopy(trainer.model).train()
    optimizer = _fresh_optimizer(trainer, model)

    def seconds(count: int) -> float:
        inputs = {
            name: value[:count] if isinstance(value, torch.Tensor) and value.ndim and len(value) == total else value
            for name, value in rows.inputs.items()
        }
        prepared = trainer._prepare_inputs(inputs)
        _wait(args.device)
        began = time.perf_counter()
        with torch.enable_grad():
            with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, prepared)
            loss.backward()
        _wait(args.device)
        return time.perf_counter() - began

    seconds(1)
    count = max(1, min(total, int(SECONDS_A_MEASUREMENT / 3 / max(1e-6, seconds(1)))))
    batch = min(seconds(count) for _ in range(3)) * total / count
    update = []
    for _ in range(2):
        _wait(args.device)
        began = time.perf_counter()
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        _wait(args.device)
        update.append(time.perf_counter() - began)
    return batch * args.gradient_accumulation_steps + min(update)


def _fresh_optimizer(trainer, model) -> torch.optim.Optimizer:
    """What the trainer would make for this model, without its keeping it."""
    kept = trainer.optimizer
    trainer.optimizer = None
    try:
        return trainer.create_optimizer(model)
    finally:
        trainer.optimizer = kept


def check_time(trainer, rows: Rows, run: Run) -> Finding:
    """How long the run will take, from a few real steps."""
    check = "time"
    second = measure_step(trainer, rows)
    measured = f"{second:.2f} s a step, about {run.tokens_per_step / second:,.0f} tokens a second, as measured here"
    if run.steps is None:
        return Finding(check, "cannot tell", f"{measured}; how many steps there will be is not known")
    whole = timedelta(seconds=round(run.steps * second))
    return Finding(check, "ok", f"an estimate: {whole} for {run.steps:,} steps ({measured}); evaluation not counted")


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
