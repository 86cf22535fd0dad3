"""What the daemon knows of itself, as one value."""
