"""Weights as others publish them, turned into model directories: config, safetensors, tokenizer."""
