"""A dataset that changed asks again, says what changed, and is read again only where it did."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from consent_place import DIGEST, PLAN, Place, task

from tiny import write_case
from wardround.core.audit import read_entries
from wardround.core.errors import DatasetError, SiteError
from wardround.site.consent import AGAIN, UNREADABLE
from wardround.site.identity import DatasetWatch


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_changed_dataset_asks_again_says_what_changed_and_goes_on_after_one_approval(place: Place) -> None:
    place.approve()
    write_case(place.data, "case_00", 999)
    for sub in ("images", "masks"):
        (place.data / sub / "case_07.nii.gz").unlink()
    write_case(place.data, "case_new", 1000)
    changed = place.consents.permission(PLAN, task())
    assert (changed.allowed, changed.standing, changed.reason) == (False, "pending", AGAIN)
    assert changed.detail == "the dataset changed since approval: 1 case changed, 1 case removed, 1 case added"
    assert place.consents.permission(PLAN, task()) == changed
    assert place.events() == ["plan_received", "approved", "asked_again"], "said once, not at every poll"
    place.consents.decide(DIGEST, "approved", "Dr. A")
    assert place.consents.permission(PLAN, task()).allowed


def test_a_spec_that_changed_asks_again(place: Place) -> None:
    place.approve()
    (place.data / "dataset.yaml").write_text("description: corrected\n")
    assert "what dataset.yaml says changed" in place.consents.permission(PLAN, task()).detail


def test_touching_a_file_changes_nothing(place: Place) -> None:
    place.approve()
    place.age()
    for path in place.data.rglob("*.nii.gz"):
        path.touch()
    assert place.consents.permission(PLAN, task()).allowed


def test_a_policy_may_let_dataset_changes_pass_into_the_log(place: Place) -> None:
    place.policy(confirm_dataset_changes=False)
    place.approve()
    write_case(place.data, "case_00", 999)
    assert place.consents.permission(PLAN, task()).allowed
    assert place.consents.permission(PLAN, task()).allowed
    assert place.events() == ["plan_received", "approved", "dataset_changed"]
    entry = list(read_entries(place.root / "audit.jsonl"))[-1]
    assert (entry["what"], entry["confirmed"]) == ("1 case changed", False)


def test_files_are_read_again_only_where_they_changed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import wardround.site.identity as module

    monkeypatch.setattr(module, "SETTLED", -(10**12))  # ctime cannot be set back: all files count as old
    read: list[str] = []
    real = module.file_digest
    monkeypatch.setattr(module, "file_digest", lambda path: (read.append(path.name), real(path))[1])
    watch = place.open().watch
    first = watch.identity()
    assert len(read) == 16
    assert watch.identity() == first
    assert place.open().watch.identity() == first, "another process finds the cache"
    assert len(read) == 16
    write_case(place.data, "case_03", 77)
    assert watch.identity() != first
    assert len(read) == 18
    (place.root / "dataset.json").write_text('{"files": [1, 2')
    assert place.open().watch.identity() == watch.identity(), "a damaged cache is read anew"
    assert len(read) == 34


def test_a_file_that_was_just_written_is_read_again(place: Place) -> None:
    """Within the grain of a file system's clock a change can leave size and times as they were."""
    watch = place.consents.watch
    path = place.data / "masks" / "case_00.nii.gz"
    write_case(place.data, "case_00", 5)
    before, seen = watch.identity(), path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert watch.identity() != before


def test_the_identity_is_keyed_with_the_sites_secret(place: Place, tmp_path: Path) -> None:
    other = DatasetWatch(place.data, tmp_path / "elsewhere", tmp_path / "cache.json")
    assert other.identity().digest != place.consents.watch.identity().digest
    text = json.dumps(sorted(place.consents.watch.identity().cases))
    assert "case_00" not in text


def test_a_dataset_that_cannot_be_read_allows_nothing(place: Place) -> None:
    place.approve()
    place.data.rename(place.data.with_name("away"))
    found = place.consents.permission(PLAN, task())
    assert (found.allowed, found.standing, found.reason) == (False, "approved", UNREADABLE)
    assert str(place.data) in found.detail
    assert str(place.data) not in found.reason
    with pytest.raises(DatasetError):
        place.consents.decide(DIGEST, "approved", "Dr. A")


def test_too_few_cases_after_a_withdrawal_are_told_as_what_they_are(place: Place) -> None:
    place.policy(confirm_dataset_changes=False)
    place.approve()
    for number in range(2, 8):
        for sub in ("images", "masks"):
            (place.data / sub / f"case_{number:02}.nii.gz").unlink()
    found = place.consents.permission(PLAN, task())
    assert (found.allowed, found.standing, found.failure) == (False, "approved", "refused")
    assert found.reason == "only 2 usable subjects: training, validation and test need at least 3"
    assert place.consents.permission(PLAN, task()) == found
    assert place.events()[-1] == "too_few_cases"
    assert place.events().count("too_few_cases") == 1, "said once, not at every poll"
    with pytest.raises(SiteError, match="only 2 usable subjects"):
        place.consents.decide(DIGEST, "approved", "Dr. A")


def test_a_file_name_that_is_not_utf8_is_named(place: Place) -> None:
    raw = os.fsencode(place.data / "images") + b"/caf\xe9.nii.gz"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    assert place.open().watch.identity() == place.open().watch.identity()
    with pytest.raises(DatasetError, match=r"caf\\udce9.*not UTF-8"):
        place.approve()
    assert not place.consents.permission(PLAN, task()).allowed


def test_parts_are_those_that_the_site_will_train_on(place: Place) -> None:
    parts = place.consents.watch.parts(PLAN)
    assert sum(parts.values()) == 8
    assert np.all([count >= 2 for count in parts.values()])
