"""Weights of 4 bits, calibrated on a user's own rows (GPTQ)."""
