"""U-Net: O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015 (2D); the same scheme in 3D (Cicek 2016).

Different from the paper: convolutions are padded, so the output has the input's size and skips need no
cropping; each is followed by a normalisation; the rectifier may be leaky; strides may differ per axis;
every decoder level may have a head (deep supervision).
"""

from __future__ import annotations

from torch import Tensor, nn

from wardround.networks.blocks import Kit, Segmenter, UpBlock


class UNetModule(Segmenter):
    """``decoder.i`` makes the map of level i from the coarser map and the skip of level i."""

    def __init__(self, kit: Kit, channels_in: int, classes: int) -> None:
        ups = range(kit.settings.levels - 1)
        super().__init__(kit, channels_in, [kit.settings.features[i] for i in ups], classes)
        self.decoder = nn.ModuleList(UpBlock(kit, level) for level in ups)

    def decode(self, skips: list[Tensor]) -> list[Tensor]:
        """One map per decoder level, finest first."""
        x, maps = skips[-1], []
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](x, skips[level])
            maps.append(x)
        return maps[::-1]
