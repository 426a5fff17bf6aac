"""An offline mirror of TCGA whole-slide images at a low, known resolution."""

__version__ = "0.1.0"
