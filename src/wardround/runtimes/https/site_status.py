"""How a site stands, from its folder alone."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from wardround.core.errors import InputError, StorageError
from wardround.runtimes.https.fetching import fetched_results
from wardround.runtimes.https.home import Home
from wardround.site.policy import load_policy


def site_status(home: Home) -> dict[str, Any]:
    """JSON-ready facts; nothing is asked of the coordinator. Raises InputError where site.json has faults."""
    settings, consents = home.settings(), home.consents()
    served = _served(home)
    doing = home.noted_json(home.serving, {}) if served else {}
    return {
        "site": settings.name,
        "federation": settings.federation.name,
        "coordinator": settings.url,
        "folder": str(home.root),
        "dataset": settings.data,
        "key until": time.strftime("%Y-%m-%d", time.localtime(settings.expires)),
        "served": f"yes, by process {doing.get('pid', '?')}" if served else "no: `wardround site serve` does",
        "doing": doing.get("doing", ""),
        "problem": doing.get("problem", ""),
        "policy": _policy_fault(home),
        "plans": dict(Counter(request.permission.standing for request in consents.all())),
        "results": len(fetched_results(home)),
    }


def _policy_fault(home: Home) -> str:
    try:
        load_policy(home.policy)
    except InputError:
        return "wrong, so nothing is allowed: `wardround site policy` lists what to mend"
    return ""


def _served(home: Home) -> bool:
    try:
        os.close(home.lock())
    except StorageError:
        return True
    return False
