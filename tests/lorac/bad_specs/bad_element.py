"""One element of a tuple is wrong, and a single text is given for a tuple."""

from lorac import Experiment, Images, Outputs, Samples

experiment = Experiment(
    name="elements",
    base="base",
    data=Images("pictures"),
    samples=Samples(
        prompts=(
            "a cat",
            7,
            "a dog\nwith a line break",
        ),
    ),
    outputs=Outputs(tags="style"),
)
