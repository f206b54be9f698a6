"""The process behind `tinystories serve`: checks, a socket, the engine, and an end that lets stories finish."""

import errno
import socket
from functools import partial
from pathlib import Path

import uvicorn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..decoding import load_model, load_tokenizer
from ..errors import UserError, first_line
from .api import create_app
from .engine import Engine
from .guards import PatientProtocol
from .settings import Settings


GRACE = 5  # seconds for what is written to be sent, after the last story has ended


def serve(settings: Settings) -> None:
    """Serve a model until a signal says to stop.

    Raises:
        UserError: where the model, the device or the port cannot be had.
    """
    logging.disable_progress_bar()
    _check_checkpoint(settings.checkpoint)
    listener = _listen(settings.host, settings.port)
    engine = Engine(
        partial(load, settings),
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        on_state=lambda: _report(engine, server),
    )
    app = create_app(engine, settings, model_name(settings.checkpoint))
    server = StoryServer(engine, settings, server_config(app, settings))
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C to stop)", flush=True)
    server.run(sockets=[listener])
    if engine.state == "failed" or engine.error:
        raise engine.error


def server_config(app, settings: Settings) -> uvicorn.Config:
    """Uvicorn as this server needs it: `X-Forwarded-For` from named proxies only, and no patience without end."""
    protocol = type(
        "Protocol",
        (PatientProtocol,),
        {"patience": settings.patience, "max_connections": settings.max_connections},
    )
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=round(settings.drain_time + GRACE),
    )


class StoryServer(uvicorn.Server):
    """A uvicorn server that tells the engine of a signal: no new stories, and a limit for those that run."""

    def __init__(self, engine: Engine, settings: Settings, config: uvicorn.Config):
        super().__init__(config)
        self._engine, self._drain_time = engine, settings.drain_time

    def handle_exit(self, sig, frame) -> None:
        self._engine.drain(self._drain_time)
        super().handle_exit(sig, frame)


def load(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer; of a model on the Hub nothing but text and safetensors is fetched.

    Raises:
        UserError: where there is none, or the device cannot be used.
    """
    checkpoint = settings.checkpoint
    if not Path(checkpoint).exists() and checkpoint.count("/") == 1:
        checkpoint = _fetch(checkpoint)
    _check_checkpoint(checkpoint)
    model, tokenizer = load_model(checkpoint)
    if settings.tokenizer:
        tokenizer = load_tokenizer(settings.tokenizer)
    entries = model.config.get_text_config(decoder=True).vocab_size
    if len(tokenizer) > entries:
        raise UserError(f"The tokenizer has {len(tokenizer)} entries, but the model knows {entries}: it is another's.")
    if settings.device not in (None, "auto"):
        try:
            model.to(settings.device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"The device {settings.device!r} cannot be used: {first_line(error)}.") from None
    return model, tokenizer


def model_name(checkpoint: str) -> str:
    """What clients call the model: the folder's name, or the id on the Hub."""
    folder = Path(checkpoint)
    return folder.resolve().name if folder.exists() else checkpoint


def _check_checkpoint(checkpoint: str) -> None:
    """Refuse a folder whose weights are no safetensors: others are pickles, and a pickle can run what it likes.

    These two names are where transformers looks first.
    """
    folder = Path(checkpoint)
    if not folder.exists():
        if checkpoint.count("/") != 1:
            raise UserError(f"There is no run folder {checkpoint}; `make quickstart` makes runs/quickstart.")
    elif not (folder / "config.json").exists():
        raise UserError(
            f"{checkpoint} is not a run folder: it has no config.json. Give the folder that training wrote."
        )
    elif not any((folder / name).exists() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise UserError(f"{checkpoint} has no weights as safetensors, and the server loads no other kind.")


def _fetch(model_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model_id, allow_patterns=["*.json", "*.jinja", "*.txt", "*.safetensors"])
    except (OSError, ValueError) as error:
        raise UserError(
            f"There is no run folder {model_id}, nor can it be had from the Hub: {first_line(error)}."
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"Port {port} at {host} is in use: choose another --port.") from None
        if error.errno == errno.EACCES:
            raise UserError(f"Port {port} is not for everybody: choose a --port above 1023.") from None
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise UserError(f"Cannot listen at {host}: {reason}. Choose another --host.") from None


def _report(engine: Engine, server: uvicorn.Server) -> None:
    if engine.state == "failed":
        server.should_exit = True
    else:
        print(f"ready: {engine.model.num_parameters():,} parameters on {engine.model.device}", flush=True)
