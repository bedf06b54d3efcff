"""What writes those pages of docs/ that rest on experiments.

Every study is a module, started with ``python -m`` in the root folder of a checkout:

``python -m studies.reproduction``
    The paper's claims on small models, docs/reproduction.md.
    ``bash tools/reproduce.sh`` starts it in an environment that it sets up first.
``python -m studies.real_images``
    The same on nuclei and on images of COCO, docs/real_images.md.
``python -m studies.fall``
    Whether the score falls as Δ climbs in a long second stage, docs/fall.md.
``python -m studies.control``
    What setting the angular update does, docs/control_evidence.md.
``python -m studies.zoo``
    MMDetection's shipped configs, audited, docs/zoo.md.
``python -m studies.optimizers``
    Which optimizers the theory covers, with their share of the zoo, docs/optimizers.md.
``python -m studies.recipes``
    The angular updates of known recipes, docs/recipes.md and smd_mmdet/recipes.json.
``python -m studies.check_power``
    What ``smd check`` finds on walks whose truth is known, docs/checks_power.md.
``python -m studies.reliability``
    What befalls runs, and what they survive, docs/reliability.md.

Each has ``--help``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Two of the studies use what the tests share: simulated walks, and a tiny model.
if str(ROOT / 'tests') not in sys.path:
    sys.path.append(str(ROOT / 'tests'))
