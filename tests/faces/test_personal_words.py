"""What a site keeps of a model, in the words by which a hospital approves the plan."""

from __future__ import annotations

from typing import Any

import report_fixtures as made

from wardround.faces.report.words import leaves, plan_words, stays
from wardround.networks.catalog import UNet
from wardround.networks.names import tensor_roles


def plan_of(**sections: Any) -> dict[str, Any]:
    return {**made.PLAN, **sections}


def test_every_private_tensor_is_named() -> None:
    said = " ".join(stays(plan_of(private={"tensors": ["norm.affine", "heads.*"], "unseen": "initial"})))
    roles = tensor_roles(UNet(features=(16, 32, 64, 128)))
    private = [name for name, role in roles.items() if role in ("norm.affine", "head")]
    assert all(name in said for name in private)
    assert not any(f" {name}," in said for name in set(roles) - set(private))
    assert f"These are {len(private)} of its {len(roles)} tensors" in said
    assert "the scale and shift of the normalisation and heads.*" in said


def test_nothing_is_said_where_nothing_is_kept() -> None:
    assert len(stays(made.PLAN)) == 1
    assert not [s for s in leaves(made.PLAN) if "last round" in s]


def test_sending_private_tensors_at_the_end_is_said_only_where_it_is_done() -> None:
    for unseen, words in (("mean", "the sites' mean"), ("initial", "their first, untrained values")):
        plan = plan_of(private={"tensors": ["norm"], "unseen": unseen})
        sent = [sentence for sentence in leaves(plan) if "averaged for sites that did not take part" in sentence]
        assert bool(sent) == (unseen == "mean")
        kept = [sentence for sentence in stays(plan) if "encoder.0.norm1.weight" in sentence]
        assert bool(kept) == (unseen == "initial")
        assert all("encoder.0.norm1.weight" in sentence for sentence in sent)
        assert "without those that each site keeps for itself" in leaves(plan)[1]
        assert words in " ".join(topic.text for topic in plan_words(plan))


def test_fine_tuning_and_own_models_are_said() -> None:
    plan = plan_of(finetune={"steps": 40, "rate": None}, strategy={"name": "ditto", "strength": 0.1})
    text = " ".join(topic.text for topic in plan_words(plan))
    assert "trains the model on for itself, 40 steps, and keeps the outcome only if its own validation cases" in text
    assert "whether fine-tuning was kept" in " ".join(leaves(plan))
    assert {"The site's own model, which it trains beside the shared one."} <= set(stays(plan))
    assert "(Ditto, λ = 0.1)" in text


def test_a_network_of_another_version_does_no_harm() -> None:
    said = stays(plan_of(network={"name": "unet9000"}, private={"tensors": ["head"]}))
    assert said[1] == "Of the model the last layer: each site has its own."
