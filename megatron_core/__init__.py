"""The library behind the stages; see ``docs/architecture.md`` for the layers."""
