# SPDX-License-Identifier: Apache-2.0
"""The image demo: a small class-conditional diffusion model on real handwritten digits.

Everything here runs in NumPy: the network and the feature classifier (`network`), the real images
and the Frechet distance (`frechet`), the float64 reference trajectory (`reference`), the comparison
of solvers (`compare`) and its pictures (`pictures`). ``fewstep demo image`` runs it all;
``tools/train_digits.py`` in the repository trains the shipped weights.
"""
