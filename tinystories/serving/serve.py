"""`tinystories serve`: load the model, listen, and wait for running completions at shutdown."""

import errno
import logging
import signal
import socket
from functools import partial
from pathlib import Path

import torch
import uvicorn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.logging import disable_progress_bar

from tinystories.tokenization import vocabulary_size

from ..runs.download import SAFETENSORS, local_folder, may_be_hub_id
from ..runs.loading import load_model, load_tokenizer
from ..runs.run_folder import require_run
from ..utils.console import counted
from ..utils.errors import UserError, first_line
from .app import create_app
from .engine import Engine
from .middleware import LimitedProtocol
from .settings import ServerSettings


SEND_TIME = 5  # seconds to send what has been generated, after the last completion has ended


def serve(settings: ServerSettings) -> None:
    """Serve a model until SIGTERM or SIGINT.

    Raises:
        UserError: if the model, the device or the port is not available.
    """
    disable_progress_bar()
    _check_checkpoint(settings.checkpoint)
    if settings.tokenizer and not Path(settings.tokenizer).exists() and not may_be_hub_id(settings.tokenizer):
        raise UserError(f"There is no folder {settings.tokenizer}: specify a folder with a tokenizer.")
    _check_device(settings.device)
    listener = _listen(settings.host, settings.port)
    engine = Engine(
        partial(load, settings),
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        on_state=lambda: _report(engine, server),
    )
    app = create_app(engine, settings, model_name(settings.checkpoint))
    server = Server(engine, settings, server_config(app, settings))
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the state is printed below, in fewer words
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C to stop)", flush=True)
    server.run(sockets=[listener])
    if engine.error is not None:
        if isinstance(engine.error, (MemoryError, RuntimeError)) and "memory" in str(engine.error).lower():
            raise UserError(
                f"There is not enough memory for the model and {settings.max_batch} concurrent completions: choose "
                f"a smaller --max-batch."
            )
        raise engine.error


def server_config(app, settings: ServerSettings) -> uvicorn.Config:
    limits = {"client_timeout": settings.client_timeout, "max_connections": settings.max_connections}
    return uvicorn.Config(
        app,
        http=type("Protocol", (LimitedProtocol,), limits),
        ws="none",
        lifespan="on",
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=round(settings.drain_time + SEND_TIME),
    )


class Server(uvicorn.Server):
    """A uvicorn server that drains the engine at a signal."""

    def __init__(self, engine: Engine, settings: ServerSettings, config: uvicorn.Config):
        super().__init__(config)
        self._engine, self._drain_time = engine, settings.drain_time

    def handle_exit(self, sig, frame) -> None:
        if not self.should_exit:
            count = self._engine.running + self._engine.queue_length
            left = f": waiting up to {self._drain_time:g} s for {counted(count, 'completion')}" if count else ""
            print(f"{signal.Signals(sig).name}{left}", flush=True)
        self._engine.drain(self._drain_time)
        super().handle_exit(sig, frame)


def load(settings: ServerSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer; from the Hub, only text files and safetensors are downloaded.

    Raises:
        UserError: if they are missing or do not fit.
    """
    checkpoint = str(local_folder(settings.checkpoint, SAFETENSORS))
    _check_checkpoint(checkpoint)
    model, tokenizer = load_model(checkpoint, settings.dtype)
    if settings.tokenizer:
        tokenizer = load_tokenizer(settings.tokenizer)
    entries = model.config.get_text_config(decoder=True).vocab_size
    if (needed := vocabulary_size(tokenizer)) > entries:
        raise UserError(
            f"The tokenizer has {needed:,} entries, but the vocabulary of the model has only {entries:,}: use the "
            f"tokenizer that the model was trained with."
        )
    if settings.device not in (None, "auto"):
        model.to(settings.device)  # type: ignore[arg-type]
    return model, tokenizer


def _check_device(device: str | None) -> None:
    if device in (None, "auto"):
        return
    try:
        torch.device(device)
    except RuntimeError:
        raise UserError(f"There is no device {device!r}: use a device such as cpu, cuda:0 or mps.") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device {device!r} cannot be used: {first_line(error)}.") from None


def model_name(checkpoint: str) -> str:
    """The model's name for clients: that of its folder, or its id on the Hub."""
    folder = Path(checkpoint)
    return folder.resolve().name if folder.exists() else checkpoint


def _check_checkpoint(checkpoint: str) -> None:
    """Refuse a folder without safetensors, from which transformers would load a pickle, which can run code."""
    require_run(checkpoint)
    folder = Path(checkpoint)
    if folder.exists() and not any((folder / name).exists() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise UserError(
            f"{checkpoint} has no weights in the safetensors format, the only one that the server loads: load the "
            f"model with transformers and save it again with `save_pretrained`."
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"Port {port} on {host} is in use: choose another --port.") from None
        if error.errno == errno.EACCES:
            raise UserError(f"Port {port} needs root privileges: choose a --port above 1023.") from None
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise UserError(f"Cannot listen on {host}: {reason}. Choose another --host.") from None


def _report(engine: Engine, server: uvicorn.Server) -> None:
    if engine.state == "failed":
        server.should_exit = True
    elif engine.state == "ready":  # not after a signal during loading
        print(f"ready: {engine.model.num_parameters():,} parameters on {engine.model.device}", flush=True)
