"""Floor 1: reading, checking and preparing a site's own images."""
