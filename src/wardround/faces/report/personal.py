"""The models of the sites' own, beside the shared one: who gained by having one, and what fine-tuning did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from wardround.core.errors import RunError
from wardround.core.scores import Scores
from wardround.faces.report.collect import Material, at
from wardround.faces.report.history import number
from wardround.faces.report.shown import counted, decimal, listed
from wardround.faces.report.table import difference, figures


@dataclass(frozen=True)
class Personal:
    """One site's test Dice: of the shared model as it is there, of the site's own, and of its local-only one."""

    site: str
    cases: int
    shared: float | None
    own: float | None
    local: float | None
    note: str = ""

    @property
    def over_shared(self) -> float | None:
        """Own minus shared."""
        return difference(self.own, self.shared)

    @property
    def over_local(self) -> float | None:
        """Own minus local-only."""
        return difference(self.own, self.local)


def personal(material: Material) -> list[Personal]:
    """The sites in the run's order; empty where none has a whole model of its own."""
    written = _written(material)
    own, tuned, local = _scores(written.get("personal")), written.get("finetune"), material.local_scores()
    tuned = tuned if isinstance(tuned, dict) else {}
    rows = []
    for site in material.sites:
        shared = figures(material.own.scores.get(site))
        if site not in own and site not in tuned:
            continue
        mine = figures(own[site]).dice if site in own else shared.dice  # not kept: the site uses the shared one
        note = _note(tuned[site]) if site in tuned else ""
        rows.append(Personal(site, shared.cases, shared.dice, mine, figures(local.get(site)).dice, note))
    return rows


def personal_scores(material: Material) -> dict[str, Scores]:
    """Test scores of the sites' own whole models, by site."""
    return _scores(_written(material).get("personal"))


def personal_remarks(material: Material) -> list[str]:
    """What a reader must know of the sites' own models, in sentences."""
    remarks, plan = [], material.plan
    if at(plan, "private.tensors"):
        said = listed(map(str, at(plan, "private.tensors", [])))
        remarks.append(f"Each site is scored with its own private tensors ({said}) in the shared model.")
    own = sum(facts.personal_updates for facts in material.own.history.training_facts())
    if own:
        remarks.append(
            "Each site trained two models: a round costs twice the steps, and samples count both. The round whose "
            "models are kept was chosen by the sites' own models on validation cases."
        )
    worse = [row.site for row in personal(material) if row.over_local is not None and row.over_local < 0]
    if worse:
        remarks.append(f"At {listed(worse)} the site's own model is worse than its local-only one.")
    return remarks


def _note(fact: Any) -> str:
    if not isinstance(fact, dict):
        return ""
    change = f"validation Dice {decimal(number(fact.get('before')))} to {decimal(number(fact.get('after')))}"
    steps = fact.get("updates")
    work = f" in {counted(steps, 'step')}" if isinstance(steps, int) else ""
    return f"fine-tuning {'kept' if fact.get('kept') is True else 'not kept'}: {change}{work}"


def _written(material: Material) -> Mapping[str, Any]:
    try:
        found = material.run.read_json("scores.json")
    except RunError:  # not tested yet, or said elsewhere
        return {}
    return found if isinstance(found, dict) else {}


def _scores(value: Any) -> dict[str, Scores]:
    found = {}
    for site, scores in value.items() if isinstance(value, dict) else ():
        try:
            found[str(site)] = Scores.model_validate(scores)
        except ValidationError:
            continue
    return found
