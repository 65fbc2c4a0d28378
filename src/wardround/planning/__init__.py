"""Floor 2: what to do (plan) and with whom (sites file). Imports no torch."""
