"""Draws one scene of the `phantom` data set: a schematic chest radiograph or CT slice, and the box of each finding.

Everything is a soft mask of a distance, blended into a film of brightness 0 (black) to 1 (white). Body coordinates:
x from -0.5 to 0.5, positive on the patient's LEFT, which is the image's right; y from 0 (top) to 1 (bottom).
Numbers are only added, multiplied, divided, compared and square-rooted, which IEEE 754 rounds alike on every machine;
`exp` and `sin` would make the pixels depend on its math library.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

DIAPHRAGM = {"left": 0.725, "right": 0.695}  # y of the top of the dome; the liver pushes the right one up
SIGN = {"left": 1.0, "right": -1.0}
CT_LUNG = {"x": 0.185, "y": 0.49, "rx": 0.145, "ry": 0.2}  # of either side
HEART_SHARE = {"left": 4 / 3, "right": 2 / 3}  # of the heart's half width that lies on either side of the midline
THORAX_BASE, THORAX_HEIGHT = 0.73, 0.62  # frontal: the rib cage is the upper half of an ellipse on this base


@dataclass(frozen=True)
class Anatomy:
    """What differs between healthy patients and between exposures; lengths in image widths."""

    shift_x: float
    shift_y: float
    scale: float
    tilt: float  # tangent of the rotation
    chest: float  # half the inner width of the rib cage
    heart_ratio: float  # cardiothoracic ratio
    rib_spacing: float
    rib_strength: float
    brightness: float
    contrast: float
    gamma: float
    vignette: float
    noise_seed: int


@dataclass(frozen=True)
class Finding:
    """One abnormality or device; the fields that do not apply to its label stay empty."""

    label: str
    extent: float  # nodule: radius; effusion: height; pneumothorax: width; cardiomegaly: cardiothoracic ratio
    side: str = ""  # of the patient
    zone: str = ""
    size: str = ""
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Scene:
    view: str  # frontal, lateral or axial
    anatomy: Anatomy
    findings: tuple[Finding, ...] = ()


Drawn = tuple[np.ndarray, list[np.ndarray]]  # the film, and the mask of each finding of the scene


def draw(scene: Scene, size: int) -> tuple[np.ndarray, list[list[float]]]:
    """The grey image, uint8 of (size, size), and x0 y0 x1 y1 of each of `scene.findings`, in pixels."""
    anatomy = scene.anatomy
    random = np.random.RandomState(anatomy.noise_seed)
    column = (np.arange(size) + 0.5) / size - 0.5
    across, down = np.broadcast_to(column, (size, size)), np.broadcast_to(column[:, None], (size, size))
    cosine = 1 / np.sqrt(1 + anatomy.tilt * anatomy.tilt)
    x = (across - anatomy.shift_x + anatomy.tilt * (down - anatomy.shift_y)) * cosine / anatomy.scale
    y = (down - anatomy.shift_y - anatomy.tilt * (across - anatomy.shift_x)) * cosine / anatomy.scale + 0.5
    film, masks = {"frontal": frontal, "lateral": lateral, "axial": axial}[scene.view](scene, x, y, random)

    film = anatomy.brightness + anatomy.contrast * film
    film = film + anatomy.gamma * film * (1 - film)
    film = film * (1 - anatomy.vignette * (across**2 + down**2))
    if scene.view == "frontal":
        film = blend(film, 0.95, side_marker(across, down))
    film = film + 0.03 * (random.random_sample((size, size)) + random.random_sample((size, size)) - 1)
    return np.rint(255 * np.clip(film, 0, 1)).astype(np.uint8), [box_around(mask) for mask in masks]


# ---------------------------------------------------------------------------------------------------- primitives


def soft(distance: np.ndarray, width: float = 0.012) -> np.ndarray:
    """Mask of a signed distance: 1 inside (negative), 0 outside; the edge reaches `width` to both sides."""
    step = 0.5 - distance / (2 * width)
    np.clip(step, 0, 1, out=step)
    slope = 3 - 2 * step
    slope *= step
    slope *= step
    return slope


def blend(film: np.ndarray, value: float | np.ndarray, mask: np.ndarray) -> np.ndarray:
    return film + (value - film) * mask


def ellipse(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
    """Signed distance, nearly, to the ellipse around the origin."""
    return (np.sqrt((x / rx) ** 2 + (y / ry) ** 2) - 1) * min(rx, ry)


def rectangle(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    outside_x, outside_y = np.maximum(np.abs(x) - half_width, 0), np.maximum(np.abs(y) - half_height, 0)
    return np.sqrt(outside_x**2 + outside_y**2)


def polyline(x: np.ndarray, y: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    """Distance to the nearest of the segments that join the points."""
    nearest = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2)
    return np.sqrt(nearest)


def cut_corners(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One step of Chaikin's smoothing of a polyline; its ends stay."""
    cuts = []
    for (x0, y0), (x1, y1) in pairwise(points):
        cuts += [(0.75 * x0 + 0.25 * x1, 0.75 * y0 + 0.25 * y1), (0.25 * x0 + 0.75 * x1, 0.25 * y0 + 0.75 * y1)]
    return [points[0], *cuts[1:-1], points[-1]]


