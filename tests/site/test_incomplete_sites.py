"""Sites that lack a modality, outline only some labels, or have little memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from monai.losses import DiceLoss

from incomplete import TASK, write_two
from tiny import make_plan
from wardround.core.errors import InputError
from wardround.core.messages import Answer, ScoreFacts, SiteSummary, Task
from wardround.data.case import MISSING
from wardround.data.dataset import open_dataset
from wardround.data.spec import DatasetSpec, unlabelled_indices
from wardround.data.store import open_store
from wardround.planning.plan import Plan
from wardround.planning.training import Loss
from wardround.site.hospital import Source, recipe_of
from wardround.site.loss import make_loss, marginal
from wardround.site.patches import Batches
from wardround.site.worker import Setting, Site


def plan_of(**training: object) -> Plan:
    steps = {"steps": 2, "batch": 2, "patch": [12, 16, 12], "precision": "fp32", **training}
    return make_plan(task=TASK, training=steps)


def site_at(plan: Plan, data: Path, root: Path, **setting: object) -> Site:
    return Site(plan, Setting("A", (Source(data),), root / "site", root / "store", **setting))  # type: ignore[arg-type]


def summary_of(plan: Plan, site: Site) -> SiteSummary:
    answer = site.answer(Task(plan=plan.digest(), round=0, verb="describe"), None)
    assert isinstance(answer, Answer), answer
    assert isinstance(answer.reply.facts, SiteSummary)
    return answer.reply.facts


def test_a_site_without_an_optional_modality_takes_part(tmp_path: Path) -> None:
    plan, data = plan_of(), write_two(tmp_path / "data", t1=False)
    summary = summary_of(plan, site_at(plan, data, tmp_path))
    assert summary.lacks == {"T1": 4}
    assert summary.left_out == {}
    assert summary.intensity["T1"].n == 0
    store = open_store(open_dataset(data), recipe_of(plan), tmp_path / "store")
    assert all((np.asarray(case.image[1]) == MISSING).all() for case in store.cases)
    batch = Batches(store.cases, plan.training, 0, "A", (1,), plan.classes).make(0)
    assert (batch.image[:, 1] == MISSING).all()  # noise and brightness do not fill an empty channel
    assert (batch.image[:, 0] != MISSING).any()


def test_without_being_optional_the_modality_is_missed(tmp_path: Path) -> None:
    plan = make_plan(task={**TASK, "optional": []}, training={"patch": [12, 16, 12]})
    dataset = open_dataset(write_two(tmp_path / "data", t1=False))
    store = open_store(dataset, recipe_of(plan), tmp_path / "store")
    assert store.cases == ()
    assert {finding.code for finding in store.findings if finding.severity == "error"} == {"missing_modality"}


@pytest.mark.parametrize(("drop", "expected"), [(0.0, 0), (1.0, 8)])
def test_an_optional_modality_that_is_there_is_dropped_at_times(tmp_path: Path, drop: float, expected: int) -> None:
    plan = plan_of(batch=8, augmentation={"drop": drop})
    store = open_store(open_dataset(write_two(tmp_path / "data")), recipe_of(plan), tmp_path / "store")
    batch = Batches(store.cases, plan.training, 0, "A", (1,), plan.classes).make(0)
    assert sum(bool((image[1] == MISSING).all()) for image in batch.image) == expected
    assert not any(bool((image[0] == MISSING).all()) for image in batch.image)


def test_a_plan_in_which_every_modality_is_optional_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one modality must be there"):
        make_plan(task={**TASK, "optional": ["T1", "FLAIR"]})
    with pytest.raises(ValueError, match="T2 is not among"):
        make_plan(task={**TASK, "optional": ["T2"]})


def test_a_site_that_outlines_one_label_is_scored_on_that_alone(tmp_path: Path) -> None:
    plan, data = plan_of(), write_two(tmp_path / "data")
    (data / "dataset.yaml").write_text(yaml.safe_dump({"unlabelled": ["shell"]}))
    site = site_at(plan, data, tmp_path)
    summary = summary_of(plan, site)
    assert summary.unlabelled == {"shell": 4}
    assert sum(summary.volume["shell"].counts) == 0
    answer = site.answer(Task(plan=plan.digest(), round=0, verb="init"), None)
    assert isinstance(answer, Answer)
    assert answer.tensors is not None
    model = tmp_path / "model.safetensors"
    shutil.copy(answer.tensors, model)
    trained = site.answer(Task(plan=plan.digest(), round=0, verb="train", tensors=answer.reply.tensors), model)
    assert isinstance(trained, Answer), trained
    for verb in ("validate", "test"):
        scored = site.answer(Task(plan=plan.digest(), round=1, verb=verb, tensors=answer.reply.tensors), model)
        assert isinstance(scored, Answer), scored
        assert isinstance(scored.reply.facts, ScoreFacts)
        assert set(scored.reply.facts.scores.labels) == {"ball"}


def test_labels_that_the_plan_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="'core' is not a label"):
        unlabelled_indices({"ball": 1}, DatasetSpec(unlabelled=("core",)))
    with pytest.raises(InputError, match="names every label"):
        unlabelled_indices({"ball": 1}, DatasetSpec(unlabelled=("Ball",)))


def test_marginal_probabilities_by_hand() -> None:
    """Logits ln 1, ln 2, ln 5 are probabilities 1/8, 2/8, 5/8; with class 2 hidden the background is 1/8 + 5/8."""
    logits = torch.log(torch.tensor([1.0, 2.0, 5.0])).reshape(1, 3, 1, 1)
    joined = torch.softmax(marginal(logits, torch.tensor([[False, False, True]])), dim=1).flatten()
    torch.testing.assert_close(joined, torch.tensor([6 / 8, 2 / 8, 0.0]))


def test_nothing_hidden_is_the_ordinary_loss_and_hidden_classes_get_no_gradient_to_vanish() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 1, 4, 4))
    loss = make_loss(Loss())
    none = torch.zeros(2, 3, dtype=torch.bool)
    torch.testing.assert_close(loss(logits, label, none), loss(logits, label))
    seen = torch.where(label == 2, 0, label)
    hidden = torch.tensor([[False, False, True]] * 2)
    # Moving probability from background to the hidden class changes nothing: the site cannot tell them apart.
    swapped = logits[:, [2, 1, 0]]
    torch.testing.assert_close(loss(logits, seen, hidden), loss(swapped, seen, hidden))


def test_the_marginal_loss_is_that_of_the_joined_classes() -> None:
    """Over the two classes that remain, background-or-hidden and 1, it is the ordinary Dice and cross-entropy."""
    torch.manual_seed(1)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 1, 4, 4))
    p = torch.softmax(logits, 1)
    two = torch.log(torch.stack([p[:, 0] + p[:, 2], p[:, 1]], 1))
    dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)
    expected = dice(two, label) + F.cross_entropy(two, label[:, 0])
    found = make_loss(Loss())(logits, label, torch.tensor([[False, False, True]] * 2))
    torch.testing.assert_close(found, expected)


def test_a_batch_in_parts_gives_the_same_update(tmp_path: Path) -> None:
    """Gradient accumulation: 4 samples at once, and 4 times one, differ by rounding alone."""
    plan, data = plan_of(batch=4, steps=1), write_two(tmp_path / "data")
    found = []
    for largest in (None, 1, 3):
        site = site_at(plan, data, tmp_path / str(largest), largest_batch=largest)
        first = site.answer(Task(plan=plan.digest(), round=0, verb="init"), None)
        assert isinstance(first, Answer)
        assert first.tensors is not None
        task = Task(plan=plan.digest(), round=0, verb="train", tensors=first.reply.tensors)
        trained = site.answer(task, first.tensors)
        assert isinstance(trained, Answer), trained
        found.append(trained.reply.facts.loss)  # type: ignore[union-attr]
        assert summary_of(plan, site).largest_batch == largest
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
