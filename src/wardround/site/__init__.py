"""Floor 3: what happens at a hospital."""
