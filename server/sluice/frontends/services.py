"""What a front end may call, and nothing else."""

from dataclasses import dataclass

from sluice.catalog import Catalog
from sluice.config.settings import Server
from sluice.engine import Engine
from sluice.frontends.regions import Regions
from sluice.health import Health
from sluice.telemetry.switches import Switches


@dataclass(frozen=True, slots=True)
class Services:
    engine: Engine
    catalog: Catalog
    health: Health
    regions: Regions
    switches: Switches  # trace and log settings, changeable while serving
    limits: Server
