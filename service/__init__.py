"""Serve a merged model: FastAPI over vLLM's asynchronous engine."""
