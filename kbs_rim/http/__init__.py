"""aiohttp: guest protocols, administration, audit."""
