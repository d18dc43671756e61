"""What a front end may call, and nothing else."""

from dataclasses import dataclass

from sluice.catalog import Catalog
from sluice.config.settings import Server
from sluice.engine import Engine
from sluice.errors import InvalidRequest
from sluice.frontends.regions import Regions
from sluice.health import Health
from sluice.telemetry.switches import Switches

MAX_TENANT = 128


@dataclass(frozen=True, slots=True)
class Services:
    engine: Engine
    catalog: Catalog
    health: Health
    regions: Regions
    switches: Switches  # trace and log settings, changeable while serving
    limits: Server
    tenant_header: str = ""  # a header or metadata key, in lower case; empty = there are no tenants

    def tenant(self, value: str) -> str:
        """A tenant's name as it was sent."""
        if len(value) > MAX_TENANT:
            raise InvalidRequest(f"{self.tenant_header}: longer than {MAX_TENANT} characters")
        return value
