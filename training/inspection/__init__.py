"""Looking at data before it is trained on."""
