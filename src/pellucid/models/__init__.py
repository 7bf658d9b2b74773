"""The three families, built from a config."""
