"""The checkpoints of a comparison."""

from pipeline.comparing.subjects import short_names


def test_names_are_the_shortest_that_differ():
    paths = ["/runs/a/export", "/runs/b/export", "/x/rbt3", "models:/nezha@champion"]
    assert list(short_names(paths).values()) == [
        "a/export",
        "b/export",
        "rbt3",
        "nezha@champion",
    ]
    versions = ["models:/nezha/1", "models:/nezha/2"]
    assert list(short_names(versions).values()) == ["nezha/1", "nezha/2"]
    assert list(short_names(["/x/random", "random"]).values()) == ["x/random", "random"]
