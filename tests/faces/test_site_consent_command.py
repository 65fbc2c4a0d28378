"""The commands with which a person at a hospital decides, on the site folder alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from site_commands import DIGEST, Run, call, failed, good, make_home, offer, plain, words_of

from tiny import make_plan, plan_dict, write_case
from wardround.core.audit import AuditLog
from wardround.core.errors import StorageError
from wardround.faces.cli.site_consent import opened
from wardround.runtimes.https.home import Home
from wardround.site.policy import default_policy


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def run() -> Run:
    return call


def test_from_request_to_revocation(home: Home, run: Run) -> None:
    listed = good(run("requests"))
    assert DIGEST[:12] in listed
    assert "A tiny study" in listed
    assert "pending" in listed
    assert "train a 3D U-Net, up to 2 rounds" in listed
    approved = good(run("approve", DIGEST[:8], "--name", "Dr. A", "--reason", "fine"))
    assert f"Approved: A tiny study ({DIGEST[:12]}), by Dr. A" in approved
    assert "8 cases" in approved
    assert "approved" in good(run("requests"))
    revoked = good(run("revoke", DIGEST[:8], "--name", "Dr. B", "--reason", "consent withdrawn"))
    assert "“consent withdrawn”" in revoked
    assert "The name stays here" in revoked
    assert "no model holds anything from here" in revoked
    assert "revoked" in good(run("requests"))
    log = good(run("log"))
    assert [word in log for word in ("plan received", "person Dr. A", "reason consent withdrawn")] == [True] * 3
    assert good(run("log", "--tail", "1")).count("\n") == 1


def test_refusing_says_what_the_coordinator_is_told(home: Home, run: Run) -> None:
    said = good(run("refuse", DIGEST[:8], "--name", "Dr. A", "--reason", "no vote"))
    assert "with your reason: “no vote”" in said
    assert "refused" in good(run("requests"))


def test_revoking_lists_what_had_left_and_the_models_that_hold_it(home: Home, run: Run) -> None:
    good(run("approve", DIGEST, "--name", "Dr. A"))
    log = AuditLog(home.audit)
    for number in (0, 1):
        task = f"{DIGEST}:{number}:train:0"
        log.append("answered", plan=DIGEST, task=task)
        log.append("left", plan=DIGEST, task=task, kind="tensors", bytes=1_500_000, sha256="0" * 64)
    home.result(DIGEST).mkdir(parents=True)
    (home.result(DIGEST) / "model.safetensors").write_bytes(b"")
    said = good(run("revoke", DIGEST, "--name", "Dr. A", "--reason", "enough"))
    assert "3.0 MB had left" in said
    assert "rounds 1–2" in said
    assert "cannot be unlearned" in said
    assert str(home.result(DIGEST) / "model.safetensors") in said


def test_show_says_everything_and_the_page_says_the_same(home: Home, run: Run) -> None:
    screen = good(run("show", DIGEST[:6]))
    path = Path(good(run("show", DIGEST[:6], "--html")).strip())
    assert path == home.requests / f"{DIGEST}.html"
    assert path.stat().st_mode & 0o777 == 0o600
    page = words_of(path.read_text())
    screen = plain(screen)
    for text in (
        DIGEST,
        "A tiny study",
        "To learn what a ball is.",
        "2025-17",
        "nobody here has decided yet",
        "Exactly what would leave, and how often",
        "The trained weights",
        "after each round of training",
        "First weights, drawn at random before any image was seen",
        "Scores on the test cases, in sums",
        "once, at the end",
        "The model has 4 762 numbers",
        "Images, label maps, predictions, file names, case names",
        "The coordinator sees each site’s weights by themselves",
        "What was contributed cannot be unlearned: revoking stops further tasks only",
        "8 cases: 3 to train on, 3 to validate, 2 to test",
        "Only 3 cases here would be trained on",
        "allows this plan",
        f"wardround site approve {DIGEST[:12]} --name 'Your name' --dir '{home.root}'",
    ):
        assert text in screen, text
        assert text in page, text
    identity = opened(None)[1].watch.identity().digest
    assert identity in screen
    assert identity in page


def test_the_page_needs_nothing_and_lets_nothing_act(home: Home, run: Run) -> None:
    hostile = make_plan(
        study={"title": "<script>alert(1)</script>[bold]\x1b[31m", "purpose": "<img src=x onerror=alert(1)>"}
    )
    offer(hostile)
    page = Path(good(run("show", hostile.digest(), "--html")).strip()).read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert re.search(r"default-src &#39;none&#39;|default-src 'none'", page)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    screen = good(run("show", hostile.digest()))
    assert "\x1b" not in screen
    assert "<script>alert(1)</script>[bold]?[31m" in plain(screen)
    assert "\x1b" not in good(run("requests"))


def test_a_changed_dataset_asks_again_in_plain_words(home: Home, run: Run, tmp_path: Path) -> None:
    good(run("approve", DIGEST, "--name", "Dr. A"))
    write_case(tmp_path / "data", "case_00", 500)
    listed = good(run("requests"))
    assert "the dataset changed since approval: 1 case changed" in listed
    assert "Waiting for approval again" in good(run("show", DIGEST))
    assert "It was asked again because the dataset changed" in good(run("approve", DIGEST, "--name", "Dr. A"))
    assert "approved" in good(run("requests"))


def test_what_the_policy_forbids_is_shown_and_not_approved(home: Home, run: Run) -> None:
    home.policy.write_text(default_policy().replace("most_rounds: 500", "most_rounds: 1"))
    assert "policy.yaml does not allow it: most_rounds" in good(run("show", DIGEST))
    assert "It does not allow this plan" in Path(good(run("show", DIGEST, "--html")).strip()).read_text()
    assert "most_rounds" in failed(run("approve", DIGEST, "--name", "Dr. A"))
    home.policy.unlink()
    assert "policy.yaml does not exist" in plain(good(run("show", DIGEST)))


def test_wrong_input_is_named(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "too short" in failed(run("show", DIGEST[:3]))
    assert "no plan that was asked for" in failed(run("approve", "0" * 12, "--name", "Dr. A"))
    assert "only an approval can be revoked" in failed(run("revoke", DIGEST, "--name", "A", "--reason", "b"))
    assert run("revoke", DIGEST, "--name", "A").exit_code == 2
    assert run("approve", DIGEST).exit_code == 2
    monkeypatch.setenv("WARDROUND_SITE", str(home.root / "nowhere"))
    assert "is not a site folder" in failed(run("requests"))
    good(run("requests", "--dir", str(home.root)))


def test_no_request_yet(home: Home, run: Run) -> None:
    (home.requests / f"{DIGEST}.json").unlink()
    assert "no plan was asked for yet" in good(run("requests"))


def test_a_stored_plan_that_was_changed_is_named(home: Home, run: Run) -> None:
    (home.requests / f"{DIGEST}.json").write_text("{}")
    listed = good(run("requests"))
    assert "the stored plan cannot be used" in listed
    assert "was changed after it arrived" in listed
    assert "was changed after it arrived" in failed(run("show", DIGEST))


def test_a_wrong_policy_is_told_beside_the_requests_in_plain_words(home: Home, run: Run) -> None:
    good(run("approve", DIGEST, "--name", "Dr. A"))
    assert "policy.yaml" not in good(run("requests"))
    home.policy.write_text("wardround: 1\nmost_rounds: lots\nfoo: 1\n")
    assert "nothing runs: `wardround site policy` lists what to mend" in plain(good(run("requests")))
    write_case(Path(home.settings().data), "case_00", 99)  # it has to be asked what to do with a changed dataset
    for command in (["requests"], ["show", DIGEST]):
        told = plain(good(run(*command)))
        assert "policy.yaml is not valid (2 faults): line" in told
        assert "; line" in told
        for field in ("most_rounds: ", "foo: "):
            assert field in told
        assert "? " not in told


def test_policy_is_checked_shown_and_written(home: Home, run: Run) -> None:
    shown = good(run("policy"))
    assert "is valid" in shown
    assert re.search(r"most_bytes_a_round +1\.0 GB", shown)
    assert "exists" in failed(run("policy", "--write"), StorageError)
    home.policy.write_text("wardround: 1\nmost_rounds: lots\nfoo: 1\n")
    fault = failed(run("policy"))
    assert "line 2" in fault
    assert "line 3" in fault
    home.policy.unlink()
    assert "--write" in failed(run("policy"))
    assert "is valid" in good(run("policy", "--write"))
    assert home.policy.read_text() == default_policy()


def test_scaffold_says_that_gradients_leave(home: Home, run: Run) -> None:
    sgd = {**plan_dict()["training"], "optimiser": {"name": "sgd", "momentum": 0}}
    plan = make_plan(strategy={"name": "scaffold"}, training=sgd)
    offer(plan)
    shown = plain(good(run("show", plan.digest())))
    assert "The change of the control variate" in shown
    assert "gradients can keep traces" in shown
    assert "This site’s own control variate: only its changes are sent." in shown
    assert "momenta" not in shown.partition("What never leaves")[2].partition("The plan in plain words")[0]
