"""What we use of vLLM is still there: after an upgrade, the first test to run."""

import ast
import importlib
from pathlib import Path

import pytest

from service.parameters import MOST_BIASED_TOKENS, MOST_MIN_TOKENS_ENDS

SERVICE = Path("service")
# of service/engine, and its models/: what the upgrade guide names
FILES = {
    "vllm_engine.py", "engine_args.py", "conversion.py", "async_llm.py", "openai_app.py",
    "ahead.py", "forked.py", "outputs.py", "refusals.py", "bounded.py", "trial.py",
    "parser.py",
}  # fmt: skip
# used through objects, so that no import shows them: class, and its attribute
MEMBERS = [
    ("vllm.v1.engine.async_llm.AsyncLLM", name)
    for name in (
        "from_engine_args", "generate", "abort", "add_lora", "remove_lora", "errored",
        "get_tokenizer", "shutdown",
    )
] + [
    ("vllm.v1.engine.output_processor.OutputProcessor", name)
    for name in ("propagate_error", "add_request", "process_outputs", "update_scheduler_stats")
] + [
    ("vllm.v1.metrics.stats.SchedulerStats", "kv_cache_usage"),
    ("vllm.v1.structured_output", "GuidanceBackend"),
    ("vllm.v1.structured_output.backend_guidance.GuidanceGrammar", "fill_bitmask"),
    ("vllm.v1.structured_output.backend_guidance.GuidanceGrammar", "accept_tokens"),
    ("vllm.v1.engine.async_llm", "OutputProcessor"),
    ("vllm.v1.engine.detokenizer", "FastIncrementalDetokenizer"),
    ("vllm.v1.engine.logprobs", "convert_ids_list_to_tokens"),
    ("vllm.v1.engine.utils", "get_mp_context"),
    ("vllm.engine.arg_utils.AsyncEngineArgs", "numa_bind"),
    ("vllm.config.ModelConfig", "get_vocab_size"),
    ("vllm.config.SchedulerConfig", "max_num_seqs"),
    ("vllm.usage.usage_lib.UsageContext", "OPENAI_API_SERVER"),
    ("vllm.v1.executor.multiproc_executor.MultiprocExecutor", "start_worker_monitor"),
    ("vllm.model_executor.layers.layernorm.RMSNorm", "register_oot"),
    ("vllm.platforms.cpu.CpuPlatform", "get_punica_wrapper"),
    ("vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU", "_apply_shrink"),
    ("vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU", "_apply_expand"),
    ("vllm.v1.metrics.stats.RequestStateStats", "first_token_latency"),
    ("vllm.sampling_params.SamplingParams", "structured_outputs"),
    ("vllm.sampling_params.SamplingParams", "detokenize"),
]  # fmt: skip


def imported_names(source: str) -> set[tuple[str, str]]:
    """(module, name) of every `from vllm… import name`; name is empty for `import vllm…`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            found |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.startswith("vllm")}
    return found


def vanished(names: set[tuple[str, str]]) -> list[str]:
    """Those that this vLLM does not have."""
    gone = []
    for module, name in sorted(names):
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            gone.append(f"{module} ({error})")
            continue
        if name and not hasattr(loaded, name):
            gone.append(f"{module}.{name}")
    return gone


def vanished_members() -> list[str]:
    gone = []
    for path, member in MEMBERS:
        module, _, name = path.rpartition(".")
        owner = getattr(importlib.import_module(module), name, None)
        fields = getattr(owner, "__struct_fields__", ()) or getattr(owner, "__annotations__", ())
        if not (hasattr(owner, member) or member in fields):
            gone.append(f"{path}.{member}")
    return gone


def test_every_name_that_we_take_from_vllm_exists() -> None:
    taken = {
        (str(path), name)
        for path in sorted(SERVICE.rglob("*.py"))
        for name in imported_names(path.read_text("utf-8"))
    }
    assert len(taken) > 10, "no imports found: is this run from the project's root?"
    gone = vanished({name for _, name in taken}) + vanished_members()
    where = [f"  {path}" for path, (m, n) in sorted(taken) if any(g.startswith(m) for g in gone)]
    assert not gone, "vLLM no longer has:\n" + "\n".join([*gone, "which concerns:", *where])


def test_our_limits_are_within_those_of_the_sampler_on_a_gpu() -> None:
    """Beyond them its worker raises, and the engine dies with all requests."""
    sampler = importlib.import_module("vllm.v1.worker.gpu.sample.logit_bias")
    assert MOST_BIASED_TOKENS <= sampler.MAX_NUM_ALLOWED_TOKEN_IDS
    assert MOST_BIASED_TOKENS <= sampler.MAX_NUM_LOGIT_BIAS_TOKENS
    ends_of_models = 16
    assert MOST_MIN_TOKENS_ENDS + ends_of_models <= sampler.MAX_NUM_STOP_TOKEN_IDS


def test_a_vanished_name_is_told() -> None:
    names = {("vllm.sampling_params", "BestOf"), ("vllm.nowhere", "X"), ("vllm.inputs", "")}
    assert [line.split(" (")[0] for line in vanished(names)] == [
        "vllm.nowhere", "vllm.sampling_params.BestOf",
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["service", "client", "training"])
def test_only_the_files_of_the_upgrade_guide_import_vllm(part: str) -> None:
    importing = {
        path
        for path in Path(part).rglob("*.py")
        if imported_names(path.read_text("utf-8")) and "models" not in path.parts
    }
    assert {path.name for path in importing} <= (FILES if part == "service" else set())
