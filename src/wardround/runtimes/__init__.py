"""Floor 4: where sites run. One engine, one place that imports it."""
