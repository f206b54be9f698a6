"""What the figures were measured on, in one line."""

import os
import platform

import torch
import transformers


def describe_machine() -> str:
    """GPU or CPU with the cores that are used, and the versions that matter."""
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        features = [
            name
            for name, has in (
                ("AVX-512 bf16", torch.cpu._is_avx512_bf16_supported()),
                ("AMX", torch.cpu._is_amx_tile_supported()),
            )
            if has
        ]
        device = f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        device += f" ({', '.join(features)})" if features else ""
    return f"{device}; torch {torch.__version__}, transformers {transformers.__version__}"
