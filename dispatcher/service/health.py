"""Whether a process lives and can do its work now: what `/healthz` and `/readyz` say.

`/healthz` is about what a restart helps against and asks nobody, so that neither a database that is away nor much work
makes it fail or wait. `/readyz` is about all that is needed.
"""

import asyncio

from sqlalchemy import select

from dispatcher.engine.vitals import Condition
from dispatcher.errors import ConfigurationError, SchemaError, StoreUnavailable
from dispatcher.store.deployment import Deployment
from dispatcher.store.migrate import check

#: How long the database may take to answer, in seconds.
PATIENCE_S = 2.0


def liveness(condition: Condition) -> tuple[bool, str]:
    """Whether the process lives, its dispatcher (if it has one) included, and `ok` or what is wrong."""
    return not condition.hung, "; ".join(condition.hung) or "ok"


async def readiness(deployment: Deployment, condition: Condition | None = None) -> tuple[bool, dict[str, str]]:
    """Whether the database answers, its schema fits, and the dispatcher in this process, where there is one, works;
    and for each `ok` or what is wrong.
    """
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
    if condition is not None:
        findings["dispatcher"] = "; ".join((*condition.hung, *condition.failing)) or "ok"
    return all(finding == "ok" for finding in findings.values()), findings
