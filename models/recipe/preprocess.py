"""Turns a photo into a network's input tensor as its `model.toml` asks.

This is the reference for every other implementation:

1. The image is decoded and converted to 8-bit RGB. An EXIF orientation is not
   applied, nor is a colour profile.
2. It is resized by `[input.resize]` with Pillow's `Image.resize`: 8 bits per
   channel in and out, antialiased when it shrinks (the filter's support grows
   with the ratio), horizontal pass first, each pass rounded to 8 bits. Bicubic
   has a = -0.5.
   - `stretch`: the whole image to `to` x `to`, then the centre crop.
   - `short-side`: the short side becomes `to`, the long side
     floor(to * long / short), then the centre crop.
   - `centre-square`: no rounding to whole pixels. The square has the real-valued
     side min(width, height) * fraction and its left and top edges at
     (width - side) / 2 and (height - side) / 2; it goes straight to `size` x
     `size` through the `box` argument of `Image.resize`, which takes 32-bit
     floats. Output pixel i is centred on left + (i + 0.5) * side / size, and the
     filter may reach pixels outside the square, but not outside the image.
3. The centre crop starts at floor((side - size) / 2).
4. Channels are put in `channel_order`; the tensor is (x - mean) / deviation as
   f32, laid out `[1, 3, size, size]`.
"""

import tomllib
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def load_manifest(path: Path) -> dict:
    """Reads a `model.toml`."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def tensor(image: Image.Image, manifest: dict) -> np.ndarray:
    """Returns the f32 input `[1, 3, size, size]` of the network for one image."""
    wanted = manifest["input"]
    pixels = np.asarray(resize(image.convert("RGB"), wanted["size"], wanted["resize"]), np.float32)
    if wanted["channel_order"] == "bgr":
        pixels = pixels[:, :, ::-1]
    mean, deviation = (np.array(wanted[key], np.float32) for key in ("mean", "deviation"))
    return np.ascontiguousarray(((pixels - mean) / deviation).transpose(2, 0, 1)[np.newaxis])


def resize(image: Image.Image, size: int, rule: dict) -> Image.Image:
    """Returns the image as `size` x `size` pixels by one of the three methods."""
    width, height = image.size
    short = min(width, height)
    resample = FILTERS[rule["filter"]]
    match rule["method"]:
        case "stretch":
            return centre_crop(image.resize((rule["to"], rule["to"]), resample), size)
        case "short-side":
            target = (rule["to"] * width // short, rule["to"] * height // short)
            return centre_crop(image.resize(target, resample), size)
        case "centre-square":
            side = short * rule["fraction"]
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            return image.resize((size, size), resample, box=box)
        case other:
            raise ValueError(f"unknown resize method {other!r}")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Cuts `size` x `size` pixels out of the middle."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
