"""Do tuned hyperparameters transfer between architectures, and once tuned, does the architecture matter?"""

__version__ = "0.1.0"
