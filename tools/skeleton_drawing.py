"""Moving skeletons as an animated GIF, an MP4, a strip of frames (PNG), or an HTML page that plays them.

Shapes: T frames, M persons, V joints.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from common.colours import AMBER, BLUE, GREEN, ORANGE, SKY
from common.errors import UserError
from common.files import write_atomically
from graph import Skeleton

FPS = 30
"""Of the Kinect sensors."""
SIDE = 400
"""Pixels of a panel."""
STRIP_FRAMES = 8
FINER = 2
"""Drawn that much larger and then reduced, which smooths the lines."""
TITLE = 26
PITCH = 0.12
"""Seen from slightly above, in radians."""
COLOURS = {"left": (ORANGE, AMBER), "right": (BLUE, SKY), "middle": ("#333333", "#999999")}
"""Of the first person and of further ones."""
TEMPLATE = Path(__file__).with_name("viewer.html")


class ShowError(UserError):
    """Something that cannot be shown as asked."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One clip as it is shown.

    positions: (T, M, V, 3); a person who is zero in a frame is absent. arrows: (T, M, V, 3), drawn from the positions.
    lines: whether bones are drawn. sureness: (T, M, V), 0 to 1, fades joints that were not seen well; None: no joint
    is. joint_weights: (V,) and frame_weights: (T,), 0 to 1, or None; note: what they are.
    """

    title: str
    positions: np.ndarray
    skeleton: Skeleton
    arrows: np.ndarray | None = None
    lines: bool = True
    sureness: np.ndarray | None = None
    joint_weights: np.ndarray | None = None
    frame_weights: np.ndarray | None = None
    note: str = ""

    @cached_property
    def present(self) -> np.ndarray:
        """(T, M) bool."""
        return np.asarray(self.positions.any(axis=(2, 3)))

    @property
    def sides(self) -> list[str]:
        """`left`, `right` or `middle` for each joint."""
        sides = ["middle"] * self.skeleton.num_joints
        for left, right in self.skeleton.left_right:
            sides[left], sides[right] = "left", "right"
        return sides

    @cached_property
    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        points = self.positions[self.present]
        points = np.zeros((1, 3)) if not len(points) else points
        return points.min(axis=(0, 1)), points.max(axis=(0, 1))

    @property
    def centre(self) -> np.ndarray:
        """(3,) the middle of all that is seen."""
        return (self._seen[0] + self._seen[1]) / 2

    @property
    def radius(self) -> float:
        """Half of the longest edge of the box around all that is seen."""
        return float((self._seen[1] - self._seen[0]).max() / 2) or 1.0

    def project(self, points: np.ndarray, size: float) -> np.ndarray:
        """Points (..., 3) on a square picture, (..., 2), as the camera sees them: x grows to the left, y upwards."""
        x, y, z = np.moveaxis(points - self.centre, -1, 0)
        scale = 0.46 * size / self.radius
        return size / 2 - scale * np.stack([x, y * np.cos(PITCH) + z * np.sin(PITCH)], axis=-1)


def write(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels side by side into a file of the kind that its suffix says.

    Raises:
        ShowError: an unknown suffix; MP4 without ffmpeg.
    """
    if path.suffix not in WRITERS:
        raise ShowError(f"--output {path}: unknown kind {path.suffix!r}; supported kinds: {', '.join(WRITERS)}")
    WRITERS[path.suffix](panels, path)


def page(panels: Sequence[Panel]) -> str:
    """A self-contained HTML page that plays the panels."""
    notes = " ".join(dict.fromkeys(panel.note for panel in panels))
    content = {"fps": FPS, "note": notes, "clips": [_as_json(panel) for panel in panels]}
    text = json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", text)


def _as_json(panel: Panel) -> dict[str, object]:
    def rounded(array: np.ndarray | None) -> list | None:
        return None if array is None else np.asarray(array, np.float64).round(4).tolist()

    frames = [
        [points if there else None for points, there in zip(persons, present, strict=True)]
        for persons, present in zip(rounded(panel.positions) or [], panel.present, strict=True)
    ]
    return {
        "title": panel.title,
        "edges": panel.skeleton.edges,
        "sides": panel.sides,
        "centre": rounded(panel.centre),
        "radius": panel.radius,
        "lines": panel.lines,
        "frames": frames,
        "arrows": rounded(panel.arrows),
        "sureness": rounded(panel.sureness),
        "joint_weights": rounded(panel.joint_weights),
        "frame_weights": rounded(panel.frame_weights),
    }


def _write_gif(panels: Sequence[Panel], path: Path) -> None:
    frames = list(_frames(panels))
    palette = frames[0].quantize(64)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # GIF counts in hundredths of a second.
    first.save(path, save_all=True, append_images=others, duration=round(100 / FPS) * 10, loop=0)


