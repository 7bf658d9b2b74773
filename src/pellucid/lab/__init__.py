"""Why the Transformer is as it is, shown by running it: claims of the papers as experiments of minutes."""

from pellucid.lab.catalogue import NAMES, find
from pellucid.lab.experiment import Experiment, Measured, Verdict
from pellucid.lab.running import Outcome, run

__all__ = ["NAMES", "Experiment", "Measured", "Outcome", "Verdict", "find", "run"]
