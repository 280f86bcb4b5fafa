"""A server that speaks the HTTP contract over a real socket, and misbehaves when told to."""

import asyncio
import json
import random
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


def answer_to(prompt: str) -> str:
    return f"答\u2028{prompt[::-1]}"


def event(index: int, prompt: str) -> Json:
    usage = {"prompt_tokens": len(prompt), "completion_tokens": 3, "total_tokens": len(prompt) + 3}
    return {
        "index": index,
        "generated_text": answer_to(prompt),
        "finish_reason": "stop",
        "usage": usage,
        "error": None,
    }


def failure(index: int, error_type: str, message: str = "no") -> Json:
    return {"index": index, "error": {"error": message, "error_type": error_type, "param": None}}


@dataclass
class Refusal:
    """Answer one whole request with this status."""

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Break:
    """Send `after` events, then break the stream off: cleanly ended, or a reset connection."""

    after: int
    reset: bool = False


# Changes the events of one request.
Twist = Callable[[list[Json]], list[Json]]
Fault = Refusal | Break | Twist


class Stub:
    """Answers lists as event streams, shuffled; `asked` holds every prompt it was asked."""

    def __init__(self, port: int = 0, *, model: str = "demo", delay: float = 0.0) -> None:
        self.port, self.model, self.delay = port, model, delay
        self.fingerprint: str | None = None
        self.ready = True
        self.asked: list[str] = []
        self.requests: list[Json] = []
        self.authorizations: set[str | None] = set()
        self.faults: deque[Fault] = deque()
        self.twist: Twist | None = None
        self.under_way = 0  # connections
        self.most_under_way: int | None = None  # prompts; a list beyond that is refused
        self.refused = 0
        self._prompts = 0
        self._random = random.Random(7)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Be gone as after a SIGKILL: no more listening, every connection reset."""
        asyncio.run_coroutine_threadsafe(self._kill(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _kill(self) -> None:
        self._server.close()
        for writer in self._writers:
            _reset(writer)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.under_way += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in head[1:] if h)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.authorizations.add(headers.get("authorization"))
                await self._respond(head[0].split()[1], body, writer)
        writer.close()
        self._writers.discard(writer)
        self.under_way -= 1

    async def _respond(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/readyz":
            _send(writer, 200 if self.ready else 503, {})
        elif path == "/info":
            _send(writer, 200, {"model": self.model, "fingerprint": self.fingerprint})
        else:
            await self._generate(json.loads(body), writer)

    async def _generate(self, body: Json, writer: asyncio.StreamWriter) -> None:
        self.requests.append(body)
        fault = self.faults.popleft() if self.faults else self.twist
        if isinstance(fault, Refusal):
            _send(writer, fault.status, fault.body, fault.headers)
            return
        size = len(body["prompt"])
        if self.most_under_way is not None and self._prompts + size > self.most_under_way:
            self.refused += 1
            _send(writer, 429, {"error": "too much"}, {"Retry-After": "0.01"})
            return
        self._prompts += size
        try:
            await self._answer(body, fault, writer)
        finally:
            self._prompts -= size

    async def _answer(
        self, body: Json, fault: Break | Twist | None, writer: asyncio.StreamWriter
    ) -> None:
        self.asked += body["prompt"]
        events = [event(index, prompt) for index, prompt in enumerate(body["prompt"])]
        self._random.shuffle(events)
        if callable(fault):
            events = fault(events)
        cut = fault if isinstance(fault, Break) else None
        await self._stream(events[: cut.after if cut else None], writer, finished=cut is None)
        if cut and cut.reset:
            _reset(writer)

    async def _stream(
        self, events: list[Json], writer: asyncio.StreamWriter, *, finished: bool
    ) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for data in [json.dumps(e, ensure_ascii=False) for e in events] + ["[DONE]"] * finished:
            message = f"data: {data}\n\n".encode("utf-8", "backslashreplace")
            writer.write(b"%x\r\n%s\r\n" % (len(message), message))
            await writer.drain()
            if self.delay:
                await asyncio.sleep(self.delay)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _send(
    writer: asyncio.StreamWriter, status: int, body: Json, headers: dict[str, str] | None = None
) -> None:
    content = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # it may be closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


@contextmanager
def running(stub: Stub) -> Iterator[Stub]:
    stub.start()
    try:
        yield stub
    finally:
        stub.kill()
