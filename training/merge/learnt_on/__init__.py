"""Adapters that were learnt on a quantised base, and what becomes of that when they are merged."""
