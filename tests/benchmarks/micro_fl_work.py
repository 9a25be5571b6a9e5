"""What Micro-FL's evaluation is repeated with: images of MNIST's shape, and a small perceptron.

A module of its own: a run on ``processes`` keeps the source of the dataset's and the model's class
and defines them again in each of its processes, with all that this file imports.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

SIDE = 28
SHIFT = 2  # pixels, at most, in each direction
NOISE = 0.1  # standard deviation, where 0 is white and 1 is ink
HELD_OUT = 0.2  # share of the originals of which no client has a copy


def make_digits(path: str, rows: int, seed: int) -> None:
    """Make as many images as asked for, and write them to an ``.npz`` file.

    There are no more than 1797 handwritten digits in scikit-learn, of 8x8 pixels. They are scaled
    up to 28x28; a fifth of them is held out, and of the others each row is one, in turn, moved by
    up to two pixels and put under noise. So rows of different clients, and of training and
    validation, may come from one original: what is measured on them says what a fault changes, and
    not how well digits are read that nobody saw. For that there are those held out.

    Parameters
    ----------
    path : str
        Of the file: ``images`` (rows, 28, 28) and ``held_out_images`` as uint8 from 0 (white) to
        255 (ink), as in MNIST; ``targets`` and ``held_out_targets``.
    rows : int
        How many, without those held out.
    seed : int
        Of the generator that chooses, moves and makes the noise.
    """
    from sklearn.datasets import load_digits  # slow, and nothing that a run needs

    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    large = nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear").squeeze(1).numpy()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(large))
    held_out, kept = np.split(order, [round(HELD_OUT * len(large))])
    chosen = np.resize(kept, rows)  # again from the first when all were taken
    made = _moved(large[chosen], generator)
    made += np.float32(NOISE) * generator.standard_normal(made.shape, dtype=np.float32)
    np.savez(
        path,
        images=_as_bytes(made),
        targets=digits.target[chosen],
        held_out_images=_as_bytes(large[held_out]),
        held_out_targets=digits.target[held_out],
    )


def _moved(images: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return (rows, 28, 28) images, each moved by pixels of its own; white comes in."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    down, right = generator.integers(2 * SHIFT + 1, size=(2, len(images), 1))
    pixels = np.arange(SIDE)
    rows = np.arange(len(images))[:, None, None]
    return padded[rows, (down + pixels)[:, :, None], (right + pixels)[:, None, :]]


def _as_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


class Digits(Dataset):
    """The images of a file of :func:`make_digits`, as (784,) float32 tensors from 0 to 1.

    Parameters
    ----------
    path : str
    held_out : bool
        Those of which no client has a copy.
    """

    def __init__(self, path: str, held_out: bool = False) -> None:
        part = "held_out_" if held_out else ""
        with np.load(path) as file:
            self.images = torch.from_numpy(file[f"{part}images"]).flatten(1).float() / 255
            self.targets = torch.from_numpy(file[f"{part}targets"])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])


class Perceptron(nn.Module):
    """784-32-10."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 10) from (rows, 784)."""
        return self.layers(x)
