"""The transfer section of a plan: in how many bytes models travel."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wardround.core.encoding import Encoding, Kind
from wardround.core.frozen import Frozen

Level = Annotated[int, Field(ge=1, le=19, strict=True)]


class Transfer(Frozen):
    """How models and contributions are written for their way: docs/decisions/0010-update-encodings.md.

    By default as float32, bit for bit. A contribution that is not, or whose model was not, holds the change of
    the model that was sent; what rounding took from it is added to the site's next one (error feedback).
    """

    up: Kind = Field(default="fp32", description="of what sites send: bf16 is 1/2, int8 1/4 of the bytes")
    down: Kind = Field(default="fp32", description="of the model that sites receive; the coordinator keeps float32")
    block: int = Field(default=1024, ge=64, le=65536, description="numbers that share a scale, in int8")
    zstd: Literal[False] | Level = Field(default=False, description="level 1 to 19 of a compression on top")

    @property
    def upward(self) -> Encoding:
        """Of a contribution to training."""
        return Encoding(kind=self.up, block=self.block, updates=(self.up, self.down) != ("fp32", "fp32"))

    @property
    def downward(self) -> Encoding:
        """Of the model, and of what a strategy tells with it."""
        return Encoding(kind=self.down, block=self.block)

    @property
    def exact(self) -> bool:
        """True where the file that is sent is the checkpoint's own."""
        return self.down == "fp32" and self.zstd is False
