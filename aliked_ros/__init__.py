"""ALIKED features, LightGlue matches and persistent tracks from camera images."""

__version__ = "0.1.0"
