"""Detectors that say what they were shown, where a process that is started can find them."""

import os
import signal

import numpy as np

from uniter.regions.regions import Regions


class Plain:
    """Says how large a picture is and how bright its corner."""

    feature_size = 3
    fingerprint = "plain"
    class_names = ("background", "thing")

    def detect(self, images):
        return [self.features(image, np.array([[0, 0, *image.size]])) for image in images]

    def features(self, image, boxes):
        features = np.tile(np.array([[*image.size, image.getpixel((0, 0))[0]]], np.float32), (len(boxes), 1))
        probs = np.tile(np.array([[0.25, 0.75]], np.float32), (len(boxes), 1))
        return Regions(features, boxes.astype(np.float32), *image.size, probs, np.ones(len(boxes), np.float32))


class Bucketed(Plain):
    """Notes the sizes in each batch; likes pictures of one height together."""

    def __init__(self):
        self.batches = []

    def batch_key(self, size):
        return size[1]

    def detect(self, images):
        self.batches.append([image.size for image in images])
        return super().detect(images)


class Spoilt(Plain):
    """Cannot do pictures of certain widths, each in its own way."""

    def detect(self, images):
        widths = {image.width for image in images}
        if 10 in widths:
            raise RuntimeError("CUDA out of memory,\nin two lines")
        if 11 in widths:
            return []
        return [self.spoil(image.width, regions) for image, regions in zip(images, super().detect(images))]

    def spoil(self, width, regions):
        features, boxes, probs = regions.features, regions.boxes, regions.class_probs
        if width == 12:
            return None
        if width == 13:
            return Regions(features, boxes, 1, 1, None)
        if width == 14:
            return Regions(features[:, :2], boxes, 1, 1, probs)
        if width == 15:
            return Regions(features * 1e6, boxes, 1, 1, probs)
        if width == 16:
            return Regions(features, boxes, 1, 1, probs[:, :1])
        return regions


class Broken(Plain):
    """Was built for another torch."""

    def detect(self, images):
        raise ImportError("does not fit")


class Dying(Spoilt):
    """Takes its process with it."""

    def detect(self, images):
        if any(image.getpixel((0, 0))[0] == 16 for image in images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(images)


class KilledOnce(Spoilt):
    """Takes its process with it once, and leaves a file that says so."""

    def __init__(self, mark):
        self.mark = mark

    def detect(self, images):
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(images)
