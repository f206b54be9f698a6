"""Settings of the server, from command line options and environment variables."""

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..generation.presets import check_dtype
from ..runs.builtin_model import BUILTIN, model_path
from ..utils.errors import UserError
from ..utils.paths import expand_user


ENVIRONMENT = {"checkpoint": "CHECKPOINT_PATH", "tokenizer": "TOKENIZER_PATH", "device": "DEVICE", "port": "PORT"}


@dataclass(frozen=True)
class ServerSettings:
    """The options of `tinystories serve`, described in docs/serving.md, and two fixed limits; times are in seconds."""

    checkpoint: str
    tokenizer: str | None = None
    device: str | None = None  # None or "auto": the best available
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 7779
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    rate_limit: str = "60/minute"  # in the syntax of the package `limits`, or "none"
    max_batch: int = 32
    max_queue: int = 64
    time_limit: float = 120.0
    drain_time: float = 30.0
    max_connections: int = 512
    client_timeout: float = 20.0  # for a client to send a request, or to accept data

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise UserError(f"The port must be between 0 and 65535, but is {self.port}.")
        check_dtype(self.dtype)
        if self.dtype and self.device not in (None, "auto", "cpu"):
            raise UserError(f"--dtype {self.dtype} needs a CPU: leave out --device {self.device}.")
        for name in ("max_batch", "time_limit"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UserError(f"--{name.replace('_', '-')} must be above 0 and finite, but is {value}.")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#\s]+", origin):
                raise UserError(f"--cors-origin must be an origin such as https://example.org, not {origin!r}.")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise UserError(
                    f"--trusted-proxy must be an address or a network such as 10.0.0.0/8, not {proxy!r}."
                ) from None


def read_settings(options: Mapping, environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """The `options` that are not None, then the environment, then the defaults; the default model is the built-in one.

    Args:
        options: by the names of `ServerSettings`; other keys are ignored.

    Raises:
        UserError: if a value is invalid.
    """
    names = [field.name for field in fields(ServerSettings)]
    values = {name: options[name] for name in names if options.get(name) is not None}
    for name, variable in ENVIRONMENT.items():
        if name not in values and environment.get(variable):
            values[name] = environment[variable]
    values["checkpoint"] = model_path(values.get("checkpoint", BUILTIN))
    if values.get("tokenizer"):
        values["tokenizer"] = expand_user(values["tokenizer"])
    try:
        values["port"] = int(values.get("port", ServerSettings.port))
    except ValueError:
        raise UserError(f"PORT must be an integer, but is {values['port']!r}.") from None
    for name in ("trusted_proxies", "cors_origins"):
        values[name] = tuple(values.get(name, ()))
    return ServerSettings(**values)
