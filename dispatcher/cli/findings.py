"""`dispatcher doctor`: one look that says what is wrong, and what to do about it."""

import asyncio
import json
import sys
from dataclasses import asdict

from dispatcher import logs
from dispatcher.cli.printing import print_json, print_table
from dispatcher.errors import ConfigurationError
from dispatcher.service.doctor import Finding, examine
from dispatcher.settings import load


def examine_and_print(*, as_json: bool) -> int:
    """Prints every finding; 1 when one is not as it should be."""
    logs.configure("console", "error", sys.stderr.buffer)
    try:
        settings = load()
    except ConfigurationError as error:
        found = [Finding("settings", ok=False, detail=str(error), remedy="`dispatcher settings` says what each takes")]
    else:
        found = asyncio.run(examine(settings))
    if as_json:
        print_json(json.dumps([asdict(finding) for finding in found], ensure_ascii=False))
    else:
        print_table(
            found,
            (
                ("", lambda finding: "ok" if finding.ok else "FAILED"),
                ("CHECK", lambda finding: finding.check),
                ("FOUND", lambda finding: finding.detail),
                ("WHAT TO DO", lambda finding: "" if finding.ok else finding.remedy),
            ),
        )
    return 0 if all(finding.ok for finding in found) else 1
