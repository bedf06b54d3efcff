"""What the page shows of one model: its figures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smd_mmdet.report.canvas import save
from smd_mmdet.report.figures import draw

from ..markdown import table
from .check_tables import assumption_table, away_table, check_table, parting_table
from .motion_tables import noise_table, stage_table, time_table
from .results import Results
from .score_tables import paired_table, score_table

__all__ = ['IMAGES', 'Section', 'gallery', 'model_section']

# The folder of the figures, beside the page.
IMAGES = Path('images', 'reproduction')
DPI = 75
CAPTIONS = {
    'angular_update': 'Δ of every layer',
    'weight_norm': '‖w‖ against w*',
}


@dataclass
class Section:
    """A part of the page.

    Args:
        paragraphs: Its text, figures and tables in Markdown.
        images: The content of its figures, by the name of their file.
    """

    paragraphs: list[str]
    images: dict[str, bytes]


def model_section(members: Sequence[Results]) -> Section:
    """All there is to show of a model.

    Args:
        members: Results of the experiments with this model.
    """
    done = [each for each in members if each.runs]
    missing = [each.experiment.title for each in members if not each.runs]
    figures = gallery(done)
    paragraphs = [f'Not done: {", ".join(missing)}.'] if missing else []
    paragraphs += figures.paragraphs
    titled = {
        'Motion at the end of each stage': stage_table(done),
        'Scores': score_table(done),
        'One against the other': paired_table(done),
        'Δ_rms/Δ* over the run': time_table(done),
        'Checks': check_table(done),
        'Assumptions that fail, and by how much': assumption_table(done),
        'Noise': noise_table(done),
        'Layers that are not in equilibrium, and why': away_table(done),
        'Where theory and measurement part': parting_table(done),
    }
    for title, text in titled.items():
        if text:
            paragraphs += [f'### {title}', text]
    return Section(paragraphs, figures.images)


def gallery(done: Sequence[Results], folder: Path = IMAGES) -> Section:
    """The paper's figures of each experiment's first seed, two beside one another.

    Args:
        done: Experiments with finished runs.
        folder: Folder of the figures, beside the page.
    """
    images, shown = {}, []
    for each in done:
        result = min(each.runs, key=lambda result: result.task.seed)
        figures = draw(result.run, names=each.experiment.figures)
        for name, figure in figures.items():
            file = f'{each.experiment.name}-{name}.png'
            images[file] = save(figure, dpi=DPI)
            caption = f'{each.experiment.title}, {CAPTIONS.get(name, name)}'
            shown.append((caption, f'![{caption}]({(folder / file).as_posix()})'))
    rows = []
    for i in range(0, len(shown), 2):
        pair = [*shown[i : i + 2], ('', '')][:2]
        rows += [[caption for caption, _ in pair], [image for _, image in pair]]
    return Section([table(rows[0], rows[1:]) if rows else ''], images)
