"""What a user chooses about the server: by option, or by environment where an option is missing."""

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..generation.presets import check_dtype
from ..utils.errors import UserError
from ..utils.paths import expand_user


ENVIRONMENT = {
    "checkpoint": "CHECKPOINT_PATH",
    "tokenizer": "TOKENIZER_PATH",
    "device": "DEVICE",
    "port": "PORT",
}


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        checkpoint: run folder, or id of a model on the Hub.
        tokenizer: its tokenizer; None: that of the checkpoint.
        device: such as "cpu" or "cuda:0"; None or "auto": the best there is.
        dtype: of the weights: None, as they were saved, or "int8", with which a CPU computes faster.
        host, port: where to listen; port 0 takes any that is free.
        trusted_proxies: addresses or networks whose `X-Forwarded-For` is believed.
        cors_origins: origins whose pages may ask this server, such as "https://example.org".
        rate_limit: for each client and its orders, as the package `limits` writes it: "60/minute"; "none" for none.
        max_batch: stories that are written at once; their caches take the memory of so many whole contexts.
        max_queue: stories that wait.
        time_limit: seconds a request may take, waiting included.
        drain_time: seconds that running stories have left after SIGTERM.
        max_connections: open connections, idle ones included.
        patience: seconds in which a client must have sent its whole request, or made room for what it is sent.
    """

    checkpoint: str
    tokenizer: str | None = None
    device: str | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 7779
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    rate_limit: str = "60/minute"
    max_batch: int = 32
    max_queue: int = 64
    time_limit: float = 120.0
    drain_time: float = 30.0
    max_connections: int = 512
    patience: float = 20.0

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise UserError(f"The port must be between 0 and 65535, but is {self.port}.")
        check_dtype(self.dtype)
        if self.dtype and self.device not in (None, "auto", "cpu"):
            raise UserError(f"--dtype {self.dtype} is for a CPU, not for --device {self.device}.")
        for name in ("time_limit", "drain_time", "patience"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{_option(name)} must be a number of seconds, but is {getattr(self, name)}.")
        for name in ("max_batch", "time_limit", "max_connections", "patience"):
            if not getattr(self, name) > 0:
                raise UserError(f"{_option(name)} must be above 0, but is {getattr(self, name)}.")
        for name in ("max_queue", "drain_time"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{_option(name)} cannot be below 0, but is {getattr(self, name)}.")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#\s]+", origin):
                raise UserError(f"--cors-origin takes an origin such as https://example.org, not {origin!r}.")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise UserError(
                    f"--trusted-proxy takes an address or a network such as 10.0.0.0/8, not {proxy!r}."
                ) from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def read_settings(given: Mapping, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that were `given`, where they are not None, then those of the environment, then the defaults.

    Args:
        given: by the names of `Settings`; what else is in it is not looked at.

    Raises:
        UserError: where no checkpoint is named, or a value cannot be.
    """
    names = [field.name for field in fields(Settings)]
    values = {name: given[name] for name in names if given.get(name) is not None}
    for name, variable in ENVIRONMENT.items():
        if name not in values and environment.get(variable):
            values[name] = environment[variable]
    for name in ("checkpoint", "tokenizer"):
        if values.get(name):
            values[name] = expand_user(values[name])
    if "checkpoint" not in values:
        raise UserError(
            "There is no model to serve: give its run folder (tinystories serve RUN), or set CHECKPOINT_PATH."
        )
    try:
        values["port"] = int(values.get("port", Settings.port))
    except ValueError:
        raise UserError(f"PORT must be a whole number, but is {values['port']!r}.") from None
    for name in ("trusted_proxies", "cors_origins"):
        values[name] = tuple(values.get(name, ()))
    return Settings(**values)
