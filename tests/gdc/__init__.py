"""A stand-in for the GDC, for tests: real HTTP on the loopback interface."""

from tests.gdc.faults import Fault
from tests.gdc.listing import Listed, listed, listed_without_data, made_up_name
from tests.gdc.report import Record
from tests.gdc.server import StandIn

__all__ = [
    "Fault",
    "Listed",
    "Record",
    "StandIn",
    "listed",
    "listed_without_data",
    "made_up_name",
]
