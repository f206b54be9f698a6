"""Native code for a CPU: after `accelerate(model)` `model.generate` takes a third of the time, and `attention` is what
training attends by."""

__all__ = ["accelerate", "accelerate_or_refuse", "accelerated", "decelerate"]


def __getattr__(name: str):
    # What compiles the native step needs neither torch nor transformers, so they are not loaded with the package.
    if name in __all__:
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
