"""Ward Round: hospitals train one segmentation model together, and no image leaves a hospital."""

__version__ = "0.1.0"
