"""A whole test set through two servers, one of which is killed half-way: is anything lost?

    python -m tests.bench.testset [--rows 10320]

The rows are those of the demo, again and again, each with a name of its own. Three ways: one run
that nothing disturbs; one in which a server is killed with SIGKILL when half of the rows are done,
and started again at once; three shards, merged. Exit code 1 when they do not give the same bytes,
when a row is missing or out of place, or when a finished row was answered again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.paths import DEMO, ROOT
from tests.server import ServerProcess, serving

PARAMETERS = '{"max_tokens": 32}'


def write_test_set(path: Path, count: int) -> list[dict[str, Any]]:
    """Rows of the demo under other names, without targets."""
    text = (DEMO / "data" / "train.json").read_text("utf-8")
    known = [json.loads(line) for line in text.split("\n") if line]
    rows = [{**known[i % len(known)], "target": "", "sample_id": f"test-{i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return rows


class Client:
    """predict_testset.py as a user starts it, against all servers."""

    def __init__(self, servers: list[ServerProcess], source: Path, output: Path, *more: str):
        self.output, self.journal = output, output.with_name(output.name + ".journal")
        command = [sys.executable, str(ROOT / "client" / "predict_testset.py")]
        command += ["--url", *(server.url for server in servers), "--input", str(source)]
        command += ["--output", str(output), "--parameters", PARAMETERS, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def journaled(self) -> int:
        """Rows that are done."""
        return self.journal.read_bytes().count(b"\n") - 1 if self.journal.exists() else 0

    def end(self) -> str:
        """Wait; its line about rows, speed and retries."""
        told, _ = self.process.communicate()
        assert self.process.returncode == 0, told
        return next(line for line in told.splitlines() if "rows/s" in line)


def disturbed(client: Client, mortal: ServerProcess, half: int) -> str:
    """Kill the server when half is done; start it again."""
    while client.journaled() < half:
        assert client.process.poll() is None, "the run ended too early"
        time.sleep(0.05)
    engine = mortal.descendants()
    mortal.kill()
    mortal.wait_gone(engine)
    mortal.start()
    return client.end()


def problems(client: Client, rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong with an output and its journal."""
    found = []
    lines = client.output.read_text("utf-8").removesuffix("\n").split("\n")
    answered = [json.loads(line) for line in lines]
    if [{**row, "target": ""} for row in answered] != rows:
        found.append(f"{client.output.name}: rows are missing, changed or out of place")
    entries = [json.loads(line)["entry"] for line in client.journal.read_bytes().splitlines()[1:]]
    again = [row for row, times in Counter(e["index"] for e in entries).items() if times > 1]
    if again:
        found.append(f"{client.output.name}: finished rows were answered again: {again[:5]}")
    return found


def merged(servers: list[ServerProcess], source: Path, folder: Path) -> bytes:
    """What three shards give together."""
    shards = []
    for number in range(3):
        shard = Client(servers, source, folder / f"shard-{number}.json", "--shard", f"{number}/3")
        print(f"shard {number} of 3: {shard.end()}", flush=True)
        shards.append(str(shard.output))
    output = folder / "merged.json"
    script = str(ROOT / "client" / "merge_shards.py")
    files = ["--input", str(source), "--output", str(output), *shards]
    subprocess.run([sys.executable, script, *files], check=True)
    return output.read_bytes()


def main() -> int:
    """Run the three ways and compare."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10320)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        source = folder / "test.json"
        rows = write_test_set(source, count)
        servers = [
            stack.enter_context(serving(DEMO / "model", folder / f"{number}.log"))
            for number in range(2)
        ]
        calm = Client(servers, source, folder / "calm.json")
        print(f"undisturbed: {calm.end()}", flush=True)
        hit = Client(servers, source, folder / "hit.json")
        print(f"a server killed half-way: {disturbed(hit, servers[1], count // 2)}", flush=True)
        found = [*problems(calm, rows), *problems(hit, rows)]
        if hit.output.read_bytes() != calm.output.read_bytes():
            found.append("the disturbed run gave other bytes")
        servers[1].wait_ready()
        if merged(servers, source, folder) != calm.output.read_bytes():
            found.append("the merged shards are other bytes")
    print("\n".join(found) or f"{count} rows each: complete, in order, the same bytes three times")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
