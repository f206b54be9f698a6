"""The HTTP server: `tinystories serve RUN`.

The engine (`engine.py`, `batch.py`, `detokenizer.py`) does not depend on HTTP. `app.py` and `completions.py` are the
endpoints, `stream.py` passes events from the engine's thread to the event loop, `serve.py` runs the process.
"""
