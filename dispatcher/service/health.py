"""Whether a process can do its work now: what `/readyz` says."""

import asyncio

from sqlalchemy import select

from dispatcher.errors import ConfigurationError, SchemaError, StoreUnavailable
from dispatcher.store.deployment import Deployment
from dispatcher.store.migrate import check

#: How long the database may take to answer, in seconds.
PATIENCE_S = 2.0


async def readiness(deployment: Deployment) -> tuple[bool, dict[str, str]]:
    """Whether the database answers and its schema fits, and for each of the two `ok` or what is wrong."""
    findings = {"database": "ok", "schema": "ok"}
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with deployment.database.read() as connection:
                await connection.execute(select(1))
            file = deployment.database.url.file
            if file is not None and not file.exists():
                # Open connections go on with a deleted file, and what they write is lost with them.
                findings["database"] = f"the file {file.name} is gone; stop, and put it back"
            await check(deployment.database)
    except (TimeoutError, StoreUnavailable) as error:
        findings |= {
            "database": str(error) or f"did not answer within {PATIENCE_S:g} s",
            "schema": "unknown while the database does not answer",
        }
    except ConfigurationError:
        # Who asks need not be the operator, and the refusal may name users and databases.
        findings |= {
            "database": "refuses the connection; `dispatcher doctor` says why",
            "schema": "unknown while the database refuses",
        }
    except SchemaError as error:
        findings["schema"] = str(error)
    return all(finding == "ok" for finding in findings.values()), findings
