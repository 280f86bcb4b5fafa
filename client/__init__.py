"""Ask a served model for the answers to a test set and score them; needs httpx and tqdm alone."""
