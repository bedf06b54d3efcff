"""One HTML page that shows and explains a run, and needs nothing but itself."""

import base64
import hashlib
import json
import re
from html import escape
from pathlib import Path

import numpy as np

from smd_mmdet.stages import stage_name
from smd_mmdet.theory import THEORIES

from .canvas import COLOURS, OTHER, part_colours
from .reduce import min_max
from .run import Motion, Run, short
from .words import CHECKS, FIGURES, advice, plural

__all__ = ['render_page']

HERE = Path(__file__).parent
# What the lines of all layers may take before base64, which adds a third.
DATA_BYTES = 1_300_000
MOST_BUCKETS = 1000
LAWS_BUCKETS = 60

# Noisy series get the points; those of a formula need few.
_NOISY = ('angle', 'norm', 'norm_eq', 'unit', 'unit_mean', 'cosine', 'distance')
_LAWS = ('expected', 'guaranteed')


def render_page(run: Run) -> str:
    """The page of a run.

    Args:
        run: The run.

    Returns:
        HTML with the figures' data, plotly's script and everything else in it. It
        asks the network for nothing, and its policy forbids it to.
    """
    from plotly.offline import get_plotlyjs

    scripts = [_script(get_plotlyjs()), _script((HERE / 'page.js').read_text('utf-8'))]
    pieces = {
        'policy': _policy(scripts),
        'style': (HERE / 'page.css').read_text('utf-8'),
        'title': escape(run.name),
        'verdict': escape(_sentence(run.report.verdict)),
        'mark': _mark(run),
        'facts': _facts(run),
        'advice': _advice(run),
        'stages': _stages(run),
        'settings': _settings(run),
        'data': _embed(page_data(run)),
        'plotly': scripts[0],
        'script': scripts[1],
        **{f'figure_{name}': escape(text) for name, (_, text) in FIGURES.items()},
        **{f'name_{name}': escape(title) for name, (title, _) in FIGURES.items()},
    }
    template = (HERE / 'page.html').read_text('utf-8')
    # In one pass, so that what is put in is not searched for names again.
    return re.sub(r'\{\{(\w+)\}\}', lambda match: pieces[match[1]], template)


# ------------------------------------------------------------------ safety


def _script(text: str) -> str:
    """A script that cannot end its own element."""
    return text.replace('</script', r'<\/script').replace('<!--', r'<\!--')


def _policy(scripts: list[str]) -> str:
    """These scripts may run, and no other; nothing may be fetched."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in scripts
    ]
    allowed = ' '.join(f"'sha256-{code}'" for code in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        'img-src data: blob:'
    )


def _embed(data: dict) -> str:
    """JSON that is also harmless inside a script element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
    for character in '<>&\u2028\u2029':
        text = text.replace(character, f'\\u{ord(character):04x}')
    return text


# ------------------------------------------------------------------ written parts


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + '.'


def _mark(run: Run) -> str:
    """The verdict in one word: holds, fails, or look."""
    report = run.report
    if report.exit_code:
        return 'fails'
    last = report.stages[-1] if report.stages else None
    if last is None or last.in_equilibrium < last.layers:
        return 'look'
    return 'holds'


def _facts(run: Run) -> str:
    measured = run.report.measured_iterations
    # Of a run that goes on, or went on without the monitor, the records end early.
    whole = max(run.last_iter, run.metadata.get('max_iters') or 0)
    iterations = f'{measured:,} of {whole:,} iterations measured'
    if measured == whole:
        iterations = f'{whole:,} iterations, every one measured'
    known = THEORIES.get(run.report.theory)
    facts = [
        plural(len(run.layers), 'layer'),
        iterations,
        known.title if known else 'no theory',
    ]
    return ' · '.join(escape(fact) for fact in facts)


def _advice(run: Run) -> str:
    items = ''.join(f'<li>{escape(text)}</li>' for text in advice(run.report))
    if _mark(run) == 'holds':
        items = '<li>Nothing to change: every layer is in equilibrium.</li>' + items
    return f'<ul>{items}</ul>'


def _stages(run: Run) -> str:
    rows = []
    for stage in run.report.stages:
        states = ', '.join(f'{n} {state}' for state, n in stage.states.items())
        cells = (
            stage_name(stage.stage, short=True),
            f'{stage.first_iter:,}–{stage.last_iter:,}',
            f'{stage.lr:.4g}' if stage.stage >= 0 else 'rising',
            _equilibrium(run, stage.stage) if stage.stage >= 0 else '–',
            f'{stage.in_equilibrium} of {stage.layers}',
            _text(stage.median_angular_update_ratio),
            states if stage.stage >= 0 else '–',
        )
        rows.append(''.join(f'<td>{escape(cell)}</td>' for cell in cells))
    return ''.join(f'<tr>{row}</tr>' for row in rows)


def _equilibrium(run: Run, number: int) -> str:
    """Δ* at the end of a stage: its range, where layers have their own settings."""
    ends = [each.angle_eq[each.stage == number][-1:] for each in run.layers]
    known = [end[0] for end in ends if np.isfinite(end).any()]
    return (
        '–'.join(dict.fromkeys(map(_text, (min(known), max(known))))) if known else '–'
    )


