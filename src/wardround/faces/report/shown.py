"""How numbers are written: one spelling everywhere, and a dash where there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTHING = "–"


def decimal(value: float | None, digits: int = 3) -> str:
    """``0.742``; a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, ``+0.031`` or ``−0.012``; zero has none."""
    if value is None:
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def percent(value: float | None) -> str:
    """A share in [0, 1] as ``97.1 %`` (units never break off)."""
    return NOTHING if value is None else f"{100 * value:.1f}\u00a0%"


def whole(value: int | None) -> str:
    """``12 480``, with a thin space between thousands."""
    return NOTHING if value is None else f"{value:,}".replace(",", "\u202f")


def size(count: float) -> str:
    """Bytes in decimal units: ``3.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f}\u00a0{unit}" if unit == "B" or count >= 99.5 else f"{count:.1f}\u00a0{unit}"
        count /= 1000
    return f"{count:.1f}\u00a0TB"


def duration(seconds: float | None) -> str:
    """``0.42 s``, ``38 s``, ``12 min 5 s`` or ``3 h 20 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.2g}\u00a0s" if seconds >= 0.005 else "0\u00a0s"
    if seconds < 59.5:
        return f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s" if rest else f"{minutes}\u00a0min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}\u00a0h {minutes}\u00a0min" if minutes else f"{hours}\u00a0h"


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 case``, ``2 cases``."""
    return f"{whole(count)} {one if count == 1 else many or one + 's'}"


def listed(words: Iterable[str], joint: str = "and") -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    items = list(words)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {joint} {items[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Runs of whole numbers: ``3, 5–7``."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def shortened(text: str, limit: int) -> str:
    """Cut to ``limit`` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
