"""PromptCBLUE's metrics, and what surrounds them: gold answers, intervals, causes of failures."""