def _text(value: float | None) -> str:
    return '–' if value is None or not np.isfinite(value) else f'{value:.3g}'


def _settings(run: Run) -> str:
    metadata = run.metadata
    packages = metadata.get('packages') or {}
    facts = {
        'Steps per window': metadata.get('window', '–'),
        'Theory': metadata.get('theory', '–'),
        **{name: version for name, version in packages.items()},
    }
    rows = ''.join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
        for key, value in facts.items()
    )
    config = escape(str(metadata.get('config') or ''))
    text = (
        f'<details><summary>Config</summary><pre tabindex="0">{config}</pre></details>'
    )
    return f'<table class="plain">{rows}</table>{text if config else ""}'


# ------------------------------------------------------------------ data


class _Pool:
    """Arrays as base64, each kept once whoever shares it."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self._known: dict[str, int] = {}

    def floats(self, values: np.ndarray) -> int:
        return self._add('f', np.asarray(values, '<f4'))

    def whole(self, values: np.ndarray) -> int:
        wide = len(values) and values.max() >= 2**16
        return self._add(*(('I', values.astype('<u4')) if wide else _narrow(values)))

    def _add(self, kind: str, values: np.ndarray) -> int:
        text = kind + base64.b64encode(values.tobytes()).decode()
        if text not in self._known:
            self._known[text] = len(self.items)
            self.items.append(text)
        return self._known[text]


def _narrow(values: np.ndarray) -> tuple[str, np.ndarray]:
    return 'H', values.astype('<u2')


def page_data(run: Run) -> dict:
    """What the page's script draws, JSON-able.

    Args:
        run: The run.

    Returns:
        Layers with their verdicts, and lines as indices into ``pool``: base64 of
        little-endian float32, uint16 or uint32, told by the first letter.
    """
    pool, verdicts = _Pool(), {layer.layer: layer for layer in run.report.layers}
    colours = part_colours(run)
    buckets = _buckets(run)
    reasons: dict[str, int] = {}
    layers = [
        {
            'name': layer.name,
            'short': short(layer.name),
            'shape': verdicts[layer.name].shape,
            'part': list(colours).index(run.parts[layer.name]),
            'unit': layer.unit_name,
            'iter': pool.whole(layer.iter),
            'lines': _lines(layer, pool, buckets),
            'stages': [_stage(s, reasons) for s in verdicts[layer.name].stages],
        }
        for layer in run.layers
    ]
    edges, ratios = run.heat()
    return {
        'layers': layers,
        'parts': [
            {'name': part, 'colour': COLOURS.index(c) if c != OTHER else -1}
            for part, c in colours.items()
        ],
        'stages': [
            {'stage': s.stage, 'first': s.first_iter, 'last': s.last_iter}
            for s in run.report.stages
        ],
        'last': run.last_iter,
        'heat': {
            'edges': pool.floats(edges),
            'rows': [pool.floats(row) for row in ratios],
        },
        'checks': {name: list(words) for name, words in CHECKS.items()},
        'reasons': list(reasons),
        'pool': pool.items,
    }


def _buckets(run: Run) -> int:
    """As many per line as the page has room for."""
    point = 4 + (4 if max(len(layer.iter) for layer in run.layers) > 2**16 else 2)
    fitting = DATA_BYTES // (len(run.layers) * (len(_NOISY) + 1) * 2 * point)
    return int(np.clip(fitting, 10, MOST_BUCKETS))


def _lines(layer: Motion, pool: _Pool, buckets: int) -> dict[str, list[int]]:
    """Index and value of the points kept of each line that has any."""
    lines = {}
    for name in (*_NOISY, *_LAWS):
        values = getattr(layer, name)
        if np.isfinite(values).any():
            kept = min_max(values, LAWS_BUCKETS if name in _LAWS else buckets)
            lines[name] = [pool.whole(kept), pool.floats(values[kept])]
    if np.isfinite(layer.angle_eq).any():
        kept = _turns(layer.angle_eq, buckets)
        lines['angle_eq'] = [pool.whole(kept), pool.floats(layer.angle_eq[kept])]
    return lines


def _turns(values: np.ndarray, buckets: int) -> np.ndarray:
    """Where a line of steps changes, or its extremes if it always does."""
    turns = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    if len(turns) > 2 * buckets:
        turns = min_max(values, buckets)
    return np.union1d(turns, [len(values) - 1])


def _stage(stage, reasons: dict[str, int]) -> dict:
    return {
        'stage': stage.stage,
        'state': stage.state,
        'note': stage.note,
        'angle': _number(stage.angular_update_ratio),
        'norm': _number(stage.weight_norm_ratio),
        'law': _number(stage.transient_ratio),
        'checks': [
            [
                check.name,
                check.kind,
                check.verdict,
                *map(_number, (check.value, check.bound, check.margin)),
                reasons.setdefault(check.reason, len(reasons)),
            ]
            for check in stage.checks
        ],
    }


def _number(value: float | None) -> float | None:
    """Five digits, as JSON; None where there is no finite value."""
    if value is None or not np.isfinite(value):
        return None
    return float(f'{value:.5g}')
