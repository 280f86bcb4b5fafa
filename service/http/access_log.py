"""Logs, as text or as JSON lines: a line a request, with its id and without its prompt."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from starlette.types import Scope

from service.request_record import record_of
from service.settings import Settings

logger = logging.getLogger("mergeline.access")
PROBES = {"/livez", "/readyz", "/health", "/is_ready"}
QUIET = PROBES | {"/metrics"}


def configure_logging(settings: Settings) -> None:
    """Set the root logger's format, and our loggers' level."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text)
    logging.basicConfig(handlers=[handler])
    logging.getLogger("mergeline").setLevel(settings.log_level.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a request's fields are members of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def request_fields(scope: Scope, route: str, status: int, seconds: float) -> dict[str, Any]:
    """The fields of one answered request, for the log and the traces."""
    record = record_of(scope)
    return {
        "request_id": record.request_id,
        "client": (scope.get("client") or ("",))[0],
        "method": record.method,
        "route": route,
        "status": status,
        "seconds": round(seconds, 4),
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
    }


def log_request(fields: dict[str, Any]) -> None:
    """Write its line; probes and /metrics only at debug level."""
    level = logging.DEBUG if fields["route"] in QUIET else logging.INFO
    if not logger.isEnabledFor(level):
        return
    text = "%(method)s %(route)s %(status)d %(seconds).3f s, id %(request_id)s"
    logger.log(level, text % fields, extra={"fields": fields})
