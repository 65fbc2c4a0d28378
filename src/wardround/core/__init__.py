"""Floor 0: values and contracts that every other room speaks. Imports nothing of the project."""
