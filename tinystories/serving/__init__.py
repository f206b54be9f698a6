"""The HTTP server: `tinystories serve RUN`.

The engine (`engine.py`, `batch.py`, `detokenizer.py`) does not depend on HTTP. `app.py`, `completions.py`, `chat.py`
and `alternatives.py` are the endpoints, `openai_api.py` is what those of OpenAI share, `stream.py` passes events from
the engine's thread to the event loop, `serve.py` runs the process.
"""
