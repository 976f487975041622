import pytest

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.options import seconds


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("1.5m", 90), ("12h", 43200), ("7d", 604800), ("2w", 1209600)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-1", "1y", "1 day"])
def test_no_durations(text: str) -> None:
    with pytest.raises(PytestNixosError, match="not a duration"):
        seconds(text)
