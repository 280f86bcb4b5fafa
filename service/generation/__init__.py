"""From a prompt and its parameters to completions, on any engine."""
