"""What a site gets: plans to consider, and at the end the final model, as a run directory of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from wardround import __version__
from wardround.core.errors import StorageError, WardRoundError
from wardround.core.rundir import RunDir
from wardround.core.weights import slots
from wardround.planning.plan import Plan
from wardround.runtimes.https.client import Client
from wardround.runtimes.https.home import Home, SiteSettings, write_private
from wardround.runtimes.https.journal import Journal
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.transfer import Transfers
from wardround.runtimes.https.wire import MESSAGE, Offer, Results
from wardround.site.consent import Consents

MOST = 200  # digests in one poll
SHARED = "shared.safetensors"  # where the site has a model of its own
OUTCOME = "outcome.json"  # written last: where it is, everything is


def fetch_plan(client: Client, consents: Consents, journal: Journal, offer: Offer) -> Plan:
    """Fetch a plan and keep it for people to decide about.

    Raises:
        WardRoundError: it is not the one that was offered, or this software cannot carry it out.
        Rejected, Unreachable: see `Client.call`.
    """
    path = f"/v1/plans/{offer.plan}"
    text = client.patience.persist(lambda: client.exchange("GET", path, b"", bound=MESSAGE))
    plan = consents.receive(text)
    if plan.digest() != offer.plan:
        raise WardRoundError("the plan that was sent is not the one that was offered (wrong digest)")
    journal.arrived("plan", len(text), offer.plan, plan=offer.plan)
    say("plan_received", plan=offer.plan[:12], title=plan.study.title, next="wardround site requests")
    return plan


def fetch_results(
    home: Home,
    settings: SiteSettings,
    transfers: Transfers,
    journal: Journal,
    results: Results,
    plan: Plan,
    going: Callable[[], None] = lambda: None,
) -> Path:
    """Make ``results/<digest>/``: a run directory with the model that this site uses, for `evaluate` and `predict`.

    That is the final model that all sites are given, unless this one has a model of its own: then the shared
    one lies beside it, as ``shared.safetensors``.

    Raises:
        WardRoundError: the model is not one of this plan.
        StorageError: the disk is full or not writable.
        Rejected, Unreachable: see `Client.call`.
    """
    run = RunDir(home.result(results.plan))
    if (run.root / OUTCOME).is_file():
        return run.root
    shared = run.root / SHARED if plan.personal else run.model
    new = not shared.is_file()
    transfers.download(results.model, results.size, shared, going)
    if _maker(shared) != results.plan:
        shared.unlink()
        raise WardRoundError("the final model that was sent was made by another plan")
    if new:
        journal.arrived("model", results.size, results.model, plan=results.plan)
    mine = RunDir(home.run(results.plan)).model  # written when this site tested it
    has_own = plan.personal and mine.is_file() and _maker(mine) == results.plan
    if plan.personal:
        _copy(mine if has_own else shared, run.model)
    write_private(run.root / "plan.json", plan.canonical().encode())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"arm": "federated", "name": "federated", "plan": results.plan, "site": settings.name, "fetched": now}
    kind = {"simulation": False, "software": __version__, "model": "own" if has_own else "shared"}
    home.write_json(run.root / "run.json", {**about, **kind})
    home.write_json(run.root / OUTCOME, results.outcome)
    say("results", plan=results.plan[:12], folder=str(run.root))
    return run.root


def known_plans(home: Home) -> list[str]:
    """Digests of the plans that arrived, oldest first; at most as many as a poll can name."""
    return [path.stem for path in _by_age(home.requests.glob("*.json")) if len(path.stem) == 64][-MOST:]


def fetched_results(home: Home) -> list[str]:
    """Digests of the runs whose results are here; as `known_plans`."""
    return [path.name for path in _by_age((home.root / "results").glob("*")) if (path / OUTCOME).is_file()][-MOST:]


def _copy(source: Path, target: Path) -> None:
    scratch = target.with_suffix(".part")
    try:
        shutil.copyfile(source, scratch)
        scratch.chmod(0o600)
        scratch.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


def _by_age(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _maker(model: Path) -> str | None:
    try:
        said = json.loads(slots(model)[1]["wardround"])
        return str(said["plan"])
    except (KeyError, ValueError, TypeError):
        return None
