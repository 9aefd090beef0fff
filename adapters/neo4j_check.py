"""What `perdure doctor` asks: is Neo4j there, and which one."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from perdure.errors import ConfigError, NoAnswer
from perdure.wire.dependencies import Neo4jOptions


async def check(options: Neo4jOptions) -> str:
    """Connect, ask for 1, and tell what server it is, in a line. Raises subclasses of Unavailable, and ConfigError."""
    module = await asyncio.to_thread(load_driver)
    from perdure.adapters.neo4j_errors import diagnose

    _host, _port, address = module.address_of(options.uri)
    seconds = (options.connect_timeout_ms + options.acquire_timeout_ms) / 1000
    holder = module.DriverHolder(options, seconds)
    try:
        async with asyncio.timeout(seconds), holder.lease() as driver:
            session = driver.session(database=options.database, default_access_mode="READ")
            try:
                tx = await session.begin_transaction()
                summary = await (await tx.run("RETURN 1")).consume()
                await tx.rollback()
            finally:
                await module.drop_session(session)
    except TimeoutError as exc:
        raise NoAnswer(f"neo4j: {address} did not answer within {seconds:g} s; look at neo4j.uri") from exc
    except Exception as exc:
        reason = await diagnose(exc, options, False)
        if reason is None:
            raise
        raise reason from exc
    finally:
        await holder.close()
    protocol = ".".join(str(part) for part in summary.server.protocol_version)
    return f"{summary.server.agent}, Bolt {protocol}, database {options.database}, at {address}"


def load_driver() -> Any:
    """The module that needs the driver. Raises ConfigError without it."""
    try:
        return import_module("perdure.adapters.neo4j_driver")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "neo4j":
            raise
        raise ConfigError("neo4j: its driver is not installed; install perdure[neo4j]") from error
