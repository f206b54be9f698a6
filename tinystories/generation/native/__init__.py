"""C code for the CPU: `use_native_decoding(model)` makes `model.generate` about three times as fast."""

__all__ = ["use_native_decoding", "require_native_decoding", "native_decoding", "undo_native_decoding"]


def __getattr__(name: str):
    # What compiles the native step needs neither torch nor transformers, so they are not loaded with the package.
    if name in __all__:
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
