"""What this machine has and may use: processors, memory, number formats, GPUs."""
