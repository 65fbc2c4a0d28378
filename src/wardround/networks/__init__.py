"""Segmentation networks: `catalog` holds the settings (no torch), `build` makes the module."""
