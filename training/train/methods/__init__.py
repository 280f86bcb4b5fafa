"""What trains: adapters on a frozen base, or the base itself."""
