"""Trouble is said once, until it is over."""

import logging

import pytest

from sluice.telemetry.complaints import Complaint


def test_once_and_once_more_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice")
    complaint = Complaint(logging.getLogger("sluice.test"))
    complaint.over("nothing was wrong")
    complaint.raised("full")
    complaint.raised("full")
    complaint.raised("broken")
    complaint.raised("3 of 4", sort="count")
    complaint.raised("4 of 4", sort="count")
    assert complaint.text == "4 of 4"
    complaint.over("well again")
    complaint.over("well again")
    assert complaint.text == ""
    complaint.raised("full")
    assert [record.message for record in caplog.records] == ["full", "broken", "3 of 4", "well again", "full"]
