"""Regions of images: what they are, where they are kept, and how they are found."""

from uniter.regions.regions import Regions as Regions
