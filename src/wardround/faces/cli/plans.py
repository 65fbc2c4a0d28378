"""``wardround plan``: look at a plan without running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wardround.networks.names import tensor_roles
from wardround.planning.plan import Plan, load_plan

plan_app = typer.Typer(help="Check a plan, or print the schema of plans.", no_args_is_help=True)


@plan_app.command("check")
def check_plan(
    plan: Annotated[Path, typer.Argument(help="The plan, YAML or JSON.")],
    full: Annotated[bool, typer.Option("--full", help="Print the plan with every default filled in.")] = False,
) -> None:
    """Validate a plan: every fault with its line, or its digest.

    Example: `wardround plan check examples/hippocampus/plan.yaml`
    """
    loaded = load_plan(plan)
    if full:
        print(json.dumps(loaded.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    print(f"{plan} is valid")
    print(f"digest  {loaded.digest()}")
    print(f"title   {loaded.study.title}")
    print(f"model   {loaded.network.name}, {loaded.task.dimensions}D, {', '.join(loaded.task.modalities)}"
          f" -> {', '.join(loaded.task.labels)}")  # fmt: skip
    print(f"work    up to {loaded.rounds.limit} rounds x {loaded.training.steps} steps, {loaded.strategy.name}")
    if loaded.private is not None:
        names = loaded.private_tensors
        print(f"private {len(names)} of {len(tensor_roles(loaded.network))} tensors never leave a site "
              f"({', '.join(loaded.private.tensors)}; where a site has none: {loaded.private.unseen}):")  # fmt: skip
        for name in names:
            print(f"        {name}")


@plan_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of plans, for editors.

    Example: `wardround plan schema > plan.schema.json`
    """
    print(json.dumps(Plan.model_json_schema(), indent=2))
