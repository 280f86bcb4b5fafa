"""All settings of the service: each is a flag, and a SERVICE_* variable."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.adapter import Adapter, parse_adapters, smallest_supported_rank, supported_rank
from service.keys import read_keys
from service.machine.cpu_kernels import Wanted, refuse_on_cpu
from service.model_directory.contradictions import refuse_contradictions
from service.model_directory.hub import local_directory, name_of
from service.model_directory.quantised import read_quantised
from service.model_directory.template import refuse_other_template
from service.parameters import checked
from service.versions import built_for_cpu

PRESETS: dict[str, dict[str, Any]] = {
    # what the service of the first PromptCBLUE baselines generated with
    "promptcblue-baseline": {"max_tokens": 512, "presence_penalty": 0.2, "frequency_penalty": 0.2}
}


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

    model: Path = Field(
        description="model directory: config.json, *.safetensors, tokenizer.json; or a name on a "
        "hub: ORG/NAME, modelscope:ORG/NAME, with @REVISION if need be"
    )
    served_name: str | None = Field(
        None, description="name of the model in answers; default: the directory's name"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535)

    adapters: str = Field(
        "", description="LoRA adapters served beside the model: name=directory name=directory ..."
    )
    max_adapters: int | None = Field(
        None, ge=0, description="most adapters at a time; default: as many as --adapters has"
    )
    max_adapter_rank: int | None = Field(
        None, ge=1, description="largest rank of an adapter; default: what --adapters need"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="number format of the weights; auto: on a CPU the fastest of its formats that "
        "has room, on a GPU as stored, 16 bits for float32",
    )
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e5m2", "int8_per_token_head"] = Field(
        "auto",
        description="number format of the key-value cache; auto: that of the activations; fp8 "
        "halves it, on a CPU with AVX512; int8_per_token_head on a GPU only",
    )
    max_model_len: int | None = Field(
        None, ge=8, description="most tokens of prompt + output; default: what the model allows"
    )
    max_num_seqs: int | None = Field(
        None,
        ge=1,
        description="most sequences in one engine step; default: 256 on a CPU, on a GPU what vLLM "
        "takes for it",
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="GPUs that share the model, of all nodes"
    )
    nodes: int = Field(
        1, ge=1, description="machines that those GPUs are in; all get the same settings"
    )
    node_rank: int = Field(0, ge=0, description="which of them this is; 0 answers the requests")
    leader_address: str = Field("", description="where the others find node 0")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kvcache_gib: int = Field(2, ge=1, description="size of the key-value cache on a CPU")
    enforce_eager: bool | None = Field(
        None, description="skip compilation; default: yes on a CPU, no on a GPU"
    )
    engine_args: dict[str, Any] = Field(
        {}, description="further arguments of vLLM's engine, a JSON object by their own names"
    )
    engine_seed: int = Field(0, ge=0, description="seed of the engine's own random numbers")

    default_parameters: dict[str, Any] = Field(
        {}, description="parameters for requests that do not give them, a JSON object"
    )
    presets: dict[str, dict[str, Any]] = Field(
        {},
        validate_default=True,
        description="named parameters: a JSON object of objects, chosen by parameters.preset",
    )

    api_keys: str = Field("", description="keys that clients may use, separated by blanks")
    api_key_file: Path | None = Field(None, description="more keys, a line each; read again if new")
    admin_keys: str = Field("", description="keys for /admin; without one there is no /admin")
    admin_key_file: Path | None = Field(None, description="more of them, a line each")
    metrics_need_key: bool = Field(False, description="guard /metrics too")
    cors_origins: str = Field("", description="web origins that may call, separated by blanks")

    max_prompts: int = Field(2048, ge=1, description="most prompts in one request")
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="larger bodies get 413")
    body_timeout_s: float = Field(30, gt=0, description="slower bodies get 408")
    head_timeout_s: float = Field(
        10, gt=0, description="connections that send no whole request head by then are closed"
    )
    write_timeout_s: float = Field(
        30, gt=0, description="connections whose client reads nothing for so long are closed"
    )
    keep_alive_timeout_s: int = Field(
        75,
        ge=0,
        description="idle connections are closed then: set more than a proxy in front has",
    )
    max_connections: int = Field(
        1024, ge=1, description="beyond it the longest idle one is closed; if none is, the new one"
    )
    max_grammar_ms: float = Field(
        3.0,
        gt=0,
        description="milliseconds of a processor that following a request's structured_outputs or "
        "bad_words may take for each token",
    )
    max_answer_logprobs: int = Field(
        32_768,
        ge=1,
        description="most log-probabilities in one answer, which is written in one go; an eighth "
        "of it under /v1, whose code takes longer",
    )
    max_queued_prompts: int = Field(
        4096, ge=0, description="prompts beyond max_num_seqs that may wait; more get 429"
    )
    stall_timeout_s: float = Field(
        120, gt=0, description="an engine that gives no token for so long is given up"
    )
    drain_timeout_s: float = Field(
        60, ge=0, description="after SIGTERM, seconds that running requests may take to finish"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field("text", description="json: an object a line")
    log_prompts: bool = Field(False, description="write every prompt into the log")
    otlp_traces_endpoint: str | None = Field(
        None, description="where OpenTelemetry traces go, for example http://collector:4317"
    )

    @field_validator("model", mode="before")
    @classmethod
    def _download(cls, name: Any) -> Any:
        return local_directory(str(name))

    @field_validator("model")
    @classmethod
    def _is_one_model(cls, model: Path) -> Path:
        if not (model / "config.json").is_file():
            raise ValueError(f"{model} is no model directory: it has no config.json")
        refuse_contradictions(model)
        return model

    @field_validator("default_parameters")
    @classmethod
    def _check_defaults(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        return checked(parameters)

    @field_validator("presets")
    @classmethod
    def _check_presets(cls, presets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: checked(parameters) for name, parameters in (PRESETS | presets).items()}

    @field_validator("api_key_file", "admin_key_file")
    @classmethod
    def _readable(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                read_keys(file)
            except OSError as error:
                raise ValueError(f"{file} cannot be read: {error.strerror}") from error
        return file

    @model_validator(mode="after")
    def _adapters_fit(self) -> "Settings":
        first = self.first_adapters
        _ = self.lora_rank
        if self.adapter_slots < len(first):
            raise ValueError(f"max_adapters={self.max_adapters}: there are {len(first)} adapters")
        if self.adapter_slots and not first and self.max_adapter_rank is None:
            raise ValueError("max_adapters needs max_adapter_rank where adapters is empty")
        return self

    @model_validator(mode="after")
    def _is_computed_here(self) -> "Settings":
        quantised = read_quantised(self.model)
        if built_for_cpu():
            further = self.engine_args
            refuse_on_cpu(
                quantised,
                Wanted(
                    further.get("dtype", self.dtype),
                    further.get("kv_cache_dtype", self.kv_cache_dtype),
                    bool(self.adapter_slots),
                    further.get("quantization"),
                ),
            )
        return self

    @model_validator(mode="after")
    def _nodes_agree(self) -> "Settings":
        if self.tensor_parallel_size % self.nodes:
            raise ValueError(
                f"tensor_parallel_size={self.tensor_parallel_size} is no multiple of {self.nodes} "
                "nodes: it counts the GPUs of all of them"
            )
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank={self.node_rank}: {self.nodes} nodes count from 0")
        if self.nodes > 1 and not self.leader_address:
            raise ValueError("nodes above 1 need leader_address")
        return self

    @cached_property
    def first_adapters(self) -> list[Adapter]:
        """The adapters that are served from the start."""
        adapters = parse_adapters(self.adapters)
        for adapter in adapters:
            refuse_other_template(self.model, adapter.path)
        return adapters

    @cached_property
    def lora_rank(self) -> int:
        """The largest rank that the engine is built for; read once, from the first adapters."""
        if self.max_adapter_rank is not None:
            return supported_rank(self.max_adapter_rank)
        return smallest_supported_rank(self.first_adapters) if self.first_adapters else 0

    @property
    def adapter_slots(self) -> int:
        """How many adapters the engine has room for."""
        return len(self.first_adapters) if self.max_adapters is None else self.max_adapters

    @cached_property
    def model_name(self) -> str:
        """How answers name the model."""
        return self.served_name or name_of(self.model)
