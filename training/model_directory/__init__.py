"""What lies in a model directory beside its weights: configuration, tokenizer, provenance."""
