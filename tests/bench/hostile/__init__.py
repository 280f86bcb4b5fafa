"""What one person's requests cost the others."""
