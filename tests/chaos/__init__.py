"""The whole system as processes under fire: `make chaos MINUTES=60`. The faults are those of docs/reliability.md."""
