"""Two real servers behind the balancer: at one port, at two addresses of the loopback device."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.balancer import Balancer, Names, balancing
from tests.server import ServerProcess, free_port

ADDRESSES = ("127.0.0.2", "127.0.0.3")
KEY = "the-key-of-both"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Replicas:
    """The balancer, the servers behind it, and the name server that tells it of them."""

    def __init__(self, balancer: Balancer, servers: list[ServerProcess], names: Names) -> None:
        self.balancer, self.servers, self.names = balancer, servers, names
        self.url = balancer.url

    def whole(self) -> "Replicas":
        """Both servers up and known again, whatever a test has done to them."""
        for server in self.servers:
            if server.process.poll() is not None:
                server.start()
        for server in self.servers:
            server.wait_ready()
        self.names.addresses = list(ADDRESSES)
        self.balancer.wait_servers(len(ADDRESSES))
        return self


@contextmanager
def replicas(demo: Path, noise: Path, logs: Path) -> Iterator[Replicas]:
    """Two servers of the demo's base with adapters, behind one key."""
    settings: dict[str, Any] = {
        "served_name": "demo",
        "adapters": f"medical={demo / 'adapter'} noise={noise}",
        "api_keys": KEY,
        "presets": json.dumps({"short": {"max_tokens": 5, "ignore_eos": True}}),
        "cpu_kvcache_gib": 1,
    }
    port, names = free_port(), Names(ADDRESSES)
    servers = [
        ServerProcess(demo / "base", logs / f"replica-{host}.log", host, port, **settings)
        for host in ADDRESSES
    ]
    try:
        with balancing(names, port, logs / "balancer.log") as balancer:
            yield Replicas(balancer, servers, names).whole()
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(ServerProcess.stop, servers))
