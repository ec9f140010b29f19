import pytest

from runtime.plan import Plan
from tests.runtime.export import cases


@pytest.fixture(scope="session")
def trained() -> cases.Trained:
    """Weights over the attention layers of the UNet and the text encoder."""
    return cases.weights(cases.small())


@pytest.fixture(scope="session")
def plan(trained: cases.Trained) -> Plan:
    """The plan that these weights are of."""
    return cases.a_plan(trained)
