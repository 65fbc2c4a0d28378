"""``wardround purge``: the preprocessed store is patient data, and this removes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wardround.core.errors import Fault, InputError
from wardround.data.store import default_root, forget_deals, list_stores
from wardround.data.store import purge as remove

MEGA = 1 << 20


def purge(
    names: Annotated[list[str] | None, typer.Argument(help="Stores to remove, as listed.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Remove every store and remembered split.")] = False,
) -> None:
    """List the preprocessed stores on this machine, or remove them. Original images are never touched.

    Examples: `wardround purge`, `wardround purge --all`, `wardround purge 3f2a...-9b1c...`
    """
    root = default_root()
    stores = {folder.name: (folder, size) for folder, size in list_stores(root)}
    chosen = list(stores) if all_ else list(names or [])
    unknown = [name for name in chosen if name not in stores]
    if unknown:
        raise InputError(f"no such store under {root}", [Fault(name, "is not listed") for name in unknown])
    if not chosen and not all_:
        _list(root, stores)
        return
    for name in chosen:
        folder, size = stores[name]
        remove(folder)
        print(f"removed {name}, {size / MEGA:.1f} MB")
    if all_:
        print(f"forgot {forget_deals(root)} splits of sites' subjects")


def _list(root: Path, stores: dict[str, tuple[Path, int]]) -> None:
    if not stores:
        print(f"no stores under {root}")
        return
    print(f"stores under {root} (patient data; remove with `wardround purge NAME` or `--all`):")
    for name, (folder, size) in stores.items():
        print(f"  {name}  {size / MEGA:8.1f} MB  {_origin(folder)}")


def _origin(folder: Path) -> str:
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "half-built"
    return f"{len(index['cases'])} cases of {index['folder']}"
