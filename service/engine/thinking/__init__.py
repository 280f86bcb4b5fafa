"""Thoughts that a model writes before its answer: found, switched, and told apart from it."""

PARSER = "mergeline"
"""Name of the parser in vLLM."""
