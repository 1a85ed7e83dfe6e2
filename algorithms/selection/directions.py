"""Preference directions, and the neighbourhoods of one from which Robust Preference Selection samples.

A direction is a unit vector over objectives; on the circle its angle is atan2(second, first), in degrees. Every
neighbourhood has exactly k members within `theta_max` of its target, or is refused: fewer would compare unequal
numbers of candidates.

Mao, Shi, Gu and Wei, "Robust Preference Alignment via Directional Neighborhood Consensus" (arXiv 2510.20498).
"""

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

GRID_STEP = 5.0
GRID_LIMIT = 40.0
"""Degrees; the published candidates are the multiples of the step from -40 to 40, whatever the target is."""
INVERSE_POINTS = 4097
"""Points of the tabulated distribution function from which angles are drawn."""


def direction(weights: npt.ArrayLike) -> FloatArray:
    """The unit vector [d] along weights [d], d >= 2.

    Raises: ValueError for a weight that is not finite, or a vector of no length.
    """
    vector = np.asarray(weights, dtype=np.float64)
    if vector.ndim != 1 or len(vector) < 2:
        raise ValueError(f"a preference weighs two or more objectives, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"a preference's weights have to be finite numbers, got {vector.tolist()}")
    largest = np.abs(vector).max()
    if largest == 0.0:
        raise ValueError("a preference needs a weight other than 0: a vector of length 0 points nowhere")
    scaled = vector / largest
    return np.asarray(scaled / np.linalg.norm(scaled), dtype=np.float64)


def at_angle(degrees: float) -> FloatArray:
    """The direction (cos, sin) of an angle on the circle, [2]."""
    if not math.isfinite(degrees):
        raise ValueError(f"an angle has to be a finite number of degrees, got {degrees}")
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def angle_of(vector: npt.ArrayLike) -> float:
    """The angle of a direction on the circle, in degrees, within (-180, 180]."""
    first, second = np.asarray(vector, dtype=np.float64)
    return math.degrees(math.atan2(second, first))


def angle_between(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """The angle between two directions, in degrees, within [0, 180]; exact to rounding for small ones too."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return math.degrees(2.0 * math.atan2(float(np.linalg.norm(one - other)), float(np.linalg.norm(one + other))))


def grid(
    target: npt.ArrayLike,
    k: int,
    theta_max: float = 30.0,
    step: float = GRID_STEP,
    limit: float = GRID_LIMIT,
    toward: npt.ArrayLike | None = None,
) -> FloatArray:
    """The published neighbourhood on the circle, [k, 2], nearest first: nothing in it is random.

    The candidates are the multiples of `step` within [-limit, limit], absolute angles; of those within `theta_max`
    of the target (all in degrees) the k nearest are taken. Of two at the same distance the smaller angle comes
    first, where the authors' code leaves the order open. A target between or beyond the multiples is therefore not
    in its own neighbourhood. With `toward`, only candidates on that side of the target take part.

    Raises: ValueError when fewer than k candidates are left.
    """
    aim = direction(target)
    if len(aim) != 2:
        raise ValueError(f"a grid is made for two objectives, not {len(aim)}; use uniform or von_mises")
    _check(k, theta_max)
    count = math.floor(limit / step + 1e-9)
    angles = [i * step for i in range(-count, count + 1)]
    side = None if toward is None else _side(aim, toward)
    kept = [
        (distance, angle)
        for angle in angles
        if (distance := round(angle_between(aim, at_angle(angle)), 6)) <= theta_max
        and (side is None or at_angle(angle) @ side >= -1e-9)
    ]
    if len(kept) < k:
        raise ValueError(
            f"the grid has {len(kept)} directions within theta_max = {theta_max:g} degrees of the target at "
            f"{angle_of(aim):g}, but k = {k} are asked for; its angles are the multiples of {step:g} from {-limit:g} "
            f"to {limit:g}; lower k, or use the neighbourhood uniform or von_mises"
        )
    return np.stack([at_angle(angle) for _, angle in sorted(kept)[:k]])


def sampled(
    target: npt.ArrayLike,
    k: int,
    theta_max: float,
    seed: int,
    concentration: float = 0.0,
    toward: npt.ArrayLike | None = None,
) -> FloatArray:
    """k independent directions [k, d] within `theta_max` degrees of the target [d].

    v = cos(a) target + sin(a) u, with u uniform on the unit sphere of the tangent space and the density of a
    proportional to exp(concentration cos a) sin(a)^(d - 2) on [0, theta_max]. Concentration 0 is uniform on the
    spherical cap (on the circle: a uniform angle); above 0 it is a von Mises-Fisher density cut at `theta_max`.
    With `toward`, members on the other side of the target are reflected through it.
    """
    aim = direction(target)
    _check(k, theta_max)
    if not concentration >= 0.0 or not math.isfinite(concentration):
        raise ValueError(f"a concentration is a finite number from 0 on, got {concentration}")
    generator = np.random.default_rng(seed)
    angle = _angles(len(aim), k, math.radians(theta_max), concentration, generator)[:, None]
    tangent = generator.standard_normal((k, len(aim)))
    tangent -= np.outer(tangent @ aim, aim)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    if toward is not None:
        tangent *= np.where(tangent @ _side(aim, toward) >= 0.0, 1.0, -1.0)[:, None]
    return np.asarray(np.cos(angle) * aim + np.sin(angle) * tangent, dtype=np.float64)


def von_mises_concentration(theta_max: float) -> float:
    """The concentration whose standard deviation is about half of `theta_max` degrees."""
    return (2.0 / math.radians(theta_max)) ** 2


def _angles(
    dimensions: int, k: int, theta_max: float, concentration: float, generator: np.random.Generator
) -> FloatArray:
    """Distances from the target, [k], in radians, by the inverse of the tabulated distribution function."""
    a = np.linspace(0.0, theta_max, INVERSE_POINTS)
    density = np.exp(concentration * (np.cos(a) - 1.0)) * np.sin(a) ** (dimensions - 2)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2.0)])
    return np.interp(generator.uniform(0.0, mass[-1], k), mass, a)


def _side(target: FloatArray, toward: npt.ArrayLike) -> FloatArray:
    """The tangent [d] at the target that points to another direction; 0 where that is the target or its opposite."""
    other = direction(toward)
    if other.shape != target.shape:
        raise ValueError(f"`toward` weighs {len(other)} objectives, the preference {len(target)}")
    return np.asarray(other - (other @ target) * target, dtype=np.float64)


def _check(k: int, theta_max: float) -> None:
    if k < 1:
        raise ValueError(f"a neighbourhood has k >= 1 members, got {k}")
    if not 0.0 < theta_max <= 90.0:
        raise ValueError(f"theta_max is above 0 and at most 90 degrees, got {theta_max}")
