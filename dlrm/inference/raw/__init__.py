"""Raw rows into features."""
