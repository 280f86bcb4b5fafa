"""The real Prometheus, with our configuration, scraping what a test started."""

import math
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from tests.monitoring.definitions import FOLDER
from tests.programs import installed
from tests.server import free_port

START_LIMIT_S = 120
FAST = "1s"  # which is also how long a scrape may take


@dataclass(frozen=True)
class Result:
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """A running one, asked over its HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)

    def query(self, expression: str) -> list[Result]:
        """The value now. Raises ValueError when the expression is not accepted."""
        response = self._http.get("/api/v1/query", params={"query": expression})
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            response.raise_for_status()  # it is starting, and says so in words
        answer = response.json()
        if answer["status"] != "success":
            raise ValueError(f"{expression}: {answer['error']}")
        return [
            Result(series["metric"], float(series["value"][1]))
            for series in answer["data"]["result"]
        ]

    def get(self, path: str) -> Any:
        """The data of another route of its API."""
        return self._http.get(f"/api/v1/{path}").raise_for_status().json()["data"]

    def wait_scraped(self, jobs: set[str]) -> None:
        """Until a target of each job has been scraped."""
        deadline = time.monotonic() + START_LIMIT_S
        while (up := self._jobs_up()) != jobs:
            assert time.monotonic() < deadline, f"scraped: {up}"
            time.sleep(0.1)

    def _jobs_up(self) -> set[str]:
        try:
            return {result.labels["job"] for result in self.query("up == 1")}
        except httpx.HTTPError:  # it does not listen yet, or answers 503
            return set()

    def wait_healthy(self, jobs: set[str]) -> None:
        """Until the last scrape of each job went well: a busy machine may be too slow for one."""
        deadline = time.monotonic() + START_LIMIT_S
        while (health := self._health()) != dict.fromkeys(jobs, "up"):
            assert time.monotonic() < deadline, f"scraped: {health}"
            time.sleep(0.1)

    def _health(self) -> dict[str, str]:
        """By job, "up" or what is wrong."""
        return {
            target["labels"]["job"]: target["lastError"] or target["health"]
            for target in self.get("targets")["activeTargets"]
        }

    def close(self) -> None:
        """Our side of its connections."""
        self._http.close()


def has_data(results: list[Result]) -> bool:
    """Whether a panel would draw anything: 0/0 is NaN, which Grafana leaves out."""
    return any(math.isfinite(result.value) for result in results)


@contextmanager
def watching(urls: Mapping[str, str], folder: Path) -> Iterator[Prometheus]:
    """Prometheus with the configuration of docker/, which finds one target a job at `urls`."""
    program = installed("prometheus", "Debian's package prometheus to test the monitoring")
    config = folder / "prometheus.yml"
    config.write_text(_here(urls), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    prometheus = Prometheus(f"http://{address}")
    try:
        prometheus.wait_scraped(set(urls))
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(timeout=30)


def _here(urls: Mapping[str, str]) -> str:
    """The configuration, faster and without DNS."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": FAST, "evaluation_interval": FAST}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    for scrape in config["scrape_configs"]:
        del scrape["dns_sd_configs"]
        scrape["static_configs"] = [{"targets": [urlsplit(urls[scrape["job_name"]]).netloc]}]
    return str(yaml.safe_dump(config))
