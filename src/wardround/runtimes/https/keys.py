"""Private keys as files: mode 0600, and refused where others could read them."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from wardround.core.errors import StorageError
from wardround.site.private_files import write_private


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a private key, mode 0600."""
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        StorageError: it is missing, damaged, or can be read by others on this machine.
    """
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        if path.stat().st_mode & 0o077:
            raise StorageError(
                f"{path} can be read by others and that cannot be changed there: move the folder to a file system "
                "with permissions"
            )
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StorageError(f"{path} is damaged: restore it from a backup, or ask for a new invitation") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"{path} is not an Ed25519 key")
    return key