def stripes(position: np.ndarray, spacing: float, share: float) -> np.ndarray:
    """Soft bands every `spacing`, each `share` of it wide."""
    phase = position / spacing
    return soft(np.abs(phase - np.floor(phase) - 0.5) - share / 2, width=0.15)


def smooth_noise(random: np.random.RandomState, size: int, cells: int) -> np.ndarray:
    """Values between -1 and 1 that vary over 1 / `cells` of the image."""
    grid = random.uniform(-1, 1, (cells + 1, cells + 1))
    position = (np.arange(size) + 0.5) / size * cells
    cell = position.astype(int)
    step = position - cell
    step = step * step * (3 - 2 * step)
    rows = grid[cell] + (grid[cell + 1] - grid[cell]) * step[:, None]
    return rows[:, cell] + (rows[:, cell + 1] - rows[:, cell]) * step


def box_around(mask: np.ndarray) -> list[float]:
    visible = mask > 0.3
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return [float(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def side_marker(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The letter L in the upper right corner."""
    stem = rectangle(across - 0.42, down + 0.43, 0.003, 0.026)
    foot = rectangle(across - 0.433, down + 0.407, 0.016, 0.003)
    return soft(np.minimum(stem, foot) - 0.005, 0.008)


def find(scene: Scene, label: str) -> Finding | None:
    return next((finding for finding in scene.findings if finding.label == label), None)


# ---------------------------------------------------------------------------------------------- frontal radiograph


def frontal(scene: Scene, x: np.ndarray, y: np.ndarray, random: np.random.RandomState) -> Drawn:
    """From back to front: soft tissue, lungs, heart, bones, fluid, nodules, device."""
    anatomy = scene.anatomy
    lateral_x = np.abs(x)
    thorax = ellipse(x, y - THORAX_BASE, anatomy.chest, THORAX_HEIGHT)
    dome_y = np.where(x > 0, DIAPHRAGM["left"], DIAPHRAGM["right"]) + 2.0 * (lateral_x - 0.15) ** 2
    lung = np.maximum(np.maximum(thorax, 0.055 - lateral_x), y - dome_y)
    masks = {}

    film = frontal_soft_tissue(x, y, dome_y, random)
    film = blend(film, 0.17, soft(lung, 0.016))
    markings = 0.32 * vessels(lateral_x - 0.05, y - 0.45, random)
    if air := find(scene, "pneumothorax"):
        same_side = x * SIGN[air.side] > 0
        width = air.extent
        pleura = ellipse(x, y - THORAX_BASE, anatomy.chest - width, THORAX_HEIGHT - 1.3 * width)
        masks[air] = soft(lung) * soft(-pleura, 0.01) * same_side
        markings = markings * (1 - masks[air])
        film = blend(film, 0.03, masks[air])
        film = film + 0.32 * soft(np.abs(pleura) - 0.004, 0.01) * soft(lung) * same_side
    film = film + markings * soft(lung, 0.03)

    heart = frontal_heart(x, y, anatomy, anatomy.heart_ratio)
    if enlarged := find(scene, "cardiomegaly"):
        heart = frontal_heart(x, y, anatomy, enlarged.extent)
        masks[enlarged] = soft(heart)
    film = frontal_mediastinum(film, x, y, heart)
    film = frontal_bones(film, x, y, thorax, anatomy)

    if fluid := find(scene, "effusion"):
        surface = DIAPHRAGM[fluid.side] - fluid.extent - 1.6 * np.maximum(lateral_x - 0.1, 0) ** 2
        space = np.maximum(lung - 0.015, thorax)  # down into the soft edge of the diaphragm
        masks[fluid] = soft(np.maximum(space, surface - y), 0.018) * (x * SIGN[fluid.side] > 0)
        film = blend(film, 0.66, masks[fluid])
    if air:  # its box is around what heart and fluid leave visible
        masks[air] = masks[air] * (1 - soft(heart)) * (1 - masks.get(fluid, 0))
    film = draw_nodules(film, scene, x, y, masks, smooth_noise(random, len(x), 16))
    if device := find(scene, "pacemaker"):
        masks[device] = pacemaker(x, y, device)
        film = blend(film, 0.98, masks[device])
    return film, [masks[finding] for finding in scene.findings]


def frontal_soft_tissue(x: np.ndarray, y: np.ndarray, dome_y: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Neck, shoulders and abdomen, thinner towards the flanks."""
    lateral_x = np.abs(x)
    shoulder_y = 0.01 + 0.75 * np.maximum(lateral_x - 0.08, 0) ** 2
    body = soft(np.maximum(shoulder_y - y, lateral_x - 0.5), 0.03)
    tissue = 0.5 - 1.3 * np.maximum(lateral_x - 0.2, 0) ** 2 + 0.04 * smooth_noise(random, len(x), 6)
    tissue = tissue + 0.15 * soft(dome_y - y, 0.02) * soft(lateral_x - 0.37, 0.07)
    bubble = ellipse(x - 0.15, y - 0.80, 0.065, 0.028)
    return blend(0.03, blend(tissue, 0.38, soft(bubble, 0.016)), body)


def vessels(x: np.ndarray, y: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Vascular markings: the hilum at the origin and uneven streaks that leave it and fade."""
    wobble = smooth_noise(random, len(x), 14)
    x = x + 0.03 * wobble
    y = y + 0.03 * wobble
    knots = np.linspace(-1, 1, 25)
    streaks = np.interp(y / (np.abs(x) + np.abs(y) + 0.02), knots, np.maximum(random.uniform(-0.8, 1, 25), 0))
    distance = np.sqrt(x * x + y * y)
    fading = np.minimum(distance / 0.09, 1) * np.maximum(1 - distance / 0.36, 0)
    return 0.5 * soft(ellipse(x, y, 0.035, 0.06), 0.05) + fading * (streaks * (1 + 0.6 * wobble) - 0.1)


def frontal_heart(x: np.ndarray, y: np.ndarray, anatomy: Anatomy, ratio: float) -> np.ndarray:
    """Distance to the heart shadow, whose apex points to the left and down."""
    half_width = ratio * anatomy.chest
    x = x - half_width * (HEART_SHARE["left"] - 1)
    return ellipse(x, y - 0.585 - 0.3 * x, half_width, 0.09 + 0.35 * half_width)


def frontal_mediastinum(film: np.ndarray, x: np.ndarray, y: np.ndarray, heart: np.ndarray) -> np.ndarray:
    knob = ellipse(x - 0.045, y - 0.32, 0.045, 0.05)
    column = np.abs(x) - 0.05 - 0.06 * np.maximum(y - 0.3, 0)
    film = blend(film, 0.56, soft(np.minimum(column, knob), 0.014) * soft(0.02 - y, 0.03))
    film = blend(film, 0.64, soft(heart, 0.014))
    film = film + 0.045 * soft(np.abs(x) - 0.032, 0.014) * stripes(y, 0.062, 0.75)  # vertebrae shine through
    trachea = np.maximum(np.abs(x + 0.006) - 0.016, y - 0.36)
    bronchi = np.maximum(np.abs(y - 0.36 - 0.8 * np.abs(x)) - 0.012, np.abs(x) - 0.075)
    return film - 0.2 * soft(np.minimum(trachea, bronchi), 0.012)


def frontal_bones(film: np.ndarray, x: np.ndarray, y: np.ndarray, thorax: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    lateral_x = np.abs(x)
    cage = soft(thorax - 0.015, 0.02) * soft(0.05 - lateral_x, 0.015)
    cage = cage * (0.25 + 0.75 * soft(y - 0.72, 0.05))
    posterior = stripes(y - 0.1 * lateral_x - 1.1 * lateral_x**2, anatomy.rib_spacing, 0.36)
    anterior = stripes(y + 0.55 * lateral_x - 0.2 * lateral_x**2, 1.25 * anatomy.rib_spacing, 0.4)
    ribs = cage * (posterior + 0.4 * anterior * soft(0.13 - lateral_x, 0.04))
    film = film + anatomy.rib_strength * ribs * (1.1 - film)  # bone adds less where the film is bright already
    clavicle = np.abs(y - 0.185 + 0.26 * lateral_x - 0.05 * stripes(lateral_x, 0.4, 0.5)) - 0.013
    return film + 0.15 * soft(np.maximum(clavicle, np.abs(lateral_x - 0.205) - 0.165), 0.01)


def draw_nodules(
    film: np.ndarray, scene: Scene, x: np.ndarray, y: np.ndarray, masks: dict, lobes: np.ndarray
) -> np.ndarray:
    for nodule in scene.findings:
        if nodule.label == "nodule":
            # body coordinates are scaled, the radius of a nodule is in image widths
            radius = nodule.extent / scene.anatomy.scale
            distance = ellipse(x - nodule.x, y - nodule.y, radius, radius) + 0.25 * radius * lobes
            masks[nodule] = soft(distance, 0.4 * radius)
            film = blend(film, 0.62 + 0.2 * film, masks[nodule])
    return film


def pacemaker(x: np.ndarray, y: np.ndarray, device: Finding) -> np.ndarray:
    """Generator below the clavicle; the lead follows the subclavian vein and the vena cava to the right ventricle."""
    generator = rectangle(x - device.x, y - device.y, 0.024, 0.03) - 0.014
    lead = [(device.x, device.y), (0.5 * device.x, device.y - 0.06), (-0.03, 0.25), (-0.06, 0.55), (0.08, 0.66)]
    return np.maximum(soft(generator), soft(polyline(x, y, cut_corners(lead)) - 0.005, 0.009))


# ---------------------------------------------------------------------------------------------- lateral radiograph


def lateral(scene: Scene, x: np.ndarray, y: np.ndarray, random: np.random.RandomState) -> Drawn:
    """The patient faces the image's left; drawn without findings."""
    anatomy = scene.anatomy
    spine_x = x - 0.24 + 0.5 * (y - 0.5) ** 2
    back = np.maximum(x - 0.37 + 0.4 * (y - 0.5) ** 2, -0.37 - x + 0.5 * (y - 0.6) ** 2)
    tissue = 0.47 + 0.05 * smooth_noise(random, len(x), 6) + 0.2 * soft(0.2 - y, 0.1) * soft(y - 0.22, 0.1)
    film = blend(0.03, tissue, soft(back, 0.02))
    dome_y = 0.72 + 1.1 * (x + 0.08) ** 2
    chest = ellipse(x - 0.01, y - 0.52, 0.31, 0.42)
    film = film + 0.16 * soft(dome_y - y, 0.02) * soft(back, 0.02)
    lung = np.maximum(np.maximum(chest, y - dome_y), spine_x - 0.03)
    film = blend(film, 0.22, soft(lung, 0.02))
    film = film + 0.25 * vessels(x - 0.02, y - 0.45, random) * soft(lung, 0.02)
    film = blend(film, 0.4, soft(np.maximum(chest, np.abs(y - dome_y + 0.025) - 0.02), 0.012))  # the second dome

    heart_width = 0.8 * anatomy.heart_ratio * anatomy.chest
    heart = ellipse(x + 0.12, y - 0.62 + 0.35 * (x + 0.12), heart_width, 0.125)
    film = blend(film, 0.58, soft(np.maximum(heart, chest), 0.02))
    ribs = stripes(y - 0.8 * x, anatomy.rib_spacing, 0.3)
    film = film + 0.5 * anatomy.rib_strength * ribs * soft(lung, 0.02)
    vertebrae = 0.05 + 0.17 * stripes(y - 0.1 * x, 0.078, 0.72)
    film = film + vertebrae * (1.2 - film) * soft(np.abs(spine_x) - 0.04) * soft(back, 0.02)
    sternum = np.abs(chest) - 0.012
    film = film + 0.22 * soft(np.maximum(np.maximum(sternum, x + 0.1), np.abs(y - 0.42) - 0.17))
    trachea = np.maximum(np.abs(x - 0.03 - 0.12 * (y - 0.2)) - 0.016, y - 0.42)
    return film - 0.16 * soft(trachea), []


# -------------------------------------------------------------------------------------------------- axial CT slice


def axial(scene: Scene, x: np.ndarray, y: np.ndarray, random: np.random.RandomState) -> Drawn:
    """A slice at the heart, the patient on the back and seen from the feet, in a window that shows lung and bone."""
    body = ellipse(x, y - 0.5, 0.46, 0.34)
    film = blend(0.02, 0.36, soft(body))
    film = blend(film, 0.5 + 0.03 * smooth_noise(random, len(x), 12), soft(body + 0.03))
    film = blend(film, 0.42, soft(np.abs(y - 0.88 + 0.3 * x * x) - 0.012, 0.01))  # the table

    lateral_x = np.abs(x)
    lung = ellipse(lateral_x - CT_LUNG["x"], y - CT_LUNG["y"], CT_LUNG["rx"], CT_LUNG["ry"])
    heart = ellipse(x - 0.05, y - 0.44 - 0.3 * x, 0.3 * scene.anatomy.heart_ratio, 0.105)
    lung = np.maximum(lung, -heart)
    film = blend(film, 0.08, soft(lung, 0.01))
    film = film + 0.4 * vessels(lateral_x - 0.06, y - 0.5, random) * soft(lung, 0.02)
    film = blend(film, 0.58, soft(heart, 0.012))
    film = blend(film, 0.63, soft(ellipse(x - 0.055, y - 0.63, 0.032, 0.032)))  # descending aorta

    masks = {}
    if fluid := find(scene, "effusion"):
        surface = CT_LUNG["y"] + CT_LUNG["ry"] - fluid.extent - 1.6 * (lateral_x - CT_LUNG["x"]) ** 2
        masks[fluid] = soft(np.maximum(lung - 0.012, surface - y)) * (x * SIGN[fluid.side] > 0)
        film = blend(film, 0.5, masks[fluid])
    film = axial_bones(film, x, y, scene.anatomy)
    film = draw_nodules(film, scene, x, y, masks, smooth_noise(random, len(x), 16))
    return film, [masks[finding] for finding in scene.findings]


def axial_bones(film: np.ndarray, x: np.ndarray, y: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    lateral_x = np.abs(x)
    ring = np.abs(ellipse(x, y - 0.5, 0.38, 0.265)) - 0.011
    ribs = soft(ring, 0.008) * stripes(y - 0.6 * lateral_x, 1.6 * anatomy.rib_spacing, 0.62)
    film = blend(film, 0.9, ribs * soft(0.08 - lateral_x))
    film = blend(film, 0.85, soft(ellipse(x, y - 0.243, 0.055, 0.017)))  # sternum
    vertebra = np.minimum(ellipse(x, y - 0.67, 0.058, 0.045), rectangle(x, y - 0.77, 0.006, 0.04) - 0.006)
    processes = polyline(lateral_x, y, [(0.04, 0.70), (0.095, 0.745)]) - 0.012
    film = blend(film, 0.88, soft(np.minimum(vertebra, processes), 0.01))
    return blend(film, 0.5, soft(ellipse(x, y - 0.727, 0.02, 0.016), 0.008))  # spinal canal
