"""Merge adapters into a base model, exactly and one tensor at a time."""
