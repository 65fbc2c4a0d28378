"""Every parser that reads what another party wrote: an example it takes, how it is called, and how it may refuse."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hostile import bytes_from, json_bytes
from pydantic import ValidationError

from tiny import make_plan
from wardround.aggregation.contributions import opened
from wardround.core import messages
from wardround.core.audit import AuditLog, read_entries, verify
from wardround.core.documents import parse_document
from wardround.core.errors import InputError, WardRoundError
from wardround.core.weights import Part, map_tensors, pack, slots, write_tensors
from wardround.planning.plan import Plan
from wardround.runtimes.https import signing, wire
from wardround.runtimes.https.invitations import Invitation, read_invitation
from wardround.site.policy import DEFAULT, Policy

HEX = "0123456789abcdef" * 4
TASK = messages.Task(plan=HEX, round=3, verb="train", accepted={"A": 1}, tensors=HEX)


@dataclass(frozen=True)
class Parser:
    """One of them."""

    name: str
    broken: Callable[[random.Random], bytes]  # a broken example
    parse: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...]
    example: bytes


def examples() -> dict[str, messages.Frozen]:
    """A message of every kind."""
    facts = messages.TrainFacts(cases=3, updates=4, samples=8, loss=0.5, rate=0.01)
    key, certificate = "ab" * 32, "-----BEGIN CERTIFICATE-----"
    work = wire.Work(task=TASK, size=10)
    federation = wire.Federation(id="0f" * 16, name="F", software="0.1", key=key, authority=certificate)
    values: list[messages.Frozen] = [
        TASK,
        messages.Reply(task=TASK.id, site="A", facts=facts, tensors=HEX, size=10),
        messages.Reply(task=TASK.id, site="A", facts=messages.SiteSummary(dataset=HEX, cases={"train": 3})),
        messages.SiteFailed(task=TASK.id, site="A", kind="error", reason="no"),
        federation,
        wire.Join(token="t" * 43, name="A", key=key, software="0.1", protocol=1),
        wire.Rekey(key=key, proof="cd" * 64),
        wire.Joined(name="A", certificate=certificate, expires=1),
        wire.Poll(protocol=1, software="0.1", wait=1.5, knows=(HEX,)),
        wire.Next(do=work),
        wire.Next(do=wire.Offer(plan=HEX, size=100), stopped=(HEX,)),
        wire.Next(do=wire.Results(plan=HEX, model=HEX, size=5, outcome={"rounds": 3})),
        wire.Next(do=wire.Incompatible(reason="old")),
        wire.Consent(plan=HEX, standing="approved", reason="ok"),
        wire.Received(received=5),
        wire.Moved(what="training", done=1, total=5),
        wire.Going(wanted=True),
        wire.Head(length=5, hash=HEX),
        wire.Heads(signature="cd" * 64, time=5, own=wire.Head(length=5, hash=HEX)),
        wire.Refused(code="closed", message="late", received=4),
    ]
    return {f"{type(value).__name__}-{number}": value for number, value in enumerate(values)}


def _message(name: str, value: messages.Frozen) -> Parser:
    whole = json.loads(value.canonical())
    kind = type(value)
    return Parser(
        name,
        lambda rng: json_bytes(rng, whole),
        kind.model_validate_json,
        (ValidationError,),
        value.canonical().encode(),
    )


def _plan() -> list[Parser]:
    plan = make_plan()
    whole = json.loads(plan.canonical())
    text = yaml.safe_dump(whole).encode()

    def document(data: bytes) -> Plan:
        return parse_document(data.decode("utf-8", "replace"), Plan, "plan")

    def written(rng: random.Random) -> bytes:
        return bytes_from(rng, text) if rng.random() < 0.5 else json_bytes(rng, whole)

    return [
        Parser(
            "plan-json", lambda rng: json_bytes(rng, whole), Plan.model_validate_json, (ValidationError,), text_of(plan)
        ),
        Parser("plan-yaml", written, document, (InputError,), text),
    ]


def text_of(value: messages.Frozen) -> bytes:
    """Canonical JSON as it is sent."""
    return value.canonical().encode()


def _tensors(folder: Path) -> list[Parser]:
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b.c": np.ones(5, np.float16)}
    file, given = folder / "made.safetensors", folder / "given.safetensors"
    write_tensors(file, *pack({"weights": Part(arrays, 2.0), "shared": Part({"s": np.zeros(2)}, 1.0)}))
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def broken(rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return bytes_from(rng, whole)
        text = json_bytes(rng, header)
        size = len(text) if rng.random() < 0.8 else rng.choice([0, 7, 2**63, 2**64 - 1, 10**8])
        return size.to_bytes(8, "little") + text + whole[8 + length :]

    def contribution(data: bytes) -> Any:
        given.write_bytes(data)
        with ExitStack() as stack:
            return opened(stack, "A", given).form()

    def mapped(data: bytes) -> Any:
        given.write_bytes(data)
        return slots(given), {name: array.sum() for name, array in map_tensors(given).items() if array.dtype != bool}

    return [
        Parser("tensors-contribution", broken, contribution, (WardRoundError,), whole),
        Parser("tensors-model", broken, mapped, (WardRoundError,), whole),
    ]


def _signatures() -> list[Parser]:
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    known = {signing.key_id(signing.public_hex(key)): key.public_key()}
    target, nothing = "/v1/next?x=1", bytes(32)
    asked = signing.sign_request(key, "POST", target, "0f" * 16, nothing)
    request = signing.Message.of("POST", target, asked)
    answered = signing.sign_response(key, 200, nothing, request)

    def headers(data: bytes) -> dict[str, str]:
        rows = (line.partition(b": ") for line in data.split(b"\n"))
        return {name.decode("latin-1"): value.decode("latin-1") for name, _, value in rows}

    def packed(value: dict[str, str]) -> bytes:
        return "\n".join(f"{name}: {text}" for name, text in value.items()).encode("latin-1")

    def question(data: bytes) -> Any:
        return signing.verify_request("POST", target, headers(data), known.get)

    def answer(data: bytes) -> Any:
        return signing.verify_response(200, headers(data), request, key.public_key())

    refusals = (signing.BadSignature,)
    return [
        Parser("signed-request", lambda rng: bytes_from(rng, packed(asked)), question, refusals, packed(asked)),
        Parser("signed-response", lambda rng: bytes_from(rng, packed(answered)), answer, refusals, packed(answered)),
    ]


def _invitation() -> Parser:
    made = Invitation(url="https://host:8443", name="A", token="t" * 43, fingerprint=HEX)
    text = made.text().encode()
    return Parser(
        "invitation",
        lambda rng: bytes_from(rng, text),
        lambda data: read_invitation(data.decode("utf-8", "replace")),
        (InputError,),
        text,
    )


def _audit(folder: Path) -> Parser:
    log = AuditLog(folder / "audit.jsonl")
    for number in range(4):
        log.append("request", number=number, site="A")
    whole, given = log.path.read_bytes(), folder / "given.jsonl"

    def parse(data: bytes) -> Any:
        given.write_bytes(data)
        found = verify(given)
        assert found.clean or found.faults
        assert found.clean == (data in {b"".join(whole.splitlines(keepends=True)[:n]) for n in range(5)}), data
        return list(read_entries(given))

    return Parser("audit-log", lambda rng: bytes_from(rng, whole), parse, (WardRoundError,), whole)


def _policy() -> Parser:
    text = DEFAULT.replace("quiet_hours: []", "quiet_hours: ['22:00-06:00', 'Mon-Fri 07:00-19:00']").encode()

    def parse(data: bytes) -> Any:
        return parse_document(data.decode("utf-8", "replace"), Policy, "policy.yaml")

    return Parser("policy", lambda rng: bytes_from(rng, text), parse, (InputError,), text)


def all_parsers(folder: Path) -> dict[str, Parser]:
    """All of them; ``folder`` is for scratch files."""
    found = [*(_message(name, value) for name, value in examples().items()), *_plan(), *_tensors(folder)]
    found += [*_signatures(), _invitation(), _audit(folder), _policy()]
    return {parser.name: parser for parser in found}


def attack(parser: Parser, times: int, seed: int) -> int:
    """Parse so many broken examples; returns how many were refused. Raises on anything but a refusal."""
    rng, refused = random.Random(f"{parser.name} {seed}"), 0  # noqa: S311 - can be repeated
    for number in range(times):
        data = parser.broken(rng)
        try:
            parser.parse(data)
        except parser.refusals:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{parser.name}, example {number} of seed {seed}: {data[:2000]!r}") from error
    return refused
