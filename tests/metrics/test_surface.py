"""Surfaces and their distances: by hand, by law, and against MONAI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wardround.metrics import surface as module
from wardround.metrics.masks import Mask
from wardround.metrics.surface import surface, surface_distances

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))


def cube(shape: Sequence[int], start: Sequence[int], size: Sequence[int]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))] = True
    return mask


def blob(shape: Sequence[int], seed: int, shift: float = 0.0) -> Mask:
    """A few soft balls at random places."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in shape), indexing="ij"), -1)
    field = np.zeros(shape)
    for _ in range(4):
        centre = random.uniform(4, np.array(shape) - 4) + shift
        field += np.exp(-((grid - centre) ** 2).sum(-1) / random.uniform(8, 20))
    return field > 0.35


def measured(a: Mask, b: Mask, spacing: Sequence[float]) -> module.SurfaceDistances:
    found = surface_distances(a, b, spacing)
    assert found is not None
    return found


def test_a_solid_square_has_its_outline_as_surface() -> None:
    outline = surface(cube((6, 6), (1, 1), (4, 4)))
    assert outline.sum() == 12  # 16 voxels less the 4 inside
    assert not outline[2:4, 2:4].any()


def test_the_image_border_is_a_surface() -> None:
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26  # all but the centre


def test_a_picture_has_a_contour_and_not_a_slab() -> None:
    """(H, W, 1): a 4 x 4 square and the same moved by one column, as (H, W)."""
    a, b = cube((8, 8, 1), (2, 2, 0), (4, 4, 1)), cube((8, 8, 1), (2, 3, 0), (4, 4, 1))
    flat, picture = measured(a[..., 0], b[..., 0], (1, 1)), measured(a, b, (1, 1, 9))
    assert picture.to_reference.size == 12
    assert sorted(picture.to_reference) == sorted(flat.to_reference)
    assert sorted(picture.to_prediction) == sorted(flat.to_prediction)


def test_two_voxels_apart_by_hand() -> None:
    """Two single voxels, 3 steps of 2 mm and 4 steps of 1.5 mm apart: sqrt(6^2 + 6^2)."""
    a, b = cube((8, 8, 3), (1, 1, 1), (1, 1, 1)), cube((8, 8, 3), (4, 5, 1), (1, 1, 1))
    found = measured(a, b, (2, 1.5, 5))
    assert found.hd95 == pytest.approx(72**0.5)
    assert found.surface_dice(72**0.5) == 1
    assert found.surface_dice(8.48) == 0


def test_hd95_is_the_larger_direction_and_not_the_pool() -> None:
    """Reference: 1 voxel at 0. Prediction: voxels at 0, 1, ..., 9 mm along a line.

    To the prediction: 0. To the reference: 0..9, whose 95th percentile lies at rank 0.95 * 9 = 8.55.
    Pooled it would be the value at rank 9.5 of 0, 0, 1, ..., 9: 8.5.
    """
    a, b = cube((12, 3), (0, 1), (1, 1)), cube((12, 3), (0, 1), (10, 1))
    found = measured(a, b, (1, 1))
    assert found.hd95 == pytest.approx(8.55)
    # within 2 mm: the reference's only voxel, and 0, 1, 2 of the prediction's ten
    assert found.surface_dice(2) == pytest.approx(4 / 11)


def test_the_tolerance_includes_its_own_distance_despite_rounding() -> None:
    a, b = cube((8, 3), (0, 1), (1, 1)), cube((8, 3), (3, 1), (1, 1))
    assert 3 * 0.1 > 0.3
    assert measured(a, b, (0.1, 1)).surface_dice(0.3) == 1
    assert measured(a, b, (float(np.float32(0.1)), 1)).surface_dice(0.3) == 1


def test_distances_grow_with_the_spacing() -> None:
    a, b = blob((20, 18, 16), 1), blob((20, 18, 16), 1, shift=1.5)
    once, twice = measured(a, b, (1, 1.2, 2)), measured(a, b, (2, 2.4, 4))
    assert twice.hd95 == pytest.approx(2 * once.hd95)
    assert twice.surface_dice(2.5) == pytest.approx(once.surface_dice(1.25))


def test_a_far_shift_is_the_distance() -> None:
    shape = (12, 12, 260)
    a, b = cube(shape, (4, 4, 2), (3, 3, 3)), cube(shape, (4, 4, 252), (3, 3, 3))
    assert measured(a, b, (1, 1, 1.5)).hd95 == pytest.approx(250 * 1.5, abs=3.1)
    assert measured(a, b, (1, 1, 1.5)).surface_dice(2) == 0


@pytest.mark.parametrize("empty", ["reference", "prediction", "both"])
def test_no_surface_no_distance(empty: str) -> None:
    full, none = cube((4, 4, 4), (1, 1, 1), (2, 2, 2)), np.zeros((4, 4, 4), bool)
    a, b = (none if empty in (name, "both") else full for name in ("reference", "prediction"))
    assert surface_distances(a, b, (1, 1, 1)) is None


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, float("nan"))])
def test_wrong_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="3 positive numbers in mm"):
        surface_distances(mask, mask, spacing)


@given(data=st.data(), a=MASKS)
def test_laws_of_the_surface_distance(data: st.DataObject, a: Mask) -> None:
    b = data.draw(hnp.arrays(np.bool_, a.shape))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * a.ndim))
    found, swapped = surface_distances(a, b, spacing), surface_distances(b, a, spacing)
    if found is None or swapped is None:
        assert not a.any() or not b.any()
        return
    assert found.hd95 == pytest.approx(swapped.hd95)
    assert 0 <= found.surface_dice(1) <= found.surface_dice(2) <= 1
    axes = data.draw(st.permutations(range(a.ndim)))
    turned = measured(a.transpose(axes), b.transpose(axes), [spacing[i] for i in axes])
    assert turned.hd95 == pytest.approx(found.hd95)
    assert turned.surface_dice(1.5) == pytest.approx(found.surface_dice(1.5))
    assert measured(a, a, spacing).hd95 == 0


@given(data=st.data(), a=MASKS)
def test_tree_and_transform_agree(data: st.DataObject, a: Mask) -> None:
    b = data.draw(hnp.arrays(np.bool_, a.shape))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.7, 1.0, 3.0])] * a.ndim))
    if b.any():
        np.testing.assert_allclose(module._by_tree(a, b, spacing), module._by_transform(a, b, spacing), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI 1.6 warns about itself
@pytest.mark.parametrize("crowded", [0, 20, 10**9])
@pytest.mark.parametrize("shape", [(24, 20, 16), (30, 26)])
def test_agrees_with_monai(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], crowded: int) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    monkeypatch.setattr(module, "CROWDED", crowded)
    spacing = (0.9, 1.1, 3.0)[: len(shape)]
    for seed in range(4):
        a, b = blob(shape, seed), blob(shape, seed if seed % 2 else seed + 10, shift=1.3)
        ours = measured(a, b, spacing)
        ref, pred = (torch.from_numpy(mask)[None, None].float() for mask in (a, b))
        hd95 = monai.compute_hausdorff_distance(pred, ref, include_background=True, percentile=95, spacing=spacing)
        dice = monai.compute_surface_dice(pred, ref, [1.37], include_background=True, spacing=spacing)
        assert ours.hd95 == pytest.approx(float(hd95), rel=1e-5)
        assert ours.surface_dice(1.37) == pytest.approx(float(dice), rel=1e-5)
