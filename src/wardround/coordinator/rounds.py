"""The rounds, as in Algorithm 1 of McMahan et al. 2017, with quorum, validation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wardround.coordinator import checkpoint
from wardround.coordinator.checkpoint import Checkpoint, sent_file
from wardround.coordinator.post import posting
from wardround.coordinator.replay import refusing_replays, remembered
from wardround.coordinator.state import State, chosen, judged
from wardround.coordinator.stopping import why_stop
from wardround.core.contracts import Aggregate, Alert, Ask, Lost
from wardround.core.errors import QuorumLost
from wardround.core.frozen import canonical_json
from wardround.core.messages import ScoreFacts, SiteFailed, SiteSummary, Task, TrainFacts, TuneFacts, Verb
from wardround.core.rundir import EventLog, RunDir
from wardround.core.scores import Scores
from wardround.core.stats import merge_all
from wardround.core.weights import Arrays, file_digest, map_tensors, write_tensors
from wardround.planning.plan import Plan


@dataclass(frozen=True)
class Run:
    """All that the rounds need; nothing in it changes."""

    plan: Plan
    dir: RunDir
    ask: Ask
    sites: tuple[str, ...]  # who trains and validates
    testers: tuple[str, ...]  # who tests the final model
    log: EventLog
    fixed: int | None = None  # a baseline takes exactly so many rounds

    @property
    def quorum(self) -> int:
        """Sites that must answer."""
        return min(self.plan.rounds.needed(len(self.sites)), len(self.sites))


def run_rounds(run: Run) -> State:
    """From the newest checkpoint to the end: rounds until the model is stable, then the test.

    Raises:
        QuorumLost: too few sites answered; what was done is kept and can be resumed.
        StorageError: the run directory cannot be written.
    """
    begin = time.perf_counter()
    point = checkpoint.load(run.dir)
    if point is None:
        describe(run)
        point = _first_weights(run)
    while (reason := why_stop(run.plan, point.state, run.fixed)) is None:
        point = one_round(run, point)
    run.log.write("run_stopped", reason=reason, rounds=point.state.round, best_round=point.state.best_round)
    _final_models(run, point)
    _test(run, point, _finetune(run, point))
    run.log.write("run_ended", seconds=time.perf_counter() - begin)
    return point.state


def describe(run: Run) -> None:
    """Ask every site for its data in sums; a site that cannot answer is a site that is missing."""
    result = _exchange(run, _task(run, 0, "describe", None), None, quorum=1)
    for answer in result.answers:
        assert isinstance(answer.reply.facts, SiteSummary)  # noqa: S101 - checked by _exchange
        run.log.write("site_described", site=answer.reply.site, summary=answer.reply.facts.model_dump(mode="json"))


def one_round(run: Run, point: Checkpoint) -> Checkpoint:
    """Train everywhere, fold, step, validate everywhere, checkpoint."""
    begin = time.perf_counter()
    plan, state = run.plan, point.state
    run.log.write("round_started", round=state.round, sites=list(run.sites))
    task = _task(run, state.round, "train", point.file, state)
    ask = refusing_replays(run.ask, state.folded, lambda site: _alert(run, task, Alert(site, "replayed")))
    aggregate = _exchange(replace(run, ask=ask), task, point.file, run.quorum)
    stepping = time.perf_counter()
    weights, shared = plan.strategy.step(point.weights, point.shared, aggregate, len(run.sites))
    stepped = time.perf_counter()
    joined = [answer.reply.site for answer in aggregate.answers]
    state = State(
        round=state.round + 1,
        accepted={**state.accepted, **dict.fromkeys(joined, state.round)},
        folded=remembered(state.folded, aggregate.answers),
        best=state.best,
        best_round=state.best_round,
        best_accepted=state.best_accepted,
        barren=state.barren,
    )
    folder = checkpoint.scratch(run.dir, state.round)
    told = plan.strategy.told(shared)
    model = checkpoint.write_model(folder, weights, told, shared)
    checkpoint.write_sent(model, weights, told, plan.transfer)
    written = time.perf_counter()
    state, scores, is_best = _validate(run, state, model)
    validated = time.perf_counter()
    if is_best:
        _export(run, model, run.dir.root / "best.safetensors", state.round)
    done = checkpoint.close(run.dir, state)
    end = time.perf_counter()
    seconds = {
        "total": end - begin,
        "train_wait": aggregate.seconds["wait"],
        "fold": aggregate.seconds["fold"],
        "step": stepped - stepping,
        "validate_wait": validated - written,
        "checkpoint": end - validated + written - stepped,
    }
    _log_round(run, task, aggregate, seconds, (scores, is_best))
    return Checkpoint(state, weights, shared, done / "model.safetensors")


def _first_weights(run: Run) -> Checkpoint:
    # Any site can draw them: they follow from the plan's seed. The first that answers, in site order, does.
    task = _task(run, 0, "init", None)
    failures: list[SiteFailed] = []
    for site in run.sites:
        result = run.plan.aggregation.collect(run.ask, task, None, [site], 1)
        if isinstance(result, Aggregate):
            weights = result.parts["weights"].arrays
            if "private" in result.parts:  # first values, which nobody has trained: what a site never seen gets
                write_tensors(run.dir.private, result.parts["private"].arrays)
            shared = dict(run.plan.strategy.begin(weights))
            told = run.plan.strategy.told(shared)
            model = checkpoint.write_model(checkpoint.scratch(run.dir, 0), weights, told, shared)
            checkpoint.write_sent(model, weights, told, run.plan.transfer)
            folder = checkpoint.close(run.dir, State())
            return Checkpoint(State(), weights, shared, folder / "model.safetensors")
        failures.extend(result.failures)
    raise _lost(run, task, Lost(tuple(failures), needed=1, got=0))


def _validate(run: Run, state: State, model: Path) -> tuple[State, Mapping[str, Scores], bool]:
    due = state.round % run.plan.evaluation.every == 0 or state.round == (run.fixed or run.plan.rounds.limit)
    if not due:
        return state, {}, False
    scores = _scores(_exchange(run, _task(run, state.round, "validate", model, state), model, quorum=1))
    dice = merge_all(scores.values(), Scores()).mean_dice
    state, is_best = judged(state, dice, run.plan.rounds.gain, run.plan.evaluation.every)
    return state, scores, is_best


def _finetune(run: Run, point: Checkpoint) -> dict[str, TuneFacts]:
    """Let each site train the final model on for itself, where the plan says so. What comes of it stays there."""
    if run.plan.finetune is None:
        return {}
    model, state = _tested(run), chosen(point.state)
    result = _exchange(run, _task(run, state.round, "finetune", model, state), model, quorum=1)
    return {a.reply.site: a.reply.facts for a in result.answers if isinstance(a.reply.facts, TuneFacts)}


def _test(run: Run, point: Checkpoint, tuned: Mapping[str, TuneFacts]) -> None:
    model, state = _tested(run), chosen(point.state)
    result = _exchange(run, _task(run, state.round, "test", model, state), model, quorum=1, sites=run.testers)
    facts = {a.reply.site: a.reply.facts for a in result.answers if isinstance(a.reply.facts, ScoreFacts)}
    missing = {failure.site: failure.reason for failure in result.failures}
    own = {site: fact.personal.model_dump(mode="json") for site, fact in facts.items() if fact.personal is not None}
    scores = {site: fact.scores.model_dump(mode="json") for site, fact in facts.items()}
    written = {"model": "best", "round": point.state.best_round, "sites": scores, "missing": missing}
    if run.plan.personal:
        tuning = {site: fact.model_dump(mode="json", exclude={"kind", "seconds"}) for site, fact in tuned.items()}
        written |= {"personal": own, "finetune": tuning}
    run.dir.write_json("scores.json", written)


def _tested(run: Run) -> Path:
    """The final model as it is sent to be fine-tuned and tested: with all tensors, for sites that never trained."""
    path = run.dir.root / "test" / "model.safetensors"
    if not path.is_file():
        checkpoint.write_model(path.parent, map_tensors(run.dir.model), {})
    return path


def _final_models(run: Run, point: Checkpoint) -> None:
    _export(run, point.file, run.dir.root / "last.safetensors", point.state.round)
    best = run.dir.root / "best.safetensors"
    source = best if best.is_file() else run.dir.root / "last.safetensors"
    model = {**_unseen(run, point), **map_tensors(source)}
    write_tensors(run.dir.model, model, _metadata(run, point.state.best_round))


def _unseen(run: Run, point: Checkpoint) -> Arrays:
    """Values of the private tensors for a site that has none: their first ones, or the mean if the plan says so."""
    private, names = run.plan.private, set(run.plan.private_tensors)
    if private is None:
        return {}
    if private.unseen == "initial":
        return {name: array for name, array in map_tensors(run.dir.private).items() if name in names}
    state = chosen(point.state)
    able = [site for site in run.sites if site in state.accepted]
    result = _exchange(run, _task(run, state.round, "share", None, state), None, quorum=1, sites=able)
    return {name: array for name, array in result.parts["weights"].arrays.items() if name in names}


def _export(run: Run, model: Path, path: Path, number: int) -> None:
    prefix = "weights/"
    arrays = {n.removeprefix(prefix): a for n, a in map_tensors(model).items() if n.startswith(prefix)}
    write_tensors(path, arrays, _metadata(run, number))


def _metadata(run: Run, number: int | None) -> dict[str, str]:
    # One key: several would be written in an order that varies, and equal models in different bytes.
    return {"wardround": canonical_json({"format": 1, "plan": run.plan.digest(), "round": number})}


def _task(run: Run, number: int, verb: Verb, model: Path | None, state: State | None = None) -> Task:
    return Task(
        plan=run.plan.digest(),
        round=number,
        verb=verb,
        first_update=number * run.plan.training.steps,
        accepted={} if state is None else state.accepted,
        best={} if state is None else state.best_accepted,
        tensors=None if model is None else file_digest(sent_file(model)),
    )


def _exchange(run: Run, task: Task, model: Path | None, quorum: int, sites: Sequence[str] | None = None) -> Aggregate:
    unpacked = run.dir.root / "unpacked"
    with posting(run.ask, run.plan.transfer, unpacked, lambda site: _alert(run, task, Alert(site, "rejected"))) as ask:
        result = run.plan.aggregation.collect(ask, task, model, sites or run.sites, quorum)
    for failure in result.failures:
        run.log.write(
            "site_failed", round=task.round, verb=task.verb, site=failure.site, kind=failure.kind, reason=failure.reason
        )
    for alert in result.alerts:
        _alert(run, task, alert)
    if isinstance(result, Lost):
        raise _lost(run, task, result)
    size = 0 if model is None else sent_file(model).stat().st_size
    for answer in result.answers:
        facts = answer.reply.facts
        if isinstance(facts, TrainFacts | ScoreFacts | TuneFacts):
            run.log.write(
                "site_replied",
                round=task.round,
                verb=task.verb,
                site=answer.reply.site,
                facts=facts.model_dump(mode="json"),
                bytes_down=size,
                bytes_up=answer.reply.size,
                seconds_transport=answer.transport,
            )
    return result


def _alert(run: Run, task: Task, alert: Alert) -> None:
    run.log.write("site_alert", round=task.round, verb=task.verb, **asdict(alert))


def _lost(run: Run, task: Task, lost: Lost) -> QuorumLost:
    run.log.write("run_stopped", reason="failed", rounds=task.round, best_round=None)
    reasons = "\n".join(f"  - {failure.site}: {failure.kind}: {failure.reason}" for failure in lost.failures)
    got = f"{lost.got} of {len(run.sites)} sites answered, {lost.needed} are needed"
    why = f" ({lost.why})" if lost.why else ""
    return QuorumLost(
        f"round {task.round}, {task.verb}: {got}{why}\n"
        f"{reasons}\nMend the sites, then go on with: wardround resume {run.dir.home}"
    )


def _scores(result: Aggregate) -> dict[str, Scores]:
    """What each site's model reaches: its own whole one, where it has one."""
    facts = {a.reply.site: a.reply.facts for a in result.answers if isinstance(a.reply.facts, ScoreFacts)}
    return {site: fact.scores if fact.personal is None else fact.personal for site, fact in facts.items()}


def _log_round(
    run: Run,
    task: Task,
    aggregate: Aggregate,
    seconds: dict[str, float],
    validation: tuple[Mapping[str, Scores], bool],
) -> None:
    scores, is_best = validation
    facts: list[Any] = [answer.reply.facts for answer in aggregate.answers]
    size = sent_file(run.dir.round(task.round) / "model.safetensors").stat().st_size
    run.log.write(
        "round_ended",
        round=task.round,
        seconds=seconds,
        scores={site: value.mean_dice for site, value in scores.items()},
        mean_dice=merge_all(scores.values(), Scores()).mean_dice,
        best=is_best,
        rate=max(fact.rate for fact in facts),
        sites=[answer.reply.site for answer in aggregate.answers],
        bytes_up=sum(answer.reply.size for answer in aggregate.answers),
        bytes_down=size * len(run.sites),
    )
