"""Floor 5: what people see: the command line and the report."""
