"""Floor 1: aggregation strategies, one file each with both halves; no torch here."""
