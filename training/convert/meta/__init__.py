"""LLaMA as Meta released it."""
