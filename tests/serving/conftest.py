import pytest
import served


@pytest.fixture
def one_signature(monkeypatch):
    """Exports one signature, not six, where what is beside them is asked."""
    served.with_signatures(monkeypatch, "classify")
