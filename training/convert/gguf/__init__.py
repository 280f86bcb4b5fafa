"""llama.cpp's format."""
