"""How the pixels of a decoded image lie on its source."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PixelGrid:
    """How an image lies on its source (rows x columns): each of its pixels is the mean of factor x factor of them."""

    rows: int
    columns: int
    factor: int = 1

    def coarser(self, factor: int) -> "PixelGrid":
        """The grid of an image whose pixels are each factor x factor of this one's."""
        return replace(self, factor=self.factor * factor)
