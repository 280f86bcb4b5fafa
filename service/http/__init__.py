"""What stands between the socket and the routes: limits, keys, logs, traces."""
