"""vLLM's engine: how it is started, asked and ended."""
