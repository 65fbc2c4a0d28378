"""The tables of a coordinator's state. Two sets: what must never be lost, and what is old after minutes.

`state` is written with every guarantee that the database gives. `recent` holds nonces and signs of life:
it survives the death of the process, but need not survive a power cut.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text

SCHEMA = 1  # a coordinator's folder of another number is not opened

state = MetaData()

# "schema"; "version" (raised by every write) and "duties" (raised where sites may have something new to do).
counters = Table(
    "counters", state, Column("name", String(40), primary_key=True), Column("value", BigInteger, nullable=False)
)

principals = Table(
    "principals",
    state,
    Column("name", String(64), primary_key=True),
    Column("lower", String(64), nullable=False, unique=True),  # no two names that differ in case alone
    Column("role", String(16), nullable=False),  # site, viewer, researcher, owner
    Column("standing", String(16), nullable=False),  # active, revoked
    Column("joined", Double, nullable=False),  # Unix time, as all times here
    Column("reason", Text, nullable=False, default=""),
)

keys = Table(
    "keys",
    state,
    Column("id", String(32), primary_key=True),
    Column("key", String(64), nullable=False),  # raw Ed25519 public key, hexadecimal
    Column("name", ForeignKey("principals.name"), nullable=False, index=True),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("replaced", BigInteger),  # since when another key stands for its owner
    Column("certificate", Text, nullable=False),
)

invitations = Table(
    "invitations",
    state,
    Column("token", String(64), primary_key=True),  # SHA-256 of the token: the token itself is kept nowhere
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("rekey", Integer, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("used", String(32)),  # the id of the key that was registered with it
)

runs = Table(
    "runs",
    state,
    Column("number", Integer, primary_key=True, autoincrement=True),  # order of submission
    Column("digest", String(64), nullable=False, unique=True),
    Column("plan", Text, nullable=False),  # canonical JSON
    Column("plan_size", Integer, nullable=False),  # its bytes
    Column("standing", String(16), nullable=False),  # waiting, running, ended, failed, aborted
    Column("owner", String(64), nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("created", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("model", String(64)),
    Column("size", BigInteger, nullable=False, default=0),  # bytes of the model
    Column("outcome", Text, nullable=False, default="{}"),
)

members = Table(  # the rosters, and how each site stands to each plan
    "members",
    state,
    Column("run", ForeignKey("runs.digest"), primary_key=True),
    Column("site", ForeignKey("principals.name"), primary_key=True),
    Column("position", Integer, nullable=False),  # fold order
    Column("standing", String(16)),  # pending, approved, refused, revoked; null: has not said anything
    Column("reason", Text, nullable=False, default=""),
    Column("since", Double),
    Column("answered", Integer, nullable=False, default=0),  # tasks
    Index("members_of_site", "site"),
)

tasks = Table(
    "tasks",
    state,
    Column("id", String(160), primary_key=True),
    Column("run", ForeignKey("runs.digest"), nullable=False, index=True),
    Column("round", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    Column("tensors", String(64)),
    Column("size", BigInteger, nullable=False, default=0),
    Column("opened", Double, nullable=False),
    Column("closed", Double, index=True),
    Column("pruned", Integer, nullable=False, default=0),  # its tensors and those of its answers are gone
)

asked = Table(  # to whom a task was put, and what came of it
    "asked",
    state,
    Column("task", ForeignKey("tasks.id"), primary_key=True),
    Column("site", ForeignKey("principals.name"), primary_key=True),
    Column("kind", String(16)),  # reply or failure; null: undecided
    Column("body", Text),  # canonical JSON of the Reply or SiteFailed
    Column("tensors", String(64)),
    Column("seconds", Double, nullable=False, default=0.0),  # spent on moving
    Index("asked_of_site", "site", "kind"),
)

heads = Table(  # heads of audit logs that one side showed and the other signed
    "heads",
    state,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("site", ForeignKey("principals.name"), nullable=False),
    Column("own", Integer, nullable=False),  # 0: of the site's log, signed here; 1: of ours, signed by the site
    Column("length", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("signature", String(128), nullable=False),
    Index("heads_of_site", "site", "own"),
)

recent = MetaData()

nonces = Table(
    "nonces",
    recent,
    Column("key", String(32), primary_key=True),
    Column("nonce", String(64), primary_key=True),
    Column("created", BigInteger, nullable=False, index=True),
)

progress = Table(
    "progress",
    recent,
    Column("task", String(160), primary_key=True),
    Column("site", String(64), primary_key=True),
    Column("taken", Double, nullable=False),  # when the site was first told of the task
    Column("moved", Double, nullable=False),  # last sign of progress
)

visits = Table(
    "visits",
    recent,
    Column("name", String(64), primary_key=True),
    Column("seen", Double, nullable=False),
    Column("software", String(40), nullable=False),
)
