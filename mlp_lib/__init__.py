"""Do tuned hyperparameters transfer between architectures, and once tuned, does the architecture matter?"""

import os

__version__ = "0.1.0"

# MKL, which multiplies torch's matrices, may otherwise choose a kernel by where a matrix lies in memory (seen on an AMD
# processor), so that a member's bits would depend on its place in the stack. It reads this once, at its first product.
# Intel oneMKL Developer Guide, "Obtaining Numerically Reproducible Results".
os.environ.setdefault("MKL_CBWR", "AUTO")
