"""Tensors on disk, read and written as a stream, and what is computed on them."""
