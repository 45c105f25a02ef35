"""Workers that do not see the disk of the command, as on nodes with disks of their own."""

from contextlib import contextmanager

from pipeline.cluster import remote_disk


def hide_the_disk(monkeypatch, scratch):
    """No worker sees offered folders; copies go into `scratch`."""
    offered = remote_disk.offered

    @contextmanager
    def unseen(folder, *given, **named):
        with offered(folder, *given, **named) as offer:
            yield offer._replace(token=f"{offer.token}-elsewhere", scratch=str(scratch))

    monkeypatch.setattr(remote_disk, "may_have_other_nodes", lambda: True)
    monkeypatch.setattr(remote_disk, "offered", unseen)
