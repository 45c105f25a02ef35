"""Settings of `jobs.plan`: the machine that a run would have."""

from pydantic import Field

from pipeline.settings.base import AboveZero, NotNegative, Positive, Settings, Share


class PlanSettings(Settings):
    """What can't be seen from here: the machine, its network, its price."""

    device: str = ""
    """GPU of a worker, by CUDA's name (A100-SXM, H100 SXM); empty: measure one that is here."""
    mfu: Share = Field(default=0.3, gt=0.0)
    """Share of the GPU's peak to expect where nothing is measured; base on an H100: 0.25 to 0.3."""
    memory_gigabytes: AboveZero | None = None
    """Memory of a worker's device; null: that of the device here, or no limit."""
    workers_per_node: Positive = 8
    """Workers on a node, which share its network."""
    network_gigabytes: AboveZero = 25.0
    """Gigabytes a second that a node sends to others (400 Gbit/s: 50; 10 Gbit/s: 1.25)."""
    local_gigabytes: AboveZero = 200.0
    """Gigabytes a second of an all-reduce inside a node (NVLink: 200; PCIe: 20; CPUs: 2)."""
    storage_gigabytes: AboveZero = 1.0
    """Gigabytes a second that a node writes to run.storage."""
    node_failure_hours: AboveZero = 10000.0
    """Mean hours between two failures of one node (published fleets: 8,000 to 50,000)."""
    hourly_price: NotNegative = 0.0
    """Price of one worker for one hour; 0: no cost is computed."""
    corpus_gigabytes: NotNegative = 0.0
    """Gigabytes of text that will be prepared; 0: those of the finished shards."""
