"""What vLLM does not have, registered by a vLLM plugin in every process of the engine."""

from service.engine.thinking import PARSER


def register() -> None:
    """Make vLLM load ChatGLM-6B and tuned prefixes, bound grammars, and be fast on a CPU.

    pyproject.toml names this as a plugin.
    """
    from transformers import CONFIG_MAPPING, AutoConfig
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.platforms import current_platform
    from vllm.reasoning import ReasoningParserManager

    from service.engine.grammars import bounded
    from service.engine.models.chatglm_6b_config import ARCHITECTURE, ChatGLM6BConfig, EngineRules

    bounded.register()
    ReasoningParserManager.register_lazy_module(
        PARSER, "service.engine.thinking.parser", "ThoughtParser"
    )
    if ChatGLM6BConfig.model_type not in CONFIG_MAPPING:  # training's own, where both are imported
        AutoConfig.register(ChatGLM6BConfig.model_type, ChatGLM6BConfig)
    MODELS_CONFIG_MAP[ARCHITECTURE] = EngineRules
    ModelRegistry.register_model(
        ARCHITECTURE, "service.engine.models.chatglm_6b:ChatGLM6BForConditionalGeneration"
    )
    ModelRegistry.register_model(
        "PrefixLlamaForCausalLM", "service.engine.models.prefix_llama:PrefixLlamaForCausalLM"
    )
    if current_platform.is_cpu():
        register_cpu_kernels()


def register_cpu_kernels() -> None:
    """Put our norm and our LoRA in the place of vLLM's, and let this process use AMX."""
    import torch
    from vllm.platforms import current_platform

    import service.engine.models.rms_norm  # noqa: F401

    # Linux lets a process use the tile registers once it has requested them. vLLM's attention in
    # bfloat16 uses them without: the engine died of an illegal instruction where no product of
    # oneDNN, which requests them, came before it
    torch.cpu._init_amx()
    # vLLM takes the name of the class from the platform; there is no other place for another
    lora = classmethod(lambda _: "service.engine.models.grouped_lora.GroupedLoRA")
    type(current_platform).get_punica_wrapper = lora
