"""C code for the CPU: `use_native_decoding(model)` makes `model.generate` about three times as fast."""

from typing import Any


__all__ = ["use_native_decoding", "require_native_decoding", "native_decoding", "undo_native_decoding"]


def __getattr__(name: str) -> Any:
    # Imported on demand, so that `build` can be used without loading torch and transformers.
    if name in __all__:
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
