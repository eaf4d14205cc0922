"""The imaginary patients of `phantom`: anatomy and findings of each, sampled at random."""

import hashlib
from collections.abc import Callable

import numpy as np

from processing.datasets.phantom_drawing import (
    CT_LUNG,
    HEART_SHARE,
    THORAX_BASE,
    THORAX_HEIGHT,
    Anatomy,
    Finding,
    Scene,
)

SIDES = ("left", "right")
ZONES = {"upper": (0.23, 0.30), "middle": (0.39, 0.48), "lower": (0.57, 0.64)}  # y of the centres of nodules
NODULE_RADIUS = (0.038, 0.044), (0.066, 0.075)  # of small and of large ones


def sample_scene(seed: int, split: str, index: int) -> Scene:
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    random = np.random.RandomState(np.frombuffer(digest, "<u4").astype(np.uint32))  # numpy froze this generator
    view = ("frontal", "lateral", "axial")[np.searchsorted((0.7, 0.85), random.random_sample(), side="right")]
    anatomy = Anatomy(
        shift_x=random.uniform(-0.025, 0.025),
        shift_y=random.uniform(-0.02, 0.02),
        scale=random.uniform(0.92, 1.04),
        tilt=random.uniform(-0.07, 0.07),
        chest=random.uniform(0.375, 0.41),
        heart_ratio=random.uniform(0.42, 0.48),
        rib_spacing=random.uniform(0.07, 0.085),
        rib_strength=random.uniform(0.06, 0.12),
        brightness=random.uniform(-0.03, 0.08),
        contrast=random.uniform(0.8, 1.1),
        gamma=random.uniform(-0.25, 0.35),
        vignette=random.uniform(0, 0.3),
        noise_seed=random.randint(2**31 - 1),
    )
    if view == "frontal":
        findings = frontal_findings(random, anatomy)
    elif view == "axial":
        findings = axial_findings(random)
    else:
        findings = []  # laterals are there for the questions about view and modality
    return Scene(view, anatomy, tuple(findings))


def frontal_findings(random: np.random.RandomState, anatomy: Anatomy) -> list[Finding]:
    findings = []
    if random.random_sample() < 0.5:
        size, extent = small_or_large(random, (0.01, 0.025), (0.13, 0.17))
        findings.append(Finding("effusion", extent, SIDES[random.randint(2)], size=size))
    if random.random_sample() < 0.5:
        findings.append(Finding("pneumothorax", random.uniform(0.075, 0.1), SIDES[random.randint(2)]))
    if random.random_sample() < 0.5:
        findings.append(Finding("cardiomegaly", random.uniform(0.58, 0.66)))
    if random.random_sample() < 0.5:
        side = SIDES[random.randint(2)]
        x = random.uniform(0.235, 0.27) * (1 if side == "left" else -1)
        findings.append(Finding("pacemaker", 0.04, side, x=x, y=random.uniform(0.17, 0.2)))
    return findings + frontal_nodules(random, anatomy, findings)


def frontal_nodules(random: np.random.RandomState, anatomy: Anatomy, findings: list[Finding]) -> list[Finding]:
    """Up to three nodules apart from each other, none behind fluid or an enlarged heart."""
    found = {finding.label: finding for finding in findings}
    fluid, air, enlarged = (found.get(label) for label in ("effusion", "pneumothorax", "cardiomegaly"))
    hidden = set()
    if fluid:
        hidden |= {(fluid.side, "lower")} | ({(fluid.side, "middle")} if fluid.size == "large" else set())
    if enlarged or (air and air.side == "left"):
        hidden.add(("left", "lower"))
    if enlarged and air:
        hidden |= {(air.side, "lower"), (air.side, "middle")}
    heart_ratio = enlarged.extent if enlarged else anatomy.heart_ratio
    sides = {zone: [side for side in SIDES if (side, zone) not in hidden] for zone in ZONES}
    zones = [zone for zone in ZONES if sides[zone]]

    def candidate() -> Finding:
        zone = zones[random.randint(len(zones))]
        side = sides[zone][random.randint(len(sides[zone]))]
        size, radius = small_or_large(random, *NODULE_RADIUS)
        y = random.uniform(*ZONES[zone])
        height = (THORAX_BASE - y) / THORAX_HEIGHT
        wall = anatomy.chest * np.sqrt(1 - height * height)
        if air and air.side == side:
            wall -= air.extent
        heart_border = heart_ratio * anatomy.chest * HEART_SHARE[side] * {"upper": 0, "middle": 0.65, "lower": 1}[zone]
        inner = max(0.06 + radius, heart_border + radius / 2)
        x = random.uniform(inner, max(inner, wall - radius - 0.015))
        return Finding("nodule", radius, side, zone, size, x if side == "left" else -x, y)

    return place_apart(random.randint(4), candidate)


def axial_findings(random: np.random.RandomState) -> list[Finding]:
    findings = []
    if random.random_sample() < 0.5:
        size, extent = small_or_large(random, (0.07, 0.085), (0.14, 0.17))
        findings.append(Finding("effusion", extent, SIDES[random.randint(2)], size=size))
    fluid_sides = {finding.side for finding in findings}

    def candidate() -> Finding:
        side = SIDES[random.randint(2)]
        size, radius = small_or_large(random, *NODULE_RADIUS)
        x = CT_LUNG["x"] + (random.uniform(0.03, 0.06) if side == "left" else random.uniform(-0.03, 0.05))
        y = CT_LUNG["y"] + random.uniform(-0.13, -0.05 if side in fluid_sides else 0.05)
        return Finding("nodule", radius, side, "", size, x if side == "left" else -x, y)

    return findings + place_apart(random.randint(4), candidate)


def small_or_large(
    random: np.random.RandomState, small: tuple[float, float], large: tuple[float, float]
) -> tuple[str, float]:
    size, bounds = (("small", small), ("large", large))[random.randint(2)]
    return size, random.uniform(*bounds)


def place_apart(count: int, candidate: Callable[[], Finding]) -> list[Finding]:
    """`count` nodules with a gap between any two, or fewer if there is no room."""
    placed = []
    for _ in range(200):
        if len(placed) == count:
            break
        new = candidate()
        if all((new.x - f.x) ** 2 + (new.y - f.y) ** 2 > (new.extent + f.extent + 0.03) ** 2 for f in placed):
            placed.append(new)
    return placed
