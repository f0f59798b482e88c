"""UNITER: one joint representation of images and text, from pixels to submission file."""

__version__ = "0.1.0"
