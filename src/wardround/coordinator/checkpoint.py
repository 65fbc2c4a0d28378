"""Checkpoints: after every round, whole or not there.

A checkpoint's model file is also what is sent, unless the plan's transfer says otherwise: then a second file beside it
is sent, and the first stays what contributions are added to.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from wardround.coordinator.state import State
from wardround.core.containers import compress
from wardround.core.errors import RunError, StorageError
from wardround.core.parcels import pack_as
from wardround.core.rundir import RunDir
from wardround.core.weights import Arrays, Part, map_tensors, pack, unpack, write_bytes, write_tensors
from wardround.planning.transfer import Transfer

KEEP = 2
SENT = "sent.safetensors"
SENT_COMPRESSED = SENT + ".zst"


@dataclass(frozen=True)
class Checkpoint:
    """A state with its weights and the strategy's shared state."""

    state: State
    weights: Arrays
    shared: Arrays
    file: Path


def write_model(folder: Path, weights: Arrays, told: Arrays, shared: Arrays | None = None) -> Path:
    """``model.safetensors`` with the weights and what sites are told, ready to be sent; ``shared`` beside it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}") from error
    arrays, metadata = pack({"weights": Part(weights, 1.0), "shared": Part(told, 1.0)})
    path = folder / "model.safetensors"
    write_tensors(path, arrays, metadata)
    if shared:
        write_tensors(folder / "shared.safetensors", shared)
    return path


def write_sent(model: Path, weights: Arrays, told: Arrays, transfer: Transfer) -> None:
    """What travels in the place of `write_model`'s ``model``, beside it; nothing where that travels itself."""
    if transfer.exact:
        return
    path = model.with_name(SENT)
    arrays, metadata = pack_as({"weights": Part(weights, 1.0), "shared": Part(told, 1.0)}, transfer.downward)
    write_tensors(path, arrays, metadata)
    if transfer.zstd is not False:
        compress(path, model.with_name(SENT_COMPRESSED), transfer.zstd)
        path.unlink()


def sent_file(model: Path) -> Path:
    """What is sent for ``model``: see `write_sent`."""
    others = (model.with_name(SENT_COMPRESSED), model.with_name(SENT))
    return next((path for path in others if path.is_file()), model)


def scratch(run: RunDir, number: int) -> Path:
    """Where the checkpoint of round ``number`` grows until `close` makes it count."""
    return run.round(number).with_suffix(".part")


def close(run: RunDir, state: State) -> Path:
    """Make the growing checkpoint the newest one; older ones but `KEEP` are removed. Returns its folder."""
    growing, done = scratch(run, state.round), run.round(state.round)
    write_bytes(growing / "state.json", state.canonical().encode())
    try:
        shutil.rmtree(done, ignore_errors=True)
        growing.replace(done)
        write_bytes(run.root / "latest", done.name.encode())
        for old in sorted(path for path in done.parent.iterdir() if path.suffix != ".part")[:-KEEP]:
            shutil.rmtree(old)
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint {done}: {error.strerror}") from error
    return done


def load(run: RunDir) -> Checkpoint | None:
    """The newest whole checkpoint, or None before the first.

    Raises:
        RunError: it is damaged.
    """
    try:
        name = (run.root / "latest").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise RunError(f"{run.root} is not a run directory: it has no file 'latest'") from error
    if not name:
        return None
    folder = run.root / "rounds" / name
    try:
        state = State.model_validate_json((folder / "state.json").read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"the checkpoint {folder} is damaged: {error}") from error
    parts = unpack(folder / "model.safetensors")
    private = folder / "shared.safetensors"
    shared = map_tensors(private) if private.is_file() else {}
    return Checkpoint(state, parts["weights"].arrays, shared, folder / "model.safetensors")
