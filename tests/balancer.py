"""docker/balancer's HAProxy, before replicas whose addresses a name server of ours tells."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSServer

from tests.paths import ROOT
from tests.programs import installed
from tests.server import free_port

CONFIG = ROOT / "docker" / "balancer" / "haproxy.cfg"
NAME = "serve"
LIMIT_S = 120


class Names(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """Answers `serve` with the addresses that it holds at the moment."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """One A record an address, gone from every memory after a second."""
        reply = request.reply()
        if request.q.qtype == QTYPE.A and request.q.qname.matchGlob(f"{NAME}*"):
            for address in self.addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=1))
        return reply


class Balancer:
    """A running HAProxy: `url` for clients, `metrics_url` for its own metrics."""

    def __init__(self, port: int, metrics_port: int, process: "subprocess.Popen[bytes]") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}"
        self.process = process

    def servers_up(self) -> int:
        """How many replicas it believes to be ready."""
        answer = httpx.get(self.metrics_url + "/metrics", timeout=30)
        text = answer.raise_for_status().text
        name = 'haproxy_backend_active_servers{proxy="serve"} '
        return sum(int(line.removeprefix(name)) for line in text.splitlines() if name in line)

    def wait_servers(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Until exactly `count` replicas are up."""
        deadline = time.monotonic() + limit_s
        while (up := self._up_or_none()) != count:
            assert time.monotonic() < deadline, f"{up} replicas are up, not {count}"
            assert self.process.poll() is None, f"haproxy ended with {self.process.poll()}"
            time.sleep(0.05)

    def _up_or_none(self) -> int | None:
        try:
            return self.servers_up()
        except httpx.HTTPError:
            return None


@contextmanager
def balancing(names: Names, port: int, log: Path) -> Iterator[Balancer]:
    """The balancer of docker/ before the replicas of `names`, which listen at `port`."""
    haproxy = installed("haproxy", "Debian's package haproxy to test the balancer")
    front, metrics, dns = free_port(), free_port(), free_port(socket.SOCK_DGRAM)
    config = log.with_suffix(".cfg")
    config.write_text(_here(front, metrics, dns, port))
    server = DNSServer(names, address="127.0.0.1", port=dns, logger=_Silent())
    server.start_thread()
    try:
        with log.open("ab") as file:
            process = subprocess.Popen(
                [haproxy, "-W", "-db", "-f", config],
                stdout=file, stderr=file,
                env={**os.environ, "SERVE_HOST": NAME, "MAX_SERVERS": "4"},
            )  # fmt: skip
        try:
            yield Balancer(front, metrics, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
    finally:
        server.stop()


def _here(front: int, metrics: int, dns: int, port: int) -> str:
    """The configuration, with this machine's ports and our name server in place of its own."""
    text = CONFIG.read_text(encoding="utf-8")
    for there, here in {
        "    bind :8080\n": f"    bind 127.0.0.1:{front}\n",
        "    bind :8405\n": f"    bind 127.0.0.1:{metrics}\n",
        "    parse-resolv-conf\n": f"    nameserver test 127.0.0.1:{dns}\n",
        '"${SERVE_HOST}:8000"': f'"${{SERVE_HOST}}:{port}"',
    }.items():
        assert text.count(there) == 1, f"{CONFIG} has changed: {there!r}"
        text = text.replace(there, here)
    return text


class _Silent:
    """A logger of dnslib's that says nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None
