"""The spec ends the program."""

import sys

from lorac import Experiment, Images

experiment = Experiment(name="exits", base="base", data=Images("pictures"))
sys.exit(3)
