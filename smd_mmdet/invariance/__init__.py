"""Which parameters of a model are scale-invariant, why, and a numeric proof.

A parameter w is scale-invariant if L(kw) = L(w) for every k > 0; only then do the
equations of :mod:`smd_mmdet.theory` describe it. Two independent answers are given:

* :func:`find_scale_invariant` observes one forward pass in train mode and walks its
  autograd graph from the parameters to the loss. For every tensor it keeps the
  degree d with which the tensor scales when one parameter is multiplied by k > 0
  (value → k^d · value). Convolutions add the degrees of input and weight,
  normalization sets them to 0, a sum of terms of different degree or an operation
  that is not homogeneous ends the parameter's case. What reaches the loss with
  degree 0 is invariant. The graph does not depend on the values in it, so dead
  activations or a batch without positives change nothing.
* :func:`verify_scale_invariance` scales the parameters of a float64 copy and
  compares losses and gradients, whatever the structure says.

:func:`find_dependents` tells which biases and running statistics have to follow a
weight that is rescaled.

Only torch is needed. Parameters, buffers, gradients, random generators and training
flags are left exactly as they were.
"""

from .dependents import Dependents, find_dependents
from .findings import ScaleInvariance
from .proof import ScaleProof, verify_scale_invariance
from .structure import find_scale_invariant
from .undisturbed import kept_rng

__all__ = [
    'Dependents',
    'ScaleInvariance',
    'ScaleProof',
    'find_dependents',
    'find_scale_invariant',
    'kept_rng',
    'verify_scale_invariance',
]
