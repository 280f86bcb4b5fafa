"""Train an adapter and merge it into a model directory that any server can load."""
