"""``wardround demo``: four synthetic hospitals train one model in a few minutes."""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from wardround.core.rundir import RunDir
from wardround.data.phantom import write_hospitals
from wardround.faces.cli.runs import execute
from wardround.metrics.threshold import best_threshold_dice
from wardround.planning.plan import load_plan
from wardround.planning.sites import SiteEntry, SitesFile
from wardround.runtimes.assemble import create

LOCAL_SITE = 0  # the local-only column covers one site to save time


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for images and the run; default wardround-demo, -2, -3 ...")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31)] = 0,
) -> None:
    """Four SYNTHETIC hospitals with MS lesions on four scanners train one model.

    Makes the images, trains federated, pooled and one local-only model with equal updates, and ends
    with a table and a report. A few minutes on two processor cores.

    Example: `wardround demo --out /tmp/demo`
    """
    console = Console(stderr=True)
    out = out or _unused(Path("wardround-demo"))
    place = RunDir((out / "run").resolve())
    place.make_free()
    folders = _hospitals(console, out / "hospitals", seed)
    plan_file = Path(str(resources.files("wardround.faces") / "demo_plan.yaml"))
    plan = load_plan(plan_file).model_copy(update={"seed": seed})
    names = [folder.name.removeprefix("site_") for folder in folders]
    sites = SitesFile(sites=tuple(SiteEntry(name=n, folder=str(f)) for n, f in zip(names, folders, strict=True)))
    where = dict(zip(names, (folder.resolve() for folder in folders), strict=True))
    text = plan_file.read_text(encoding="utf-8")
    create(place, plan, sites, where, ["pooled", f"local:{names[LOCAL_SITE]}"], text)
    execute(place)
    _threshold(where)


def _unused(folder: Path) -> Path:
    tries = (folder if n == 1 else folder.with_name(f"{folder.name}-{n}") for n in itertools.count(1))
    return next(path for path in tries if not path.exists())


def _hospitals(console: Console, out: Path, seed: int) -> list[Path]:
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("making SYNTHETIC images", total=None)
        return write_hospitals(out, seed, progress=lambda done, total: bar.update(task, completed=done, total=total))


def _threshold(folders: dict[str, Path]) -> None:
    print("Best single FLAIR threshold, chosen on the very cases it is scored on (SYNTHETIC data), lesion Dice:")
    for name, folder in folders.items():
        images, masks = [], []
        for mask in sorted((folder / "masks").iterdir()):
            image = folder / "images" / mask.name.replace("_mask", "_FLAIR")
            images.append(np.asarray(nib.load(image).dataobj, np.float32))
            masks.append(np.asarray(nib.load(mask).dataobj) > 0)
        _, dice = best_threshold_dice(images, masks)
        print(f"  {name:<16} {dice:.3f}")
