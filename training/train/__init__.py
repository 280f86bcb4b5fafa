"""Train an adapter: settings, the loop, checkpoints, one process or many."""
