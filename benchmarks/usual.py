"""The usual way from a file to a small image, as studies do it: no mask, no geometry, no side."""

from pathlib import Path

import numpy as np
import pydicom
import torch
from PIL import Image
from skimage.transform import resize
from torch import Tensor
from torch.utils.data import Dataset

SIZE = 128


def small(file: Path) -> np.ndarray:
    """Decode a file and reduce it to 128 x 128 with scikit-image, float64 in [0, 1]."""
    pixels = np.asarray(Image.open(file)) if file.suffix == ".png" else pydicom.dcmread(file).pixel_array
    return resize(pixels, (SIZE, SIZE), anti_aliasing=True)


def prepare(files: list[Path], out: Path) -> None:
    """Save a small PNG of each file."""
    for file in files:
        Image.fromarray(np.rint(small(file) * 255).astype(np.uint8)).save(out / f"{file.stem}.png")


class ImageFiles(Dataset):
    """PNG files, opened, resized and converted to tensors anew in every epoch."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        """Count the files."""
        return len(self._files)

    def __getitem__(self, position: int) -> Tensor:
        """Read one image (1, S, S), in 0..1."""
        image = Image.open(self._files[position])
        most = 65535 if image.mode.startswith("I") else 255
        return torch.from_numpy(np.array(image.resize((SIZE, SIZE)), dtype=np.float32))[None] / most
