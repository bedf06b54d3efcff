"""docs/zoo.md: a row for each audit, and every tensor on which the two answers part."""

import re
from collections.abc import Sequence

from ..markdown import plain, table
from ..origin import origin
from .configs import MODES
from .results import Results

__all__ = ['page']

HEADER = """\
# Scale-invariant weights in MMDetection's zoo

{origin} Every config with
random weights, random images and boxes, on one CPU core. *shipped* is the config as it
is; *trained* is the same with `norm_eval=False` and `frozen_stages=-1`. A config that
freezes no norm and no stage is audited once.

A layer is a trainable tensor of two dimensions or more. *Found* is what the structure
says (`find_scale_invariant`); *proof* is what scaling by powers of two and the cosine \
of (w, g) say in
float64, without looking at the structure. *Precision* and *recall* compare them over
all tensors that the proof decides; *undecided* are those without a gradient on this
batch.

"""
COLUMNS = (
    *('config', 'norms', 'weights', 'layers', 'found', 'share of weights'),
    *('precision', 'recall', 'undecided', 'CPU s'),
)
# The keys of a result under which tensors are listed, and the heading of each list.
DIFFERENCES = {
    'only_structure': 'Found, but refuted by the proof',
    'only_proof': 'Proved, but not found',
}
FLOAT32 = '\n¹ the model cannot run in float64: proved in float32.\n'

# An audit that was run: its config, its mode and its result.
Audit = tuple[str, str, dict]


def page(configs: Sequence[str], results: Results) -> str:
    """The page, of whatever is done.

    Args:
        configs: Paths of the configs in the zoo.
        results: What is kept of their audits.
    """
    wanted = [(name, mode) for name in configs for mode in reversed(MODES)]
    kept = ((name, mode, results.read(name, mode)) for name, mode in wanted)
    done = [(name, mode, result) for name, mode, result in kept if result is not None]
    skipped = [audit for audit in done if 'skipped' in audit[2]]
    audits = [audit for audit in done if 'summary' in audit[2]]
    codes = [result['code'] for _, _, result in done if result.get('code')]
    text = HEADER.format(origin=origin('python -m studies.zoo', codes or None))
    if len(done) < len(wanted):
        text += f'{len(wanted) - len(done)} of {len(wanted)} runs are not done.\n\n'
    text += f'{_totals(audits)}\n{table(COLUMNS, map(_row, audits))}\n'
    for key, title in DIFFERENCES.items():
        text += _section(title, _differences(audits, key))
    if any(result['single'] for _, _, result in audits):
        text += FLOAT32
    return text + _section('Skipped', _skipped(skipped))


def _section(title: str, shown: str) -> str:
    return f'\n## {title}\n\n{shown}\n' if shown else ''


def _totals(audits: Sequence[Audit]) -> str:
    results = [result for _, _, result in audits]
    precision, recall = _scores(results)
    both = sum(result['both'] for result in results)
    neither = sum(result['neither'] for result in results)
    undecided = sum(result['undecided'] for result in results)
    count = len({name for name, _, _ in audits})
    return (
        f'**{count} configs, {len(results)} runs: precision {precision}, recall '
        f'{recall}** over {both + neither} decided tensors, {both} of them '
        f'invariant by both; {undecided} undecided.\n'
    )


def _scores(results: Sequence[dict]) -> tuple[str, str]:
    """Precision and recall of what the structure says, over several audits."""
    both = sum(result['both'] for result in results)
    false = sum(len(result['only_structure']) for result in results)
    missed = sum(len(result['only_proof']) for result in results)
    return _ratio(both, both + false), _ratio(both, both + missed)


def _ratio(part: int, whole: int) -> str:
    return f'{part / whole:.4f}'.rstrip('0').ljust(3, '0') if whole else '–'


def _row(audit: Audit) -> tuple[object, ...]:
    name, mode, result = audit
    summary = result['summary']
    note = ' ¹' if result['single'] else ''
    return (
        name.removesuffix('.py') + note,
        mode,
        f'{summary["weights"] / 1e6:.1f} M',
        summary['layers'],
        summary['invariant_layers'],
        f'{summary["share_of_weights"]:.1%}',
        *_scores([result]),
        result['undecided'],
        f'{result["seconds"]:.0f}',
    )


def _differences(audits: Sequence[Audit], key: str) -> str:
    rows = [
        (name, f'`{item["name"]}`', item['reason'], item['proof']['reason'])
        for name, _, result in audits
        for item in result[key]
    ]
    return table(('config', 'parameter', 'structure', 'proof'), rows)


def _skipped(skipped: Sequence[Audit]) -> str:
    rows = [(name, mode, _brief(result['skipped'])) for name, mode, result in skipped]
    return table(('config', 'norms', 'reason'), rows)


def _brief(reason: str) -> str:
    """The beginning of a reason, without HTML and paths of this installation."""
    return plain(re.sub(r'\S*/\S+\.py: |^[\w.]*Error: ', '', reason)[:200])
