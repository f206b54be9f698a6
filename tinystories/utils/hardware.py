"""The hardware of this machine."""

import os
import platform

import torch


def computes_in_bf16(use_cpu: bool) -> bool:
    """Whether this machine has bfloat16 matrix instructions, with which bf16 autocast is faster than fp32."""
    if use_cpu:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_hardware() -> str:
    """The devices of this process in words, such as `1 x NVIDIA H100` or `x86_64 CPU, 2 cores (AMX)`."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    features = {"AVX-512 bf16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    available = ", ".join(name for name, supported in features.items() if supported)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores{f' ({available})' if available else ''}"
