"""Structured outputs and words to leave out: what is refused, what is measured, what bounds it."""
