"""Floor 3: the rounds. Imports neither torch nor anything of a site."""
