"""Floor 1: how the sites' contributions become one, one file each."""
