"""What tests of the coordinator's state share."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround.core.messages import Reply, SiteFailed, Task, TrainFacts
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import public_hex
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.wire import PROTOCOL, Join

MODEL = bytes(range(256)) * 40
SHA256 = hashlib.sha256(MODEL).hexdigest()
FACTS = TrainFacts(cases=2, updates=3, samples=6, loss=0.5, rate=0.1)


def certify(name: str, key: str, end: int) -> str:
    return f"{name} {key[:8]} {end}"


def request(token: str, name: str, key: Ed25519PrivateKey | None = None) -> Join:
    public = public_hex(key or Ed25519PrivateKey.generate())
    return Join(token=token, name=name, key=public, software="0.1", protocol=PROTOCOL)


def joined(store: Store, *names: str) -> None:
    for name in names:
        store.join(request(store.invite(name, "site", 1), name), certify)


def reopened(store: Any) -> Store:
    """As after a restart."""
    store.close()
    return Store.open(store.folder, store.url)


def given(store: Store, task: Task, site: str, data: bytes = MODEL) -> Reply:
    """An answer whose tensors have come."""
    sha256 = hashlib.sha256(data).hexdigest()
    store.blobs.partial(sha256, site).write_bytes(data)
    store.blobs.settle(sha256, site)
    return Reply(task=task.id, site=site, facts=FACTS, tensors=sha256, size=len(data))


def late(task: Task, site: str) -> SiteFailed:
    return SiteFailed(task=task.id, site=site, kind="late", reason="no progress")


def refused(code: str, *arguments: Any) -> None:
    function, *rest = arguments
    with pytest.raises(Refusal) as caught:
        function(*rest)
    assert caught.value.code == code