def _write_mp4(panels: Sequence[Panel], path: Path) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        raise ShowError(f"--output {path}: MP4 needs the program ffmpeg, which is not installed; write .gif or .html")
    frames = list(_frames(panels))
    size = f"{frames[0].width}x{frames[0].height}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(FPS), "-i", "-"]
    command = [program, "-y", "-loglevel", "error", *source, "-pix_fmt", "yuv420p", str(path)]
    done = subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), capture_output=True)
    if done.returncode:
        raise ShowError(f"--output {path}: ffmpeg failed ({done.stderr.decode(errors='replace').strip()[:200]})")


def _write_strip(panels: Sequence[Panel], path: Path) -> None:
    """Evenly spaced frames, a row for each panel."""
    rows = []
    for panel in panels:
        length = len(panel.positions)
        chosen = np.linspace(0, length - 1, min(STRIP_FRAMES, length)).astype(int)
        rows.append([_picture(panel, frame, f"frame {frame + 1}") for frame in chosen])
    height = SIDE + 2 * TITLE
    sheet = Image.new("RGB", (SIDE * max(map(len, rows)), height * len(rows)), "white")
    for r, (panel, row) in enumerate(zip(panels, rows, strict=True)):
        ImageDraw.Draw(sheet).text((6, r * height + 4), panel.title, fill="black", font=ImageFont.load_default(18))
        for c, picture in enumerate(row):
            sheet.paste(picture, (c * SIDE, r * height + TITLE))
    sheet.save(path)


WRITERS: dict[str, Callable[[Sequence[Panel], Path], None]] = {
    ".html": lambda panels, path: write_atomically(path, lambda file: file.write(page(panels).encode())),
    ".gif": _write_gif,
    ".png": _write_strip,
    ".mp4": _write_mp4,
}


def _frames(panels: Sequence[Panel]) -> Iterator[Image.Image]:
    """All panels side by side, frame by frame; a shorter one rests on its last frame."""
    for frame in range(max(len(panel.positions) for panel in panels)):
        sheet = Image.new("RGB", (SIDE * len(panels), SIDE + TITLE), "white")
        for number, panel in enumerate(panels):
            shown = min(frame, len(panel.positions) - 1)
            sheet.paste(_picture(panel, shown, panel.title), (number * SIDE, 0))
        yield sheet


def _picture(panel: Panel, frame: int, title: str) -> Image.Image:
    size = SIDE * FINER
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for person in np.flatnonzero(panel.present[frame]):
        positions = panel.positions[frame, person]
        points = panel.project(positions, size)
        colours = [COLOURS[side][min(int(person), 1)] for side in panel.sides]
        sure = np.ones(len(points)) if panel.sureness is None else panel.sureness[frame, person]

        def line(start: np.ndarray, end: np.ndarray, colour: str | tuple[int, int, int], width: int) -> None:
            draw.line([*start, *end], fill=colour, width=width * FINER)

        if panel.lines:
            for child, parent in panel.skeleton.edges:
                line(points[child], points[parent], faded(colours[child], min(sure[child], sure[parent])), 3)
        if panel.arrows is not None:
            tips = panel.project(positions + panel.arrows[frame, person], size)
            for start, tip, colour in zip(points, tips, colours, strict=True):
                line(start, tip, GREEN if panel.lines else colour, 2)
        for joint, (x, y) in enumerate(points):
            weight = 0.0 if panel.joint_weights is None else float(panel.joint_weights[joint])
            radius = (3 + 6 * weight) * FINER
            fill = faded(colours[joint], sure[joint]) if panel.joint_weights is None else heat(weight)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
    sheet = Image.new("RGB", (SIDE, SIDE + TITLE), "white")
    sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (0, TITLE))
    _write_title(sheet, title)
    if panel.frame_weights is not None:
        _draw_frame_weights(sheet, panel.frame_weights, frame)
    return sheet


def _write_title(sheet: Image.Image, title: str) -> None:
    """As large as fits."""
    draw, size = ImageDraw.Draw(sheet), 15.0
    while size > 8 and draw.textlength(title, ImageFont.load_default(size)) > SIDE - 12:
        size -= 1
    draw.text((6, 4), title, fill="black", font=ImageFont.load_default(size))


def faded(colour: str, sureness: float) -> tuple[int, int, int]:
    """From white to the colour for 0 to 1."""
    red, green, blue = (255 + (np.array(ImageColor.getrgb(colour)) - 255) * sureness).astype(int).tolist()
    return red, green, blue


def heat(weight: float) -> tuple[int, int, int]:
    """From pale to dark blue for 0 to 1."""
    low, high = np.array([222, 235, 247]), np.array([8, 48, 107])
    red, green, blue = (low + (high - low) * weight).astype(int).tolist()
    return red, green, blue


def _draw_frame_weights(sheet: Image.Image, weights: np.ndarray, frame: int) -> None:
    """A bar along the bottom, dark where the frames weigh most, with a mark at this frame."""
    draw, top, step = ImageDraw.Draw(sheet), sheet.height - 12, SIDE / len(weights)
    for number, weight in enumerate(weights):
        draw.rectangle([number * step, top, (number + 1) * step, sheet.height], fill=heat(float(weight)))
    draw.rectangle([frame * step, top - 4, (frame + 1) * step, sheet.height], outline=ORANGE, width=2)
