"""uvicorn with a drain: SIGTERM lets running requests finish, a dead engine ends the process."""

import logging
import resource
import time
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.http.connections import RESERVED, BoundedConnection, ConnectionLimits
from service.lifecycle import Lifecycle, State
from service.settings import Settings

logger = logging.getLogger("mergeline")
CONNECTIONS_CLOSE_WITHIN_S = 5
OTHER_FILES = 256  # the engine's sockets, the model's files, the log


class Server(uvicorn.Server):
    """Looks at the lifecycle ten times a second, in uvicorn's own tick."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_level=settings.log_level,
                access_log=False,
                reset_contextvars=True,  # else a pipelined request begins in the last one's
                ws="none",
                http=partial(
                    BoundedConnection,
                    limits=ConnectionLimits(
                        settings.head_timeout_s,
                        settings.write_timeout_s,
                        settings.max_connections,
                    ),
                ),  # type: ignore[arg-type]  # it takes any callable that makes a protocol
                timeout_keep_alive=settings.keep_alive_timeout_s,
                timeout_graceful_shutdown=CONNECTIONS_CLOSE_WITHIN_S,
            )
        )
        _allow_files(settings.max_connections + RESERVED + OTHER_FILES)
        _warn_of_strangers(settings)
        self._lifecycle: Lifecycle = app.state.lifecycle
        self._drain_timeout_s = settings.drain_timeout_s
        self._drain_ends: float | None = None

    @property
    def exit_code(self) -> int:
        """0 after a drain, 1 when the engine could not be loaded or has died."""
        return 1 if self._lifecycle.state is State.DEAD or not self.started else 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at once at the second."""
        if self._drain_ends is not None:
            self._drain_ends = time.monotonic()
            return
        logger.info("signal %d: draining, %d in flight", sig, self._lifecycle.in_flight)
        self._drain_ends = time.monotonic() + self._drain_timeout_s
        self._lifecycle.drain()

    async def on_tick(self, counter: int) -> bool:
        """True ends the main loop."""
        if self._lifecycle.state is State.DEAD:
            self.should_exit = True
        elif self._drain_ends is not None:
            out_of_time = time.monotonic() > self._drain_ends
            if out_of_time:
                self._lifecycle.give_up()
            self.should_exit = out_of_time or self._lifecycle.in_flight == 0
        return await super().on_tick(counter)


def _warn_of_strangers(settings: Settings) -> None:
    """Whoever reaches the port may use the model: nobody should find that out by accident."""
    with suppress(ValueError):
        if ip_address(settings.host).is_loopback:
            return
    if settings.host != "localhost" and not (settings.api_keys or settings.api_key_file):
        logger.warning(
            "listening on %s without API keys: whoever reaches port %d may use the model; set "
            "--api-keys or --api-key-file, or listen on 127.0.0.1",
            settings.host,
            settings.port,
        )


def _allow_files(count: int) -> None:
    """Raise the process's limit of open files: each connection is one, and many shells say 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1) or soft >= count:
        return
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < count:
        logger.warning(
            "only %d files may be open, and max_connections needs %d: raise `ulimit -n`, or set "
            "--max-connections lower",
            allowed,
            count,
        )
