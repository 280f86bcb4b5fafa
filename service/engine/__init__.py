"""vLLM's engine: how it is started, called and ended."""
