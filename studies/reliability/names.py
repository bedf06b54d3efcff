"""Layers with names that a path, a page or a terminal could take for something else."""

import html.parser
import json
from pathlib import Path

from disturbed import log_of, plan_config, rows_of, smd, train
from mmengine.registry import MODELS
from tiny import SCALE_INVARIANT, TinyNet
from torch import nn

from .case import Group, ask, healthy

__all__ = ['NAMES', 'ODD_NAMES']

ODD_NAMES = Group('Names')

NAMES = (
    '<script>alert(1)</script>',
    '"quoted" and \'single\'',
    'a/b\\c',
    '100 %s {x} {{title}}',
    '[red]rich[/red]',
    '$x_{1}^',
    '_hidden',
    'schön 畳み込み 🙂',
    'two\nlines\tand tab',
    '-leading',
    'long' * 60,
)


class Named(TinyNet):
    """A norm convolution under each of the odd names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name in NAMES:
            block = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
            self.add_module(name, block)

    def forward(self, images, labels, mode='tensor'):
        for name in NAMES:
            images = images + getattr(self, name)(images)
        return super().forward(images, labels, mode)


class Tags(html.parser.HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def _scripts(page: Path) -> list[dict]:
    """Attributes of the scripts of a page."""
    tags = Tags()
    tags.feed(page.read_text('utf-8'))
    return [attributes for tag, attributes in tags.tags if tag == 'script']


@ODD_NAMES.case('layers with odd names')
def odd_names(folder: Path) -> str:
    """Layers named with a slash, blanks, `<script>`, quotes, %, rich and TeX markup,
    unicode, line breaks, a leading dash, and 240 characters."""
    MODELS.register_module(name='Named', module=Named, force=True)
    run, out = folder / 'run<script>', folder / 'out'
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    visualizer = dict(type='Visualizer', vis_backends=backends)
    runner = train(run, **{'model.type': 'Named'}, visualizer=visualizer)
    ask('monitoring stopped' not in log_of(runner), 'monitoring stopped')
    measured = {name for name in rows_of(run)['layer'] if name not in SCALE_INVARIANT}
    ask(measured == {f'{name}.0.weight' for name in NAMES}, f'not all: {measured}')
    for line in log_of(runner).splitlines():
        # MMEngine's own list of parameters aside.
        broken = line.startswith('lines') and 'torch.Size' not in line
        ask(not broken, f'a name breaks a line of the log: {line}')
    [scalars] = run.glob('*/vis_data/scalars.json')
    shown = {
        key for line in scalars.read_text().splitlines() for key in json.loads(line)
    }
    ask({f'smd/cosine/{name}.0.weight' for name in NAMES} <= shown, 'scalars')
    for argv in (
        ('check', run, '--verbose'),
        ('check', run, '--json'),
        ('compare', healthy(folder), run, '-o', folder / 'compare'),
        ('plan', plan_config(folder), '--work-dir', run),
    ):
        code, error = smd(*argv)
        ask(code in (0, 1) and not error, f'{argv}: {code} {error}')
    chosen = [f'--layer={name}.0.weight' for name in NAMES[:8]]
    code, error = smd('report', run, '-o', out, '--svg', *chosen)
    ask(code == 0 and not error, f'report: {code} {error}')
    ask(all(p.parent == out and p.name.isascii() for p in out.iterdir()), 'paths')
    plain = folder / 'plain'
    smd('report', healthy(folder), '-o', plain)
    same = _scripts(out / 'report.html') == _scripts(plain / 'report.html')
    ask(same, 'the page has another script')
    return (
        f'{len(NAMES)} layers measured, shown and reported; the page has the scripts '
        'of any other page; no file is named after a layer'
    )
