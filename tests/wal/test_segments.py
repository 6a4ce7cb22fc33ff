"""Which segments may die."""

from nodedb_node.storage.segments import SegmentBook


def test_segments_die_oldest_first_up_to_the_first_that_is_needed() -> None:
    book = SegmentBook()
    book.close_segment(3, {0: 10, 2: 5}, 100)
    book.close_segment(4, {0: 20, 2: 5}, 100)
    book.close_segment(5, {0: 20, 1: 7, 2: 5}, 100)
    assert book.bytes == 300
    assert book.dead_before({}, 6) == 3
    assert book.dead_before({0: 10}, 6) == 3
    assert book.dead_before({0: 10, 2: 5}, 6) == 4
    assert book.dead_before({0: 19, 1: 7, 2: 5}, 6) == 4
    assert book.dead_before({0: 20, 1: 6, 2: 9}, 6) == 5
    assert book.dead_before({0: 20, 1: 7, 2: 5}, 6) == 6
    book.forget_before(5)
    assert book.dead_before({}, 6) == 5
    assert book.bytes == 100
