"""``heads.json``: the heads of the site's audit log that the coordinator signed.

The newest one vouches for every entry before it, so a few are enough; older ones help to say where a
log went wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from wardround.core.audit import SignedHead
from wardround.core.errors import StorageError
from wardround.core.frozen import canonical_json
from wardround.site.private_files import write_private

MOST = 64


def read_heads(path: Path) -> list[SignedHead]:
    """Oldest first; none where there is no file.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        rows = json.loads(path.read_bytes())["heads"]
        return [SignedHead.model_validate(row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise StorageError(f"{path} cannot be read: nobody but Ward Round should write it") from error


def add_head(path: Path, head: SignedHead) -> None:
    """Remember one more; the newest `MOST` stay."""
    known = [*read_heads(path), head][-MOST:]
    write_private(path, canonical_json({"heads": [one.model_dump(mode="json") for one in known]}).encode())
