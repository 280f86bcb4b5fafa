"""ChatGLM-6B for transformers, under a model type of our own: importing this registers it."""

from transformers import AutoConfig, AutoModelForCausalLM

from training.chatglm.configuration import ChatGLM6BConfig
from training.chatglm.modeling import ChatGLM6BForConditionalGeneration

__all__ = ["MODEL_TYPE", "ChatGLM6BConfig", "ChatGLM6BForConditionalGeneration"]
MODEL_TYPE = ChatGLM6BConfig.model_type

AutoConfig.register(ChatGLM6BConfig.model_type, ChatGLM6BConfig, exist_ok=True)
AutoModelForCausalLM.register(ChatGLM6BConfig, ChatGLM6BForConditionalGeneration, exist_ok=True)
