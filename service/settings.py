"""All settings of the service: each is a flag, and a SERVICE_* variable."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.adapters import Adapter, parse_adapters, room_for


class Settings(BaseSettings):
    """Serve a model directory over HTTP.

    Example: python -m service --model build/demo/model --port 8000
    Every flag is also an environment variable: --max-model-len is SERVICE_MAX_MODEL_LEN.
    A flag wins over its variable.
    """

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    model: Path = Field(description="model directory: config.json, *.safetensors, tokenizer.json")
    served_name: str | None = Field(
        None, description="name of the model in answers; default: the directory's name"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535)

    adapters: str = Field(
        "",
        description="LoRA adapters served beside the model: name=directory name=directory ...",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="number format of the weights; auto: as stored, 16 bits for float32"
    )
    max_model_len: int | None = Field(
        None, ge=8, description="most tokens of prompt + output; default: what the model allows"
    )
    max_num_seqs: int = Field(256, ge=1, description="most sequences in one engine step")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share the model")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kvcache_gib: int = Field(2, ge=1, description="size of the key-value cache on a CPU")
    enforce_eager: bool | None = Field(
        None, description="skip compilation; default: yes on a CPU, no on a GPU"
    )
    engine_args: dict[str, Any] = Field(
        {}, description="further arguments of vLLM's engine, a JSON object by their own names"
    )
    engine_seed: int = Field(0, ge=0, description="seed of the engine's own random numbers")

    default_max_tokens: int = Field(512, ge=1, description="when a request names no max_tokens")
    default_temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy")

    max_prompts: int = Field(2048, ge=1, description="most prompts in one request")
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="larger bodies get 413")
    drain_timeout_s: float = Field(
        60, ge=0, description="after SIGTERM, seconds that running requests may take to finish"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("model")
    @classmethod
    def _has_config(cls, model: Path) -> Path:
        if not (model / "config.json").is_file():
            raise ValueError(f"{model} is no model directory: it has no config.json")
        try:
            json.loads((model / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{model / 'config.json'} cannot be read as JSON: {error}") from error
        return model

    @field_validator("adapters")
    @classmethod
    def _name_adapters(cls, adapters: str) -> str:
        if adapters:
            room_for(parse_adapters(adapters))
        return adapters

    @cached_property
    def adapters_by_name(self) -> dict[str, Adapter]:
        """The adapters that requests may name."""
        return {adapter.name: adapter for adapter in parse_adapters(self.adapters)}

    @property
    def model_name(self) -> str:
        """How answers name the model."""
        return self.served_name or self.model.resolve().name
